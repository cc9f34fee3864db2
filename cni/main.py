"""Answer one call in this process, where no daemon answers.

    python -I -m cni.main flatmesh < conf.json        with the CNI_* variables set

Installed clients of every version start it by this command, so the module must keep its name.
It gives the same answers as the daemon, from the same files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cni.config.call import CniCall
from cni.config.request import MAX_STDIN
from cni.handle import handle
from cni.host import host_from_environment


def main() -> int:
    """Answer one call; returns the exit status."""
    plugin = Path(sys.argv[1] if len(sys.argv) > 1 else sys.argv[0]).name
    stdin = b"" if sys.stdin is None or os.isatty(0) else sys.stdin.buffer.read(MAX_STDIN + 1)
    response = handle(CniCall(plugin, os.environ, stdin), host_from_environment(os.environ))
    sys.stdout.buffer.write(response.stdout)
    sys.stdout.buffer.flush()
    return response.status


if __name__ == "__main__":
    sys.exit(main())
