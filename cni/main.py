# SPDX-License-Identifier: Apache-2.0
"""Answer one call in this process, where no daemon answers.

    python -I -m cni.main flatmesh < conf.json        with the CNI_* variables set

Installed clients of every version start it by this command, so the module must keep its name.
It gives the same answers as the daemon, from the same files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cni.config.call import CniCall
from cni.config.request import MAX_STDIN
from cni.handle import answered, handle
from cni.host import PluginHost, host_from_environment

if TYPE_CHECKING:
    from ipam.address_recovery import LivingAttachment


def host_of_process() -> PluginHost:
    """This host, which looks for living pods when the address store is new."""
    host = host_from_environment(os.environ)

    def find() -> Iterable[LivingAttachment]:
        from cni.pod.living import find_living  # noqa: PLC0415 - 10 ms, which only a new store costs

        return find_living(host.subnet_file)

    return replace(host, find_living=find)


def main() -> int:
    """Answer one call; returns the exit status."""
    plugin = Path(sys.argv[1] if len(sys.argv) > 1 else sys.argv[0]).name
    stdin = b"" if sys.stdin is None or os.isatty(0) else sys.stdin.buffer.read(MAX_STDIN + 1)
    host = host_of_process()
    response = handle(CniCall(plugin, os.environ, stdin), host)
    sys.stdout.buffer.write(response.stdout)
    sys.stdout.buffer.flush()
    answered(response, host)
    return response.status


if __name__ == "__main__":
    sys.exit(main())
