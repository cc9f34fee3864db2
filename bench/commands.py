# SPDX-License-Identifier: Apache-2.0
"""`flatmesh bench`: how fast pods talk here, beside what others make.

Imported by every `flatmesh` command, so that it imports click alone; what measures is imported
when it is needed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from base.command_line import explained
from base.paths import CNI_BIN_DIR

ROUNDS, SECONDS, PINGS, CALLS = 7, 1, 1.0, 8
QUICK_ROUNDS, QUICK_PINGS, QUICK_CALLS = 1, 0.2, 3
QUICK_ONLY = ("vxlan",)
TIME_LIMIT = 540  # seconds: ten minutes less what taking down and drawing need
FILE = click.Path(path_type=Path, dir_okay=False)


@explained(
    "flatmesh bench",
    "flatmesh bench --quick",
    "flatmesh bench --only vxlan --save results",
    "flatmesh bench --between node1,node2",
    exits={
        0: "all goals met",
        1: "a goal missed, or a figure without a sample; or it failed, and one line says why",
    },
)
@click.group("bench", invoke_without_command=True)
@click.option(
    "--only", multiple=True, metavar="BACKEND", help="And its baselines; may be repeated."
)
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"Samples per figure.  [{ROUNDS}]")
@click.option("--seconds", type=click.IntRange(1, 3600), help=f"Per throughput run.  [{SECONDS}]")
@click.option(
    "--time-limit",
    type=click.IntRange(1),
    default=TIME_LIMIT,
    show_default=True,
    help="No further round begins that would end later; seconds.",
)
@click.option("--quick", is_flag=True, help="One round of vxlan in half a minute; judges nothing.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write bench.json, bench.svg and bench.png there.",
)
@click.option(
    "--update",
    type=FILE,
    metavar="README.md",
    help="Rewrite its section, and docs/bench/ beside it.",
)
@click.option(
    "--from",
    "source",
    type=FILE,
    metavar="bench.json",
    help="Measure nothing: show this run again.",
)
@click.option(
    "--between", metavar="HOST1,HOST2", help="Measure between two hosts that run flatmesh."
)
@click.option(
    "--shell",
    default="ssh",
    show_default=True,
    help="With --between: how a command is run on a host; both are appended to it.",
)
@click.option(
    "--flatmesh",
    default="flatmesh",
    show_default=True,
    help="With --between: the command on the hosts.",
)
@click.option(
    "--underlay",
    default="",
    help="With --between: HOST2's address there.  [that of its default route]",
)
@click.option(
    "--serve-options", default="", help="With --between: options of `flatmesh bench serve` there."
)
@click.option("--name", default="bench", show_default=True, help="Begins the names of labs.")
@click.pass_context
def bench_group(
    context: click.Context,
    only: tuple[str, ...],
    rounds: int | None,
    seconds: int | None,
    time_limit: int,
    quick: bool,
    save: Path | None,
    update: Path | None,
    source: Path | None,
    between: str | None,
    shell: str,
    flatmesh: str,
    underlay: str,
    serve_options: str,
    name: str,
) -> None:
    """Measure how fast pods talk on this machine, beside what others make.

    Every backend that can run here, two hosts each as network namespaces; beside each what is made
    by hand, and flanneld and the reference CNI plugins where they are installed. All are measured
    in turn, round by round: throughput of 1 and 4 TCP streams, 64-byte datagrams, round trips, ADD
    and DEL. Takes less than ten minutes; the machine should do nothing else.
    """
    if context.invoked_subcommand is not None:
        return
    from bench.suite import between as real_hosts
    from bench.suite import outcome, run, subjects
    from bench.suite.rounds import RoundSettings

    unknown = sorted(set(only) - set(subjects.BACKENDS))
    if unknown:
        known = ", ".join(subjects.BACKENDS)
        raise click.BadParameter(f"{unknown[0]!r}: there are {known}", param_hint="--only")
    outcome.check(save, update)
    how_long = RoundSettings(
        rounds or (QUICK_ROUNDS if quick else ROUNDS),
        seconds or SECONDS,
        QUICK_PINGS if quick else PINGS,
        float(time_limit),
    )
    calls = QUICK_CALLS if quick else CALLS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is taken down
    if source is not None:
        result = outcome.RunResult.read(source)
    elif between is not None:
        result = real_hosts.measured(
            real_hosts.BetweenSettings(
                host_pair(between),
                how_long,
                calls,
                shell,
                flatmesh,
                tuple(serve_options.split()),
                underlay,
            )
        )
    else:
        chosen = only or (QUICK_ONLY if quick else ())
        settings = run.RunSettings(how_long, calls, chosen, name, judged=not quick)
        result = run.measured(settings)
    outcome.publish(result, save, update)
    sys.exit(result.exit_status)


def host_pair(text: str) -> tuple[str, str]:
    """Read `HOST1,HOST2`. Raises BadParameter."""
    first, _, second = text.partition(",")
    if not first or not second or "," in second:
        raise click.BadParameter("give two hosts: HOST1,HOST2", param_hint="--between")
    return first, second


@explained("flatmesh bench serve --listen")
@bench_group.command()
@click.option("--conflist", type=FILE, help="Of the CNI plugins.  [the installed one]")
@click.option(
    "--cni-bin",
    type=click.Path(path_type=Path),
    default=CNI_BIN_DIR,
    show_default=True,
    help="Where the CNI plugins are.",
)
@click.option("--underlay", default="", help="This host's address.  [the default route's]")
@click.option("--listen", is_flag=True, help="Be the receiving end.")
@click.option("--calls", default=CALLS, show_default=True, help="ADDs and DELs to time.")
def serve(conflist: Path | None, cni_bin: Path, underlay: str, listen: bool, calls: int) -> None:
    """Be one end of a measurement, until standard input ends; --between starts it."""
    from bench.suite.serve import serve as be_one_end

    be_one_end(conflist, cni_bin, underlay, listen=listen, calls=calls)
