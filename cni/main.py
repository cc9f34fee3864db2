"""The executable's work in its own process: where no daemon answers, and `python -m cni.main`.

    python -I -m cni.main flatmesh < conf.json        with the CNI_* variables set

It answers the same as the daemon, from the same files; it imports as little as it can.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cni.handle import handle
from cni.host import from_environment
from cni.request import MAX_STDIN, Call


def main() -> int:
    """Answer one call; the exit status."""
    plugin = Path(sys.argv[1] if len(sys.argv) > 1 else sys.argv[0]).name
    stdin = b"" if sys.stdin is None or os.isatty(0) else sys.stdin.buffer.read(MAX_STDIN + 1)
    response = handle(Call(plugin, os.environ, stdin), from_environment(os.environ))
    sys.stdout.buffer.write(response.stdout)
    sys.stdout.buffer.flush()
    return response.status


if __name__ == "__main__":
    sys.exit(main())
