# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.scheduler [placement|whole|large]`: figures, one run a line."""

from __future__ import annotations

import asyncio
import sys

import click

from bench.scheduler.placement import all_rates
from bench.scheduler.whole import measure


@click.command(context_settings={"show_default": True})
@click.argument("what", type=click.Choice(["placement", "whole"]), default="placement")
@click.option("--nodes", default=1000, help="Simulated nodes.")
@click.option("--tasks", default=30_000, help="Tasks that run before single ones are measured.")
@click.option("--per-service", default=100, help="Tasks of each service.")
@click.option("--silent", default=10, help="Nodes that fall silent at the end.")
def main(what: str, nodes: int, tasks: int, per_service: int, silent: int) -> None:
    """Measure the scheduler."""
    if what == "placement":
        for rate in all_rates():
            click.echo(rate.line)
        return
    outcome = asyncio.run(measure(nodes, tasks, per_service=per_service, silent=silent))
    click.echo(outcome.line)


if __name__ == "__main__":
    sys.exit(main())
