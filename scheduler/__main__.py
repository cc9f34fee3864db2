# SPDX-License-Identifier: Apache-2.0
"""`python -m scheduler` is `flatmesh-scheduler`."""

from scheduler.main import main

main()
