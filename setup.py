# SPDX-License-Identifier: Apache-2.0
"""The C extension of the udp backend, and the commit; everything else is in setup.cfg.

It is optional: where there is no compiler or no Python header, the install succeeds without
it, and the udp backend reports that its C part is missing.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))  # build frontends don't (PEP 517)

from base.version import COMMIT_FILE, UNKNOWN, commit


class BuildWithCommit(build_py):  # type: ignore[misc] # it has no types
    """Adds the file that `--version` reads the commit from, where git tells it."""

    def run(self) -> None:
        """Build, then write the file."""
        super().run()
        package = Path(self.build_lib, "base")
        if package.is_dir() and commit() != UNKNOWN:  # an editable install builds no package
            (package / COMMIT_FILE.name).write_text(commit() + "\n")


setup(
    cmdclass={"build_py": BuildWithCommit},
    ext_modules=[
        Extension(
            "flannel.udp._plane",
            sources=sorted(map(str, Path("flannel/udp/plane").rglob("*.c"))),
            depends=sorted(map(str, Path("flannel/udp/plane").rglob("*.h"))),
            include_dirs=["flannel/udp/plane"],
            # -O3: the compiler then uses vector instructions for the checksum
            extra_compile_args=[
                *("-std=gnu11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"),
                *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
            ],
            extra_link_args=["-Wl,-z,relro,-z,now,-z,noexecstack"],
            optional=True,
        )
    ],
)
