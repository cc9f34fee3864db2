/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the Python module `flannel.udp._plane`.
 */
#ifndef FLANNEL_UDP_MODULE_H
#define FLANNEL_UDP_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The class DataPlane: worker threads between TUN queues and UDP sockets (module_plane.c). */
extern PyType_Spec plane_spec;

/* Functions without state: segment(), coalesce(), fragment(), icmp_error() (module_packets.c). */
extern PyMethodDef packet_functions[];

#endif
