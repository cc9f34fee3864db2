# SPDX-License-Identifier: Apache-2.0
"""The driver `containerd`: real images, through the Container Runtime Interface (CRI v1).

The pod's network is containerd's own CNI configuration, as in Kubernetes. A network namespace of
ours would have to be given to containerd as a sandbox without network (CRI has no field for it),
and restarts of the host would leave two owners of one address. So `--cni-conf-dir` is not used
by this driver: containerd's `conf_dir` is.
"""
