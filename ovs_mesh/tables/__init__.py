# SPDX-License-Identifier: Apache-2.0
"""The tables of obr0's pipeline, a module each; `ovs_mesh.flows.TABLES` has their order."""
