# SPDX-License-Identifier: Apache-2.0
"""A process of pretending workers: ETCD-URL, nodes, how many of them fall silent at SIGUSR1."""

import asyncio
import sys

from bench.scheduler.whole import pretend

asyncio.run(pretend(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
