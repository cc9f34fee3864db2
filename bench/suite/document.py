# SPDX-License-Identifier: Apache-2.0
"""A run as JSON: everything that the table, the chart and the README's section are made from.

format       1
version, commit, started, seconds, arguments, machine, programs
rounds       how many there were
subjects     name, group (flatmesh, baseline, underlay), baselines
figures      name, title, unit, more_is_better
results      figure, subject, median, low, high, samples (one per round, null: it failed)
verdicts     text, subject, figure, baseline, limit, at_least, source, ratio, verdict
judged       whether the run was long enough for verdicts to count
left_out     subject: what it lacks here
errors       measurements that failed
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError
from bench.suite.figures import FIGURES, Samples
from bench.suite.goals import ABSENT, MISSED, Verdict, judge
from bench.suite.subjects import Subject

FORMAT = 1


class DocumentError(FlatmeshError, ValueError):
    """A file that is no result of `flatmesh bench`; one line."""


@dataclass(slots=True)
class RunResult:
    """A run that is over, or one read from a file."""

    about: dict[str, Any]
    """Version, commit, start, seconds, arguments, machine, programs, rounds."""
    subjects: list[dict[str, Any]]
    samples: Samples
    left_out: dict[str, str] = field(default_factory=dict)
    judged: bool = True
    """Whether the run was long enough for its verdicts to count."""

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the goals whose subjects took part."""
        return [verdict for verdict in judge(self.samples) if verdict.verdict != ABSENT]

    @property
    def exit_status(self) -> int:
        """0: no goal was missed, or the run was not to be judged; 1: one was, or figures fail."""
        missed = self.judged and any(v.verdict == MISSED for v in self.verdicts)
        return 1 if missed or self.samples.errors else 0

    def group(self, subject: str) -> str:
        """Return the group of a subject."""
        return next(str(one["group"]) for one in self.subjects if one["name"] == subject)

    def names(self) -> list[str]:
        """Return the names of all subjects, in the order of the tables."""
        return [str(one["name"]) for one in self.subjects]

    def to_json(self) -> str:
        """Return the file's text."""
        results = []
        for (figure, subject), values in self.samples.taken.items():
            spread = self.samples.spread(figure, subject)
            ends = spread._asdict() if spread else dict.fromkeys(("median", "low", "high"))
            short = {key: None if end is None else _short(end) for key, end in ends.items()}
            results.append({"figure": figure, "subject": subject, **short, "samples": values})
        document = {
            "format": FORMAT,
            **self.about,
            "subjects": self.subjects,
            "figures": [asdict(figure) for figure in FIGURES],
            "results": results,
            "verdicts": [_verdict(verdict) for verdict in self.verdicts],
            "judged": self.judged,
            "left_out": self.left_out,
            "errors": self.samples.errors,
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """Read a file. Raises DocumentError, OSError."""
        try:
            document = json.loads(path.read_text())
            if document["format"] != FORMAT:
                raise DocumentError(f"{path}: of another version of flatmesh; measure again")
            samples = Samples(errors=list(document["errors"]))
            for result in document["results"]:
                for value in result["samples"]:
                    samples.add(result["figure"], result["subject"], value)
            made = ("subjects", "figures", "results", "verdicts", "judged", "left_out", "errors")
            about = {key: document[key] for key in document if key not in {"format", *made}}
            return cls(
                about, document["subjects"], samples, document["left_out"], document["judged"]
            )
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise DocumentError(f"{path}: no result of `flatmesh bench`") from None


def described(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Return subjects as the JSON has them."""
    return [
        {"name": one.name, "group": one.group, "baselines": list(one.baselines)} for one in subjects
    ]


def _verdict(verdict: Verdict) -> Mapping[str, Any]:
    goal, ratio = verdict.goal, verdict.ratio
    spread = {key: _short(end) for key, end in ratio._asdict().items()} if ratio else None
    return {
        "text": goal.text,
        **asdict(goal),
        "limit": _short(goal.limit),
        "at_least": goal.at_least,
        "ratio": spread,
        "verdict": verdict.verdict,
    }


def _short(value: float) -> float:
    """Return four significant digits, as samples have."""
    return float(f"{value:.4g}")
