"""The C extension of the udp backend; everything else is in setup.cfg.

It is optional: where there is no compiler or no Python header, the install succeeds without
it, and the udp backend reports that its C part is missing.
"""

from pathlib import Path

from setuptools import Extension, setup

setup(
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
    ]
)
