# SPDX-License-Identifier: Apache-2.0
"""Docker's Engine API 1.41 for the cluster: what the docker client and docker-py call.

Theory of operation: requests are answered from the view of etcd that each manager keeps, and a
change is one transaction in etcd that compares what the client has read. The leader reconciles from
etcd, so no request needs to reach it: every manager serves all of the API, nothing is forwarded,
and an election delays no answer. A change is answered when this manager's own view has it, so that
the same client's next read shows it.
"""
