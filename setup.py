"""The C extension: only what has to be compiled; everything else is in setup.cfg.

It is optional: where there is no compiler or no Python header, the install succeeds without
it, and the udp backend says why it is off.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "flannel._udp",
            sources=[
                "flannel/_udp.c",
                "flannel/udp_checksum.c",
                "flannel/udp_coalesce.c",
                "flannel/udp_fragment.c",
                "flannel/udp_icmp.c",
                "flannel/udp_peers.c",
                "flannel/udp_plane.c",
                "flannel/udp_receive.c",
                "flannel/udp_segment.c",
                "flannel/udp_transmit.c",
            ],
            depends=[
                "flannel/udp_checksum.h",
                "flannel/udp_coalesce.h",
                "flannel/udp_counters.h",
                "flannel/udp_fragment.h",
                "flannel/udp_icmp.h",
                "flannel/udp_packet.h",
                "flannel/udp_peers.h",
                "flannel/udp_plane.h",
                "flannel/udp_receive.h",
                "flannel/udp_segment.h",
                "flannel/udp_transmit.h",
            ],
            # -O3: the checksum's loop is worth vector instructions
            extra_compile_args=["-std=gnu11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            optional=True,
        )
    ]
)
