# SPDX-License-Identifier: Apache-2.0
"""Toy controllers: all that adding one takes is a module like this and a line in the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError


class ToyError(FlatmeshError):
    """The toy can't be applied."""


@dataclass(slots=True)
class ToyController:
    """Writes all lease keys into a file, a line each: fits `agent.controller.Controller`.

    Fails while a file `broken` is beside it.
    """

    file: Path
    name: str = "toy"
    depends_on: Change = Change.LEASES
    rereads_on: Change = Change.NONE
    after: tuple[str, ...] = ("overlay",)
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = False
    worker: str = "toy"

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> str:
        del dirty
        return "".join(f"{key}\n" for key in sorted(inputs.leases))

    def apply(self, desired: str) -> Report:
        if self.file.with_name("broken").exists():
            raise ToyError("the toy is broken")
        if self.file.exists() and self.file.read_text() == desired:
            return Report()
        self.file.write_text(desired)
        return Report(1)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        current = self.file.read_text() if self.file.exists() else ""
        lines = [f"# write {self.file}"]
        return lines if current != self.desired(inputs, Dirty(whole=True)) else []

    def status(self) -> str | None:
        return None

    def samples(self) -> list[MetricSample]:
        return [MetricSample("toy_leases", "Leases in the toy's file", self._lines(), gauge=True)]

    def _lines(self) -> int:
        return len(self.file.read_text().splitlines()) if self.file.exists() else 0

    def close(self) -> None:
        pass

    def cleanup(self) -> list[str]:
        self.file.unlink(missing_ok=True)
        return []
