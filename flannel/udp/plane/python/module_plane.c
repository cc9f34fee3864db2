/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The class `DataPlane`: worker threads, seen from Python.
 *
 * Python opens the descriptors and says who the peers are; packets are moved by threads that
 * never touch the interpreter.
 */
#include "module.h"

#include <errno.h>

#include "plane.h"

/* -- peer tables ------------------------------------------------------------------------ */

/* As struct.pack("=4s16sHBx") makes it; an address of zeros: it has none. */
struct packed_peer {
    uint8_t ipv4[4], ipv6[16];
    uint16_t port;
    uint8_t by_ipv6, unused;
};
_Static_assert(sizeof(struct packed_peer) == 24, "as Python packs it");
_Static_assert(sizeof(struct range4) == 12, "as Python packs it");
_Static_assert(sizeof(struct range6) == 40, "as Python packs it");

static void unpack_peer(struct peer *peer, const struct packed_peer *packed) {
    static const uint8_t none[16];
    *peer = (struct peer){.by_ipv6 = packed->by_ipv6 != 0};
    if (memcmp(packed->ipv4, none, 4) != 0) {
        peer->ipv4.sin_family = AF_INET;
        peer->ipv4.sin_port = htons(packed->port);
        memcpy(&peer->ipv4.sin_addr, packed->ipv4, 4);
    }
    if (memcmp(packed->ipv6, none, 16) != 0) {
        peer->ipv6.sin6_family = AF_INET6;
        peer->ipv6.sin6_port = htons(packed->port);
        memcpy(&peer->ipv6.sin6_addr, packed->ipv6, 16);
    }
}

static struct peer_table *table_from(PyObject *arguments) {
    Py_buffer packed, ranges4, ranges6;
    if (!PyArg_ParseTuple(arguments, "y*y*y*", &packed, &ranges4, &ranges6))
        return NULL;
    size_t count = (size_t)packed.len / sizeof(struct packed_peer);
    struct peer *peers = calloc(count + 1, sizeof *peers);
    struct peer_table *table = NULL;
    errno = peers ? EINVAL : ENOMEM;
    if (peers && (size_t)packed.len == count * sizeof(struct packed_peer) &&
        ranges4.len % sizeof(struct range4) == 0 && ranges6.len % sizeof(struct range6) == 0) {
        for (size_t i = 0; i < count; i++) {
            struct packed_peer one;
            memcpy(&one, (const char *)packed.buf + i * sizeof one, sizeof one);
            unpack_peer(&peers[i], &one);
        }
        table = peers_make(peers, (uint32_t)count, ranges4.buf,
                           (uint32_t)(ranges4.len / (Py_ssize_t)sizeof(struct range4)),
                           ranges6.buf,
                           (uint32_t)(ranges6.len / (Py_ssize_t)sizeof(struct range6)));
    }
    free(peers);
    PyBuffer_Release(&packed);
    PyBuffer_Release(&ranges4);
    PyBuffer_Release(&ranges6);
    if (!table && errno == ENOMEM)
        PyErr_NoMemory();
    else if (!table)
        PyErr_SetString(PyExc_ValueError,
                        "peer table: ranges must be ascending and disjoint, and name peers that "
                        "have an address");
    return table;
}

/* -- class DataPlane -------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct plane *plane;
} DataPlane;

static int read_queues(PyObject *list, struct queue *queues, unsigned *count) {
    PyObject *fast = PySequence_Fast(list, "queues: a list of (tun, ipv4, ipv6) descriptors");
    if (!fast)
        return -1;
    Py_ssize_t size = PySequence_Fast_GET_SIZE(fast);
    int result = 0;
    if (size < 1 || size > MAX_QUEUES) {
        PyErr_Format(PyExc_ValueError, "queues: 1 to %d, not %zd", (int)MAX_QUEUES, size);
        result = -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < size; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(fast, i);
        struct queue *queue = &queues[i];
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "queues: each is a tuple (tun, ipv4, ipv6)");
            result = -1;
        } else if (!PyArg_ParseTuple(item, "iii", &queue->tun_fd, &queue->ipv4_fd,
                                     &queue->ipv6_fd)) {
            result = -1;
        }
    }
    Py_DECREF(fast);
    *count = (unsigned)size;
    return result;
}

static PyObject *plane_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"queues", "icmp4", "icmp6", "underlay_mtu", "single",
                            "udp_segmentation", "split", NULL};
    struct settings settings = {.icmp4_fd = -1, .icmp6_fd = -1};
    struct queue queues[MAX_QUEUES];
    unsigned count;
    PyObject *list;
    int single = 0, udp_segmentation = 0, split = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$iiIppp", names, &list,
                                     &settings.icmp4_fd, &settings.icmp6_fd,
                                     &settings.underlay_mtu, &single, &udp_segmentation, &split))
        return NULL;
    if (read_queues(list, queues, &count) < 0)
        return NULL;
    settings.single = single;
    settings.udp_segmentation = udp_segmentation;
    settings.split = split;
    DataPlane *self = (DataPlane *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->plane = plane_make(queues, count, &settings);
    if (!self->plane) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void plane_dealloc(PyObject *object) {
    DataPlane *self = (DataPlane *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->plane) {
        Py_BEGIN_ALLOW_THREADS
        plane_free(self->plane);
        Py_END_ALLOW_THREADS
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *py_start(PyObject *self, PyObject *unused) {
    (void)unused;
    int error = plane_start(((DataPlane *)self)->plane);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *py_stop(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    plane_stop(((DataPlane *)self)->plane);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_set_peers(PyObject *self, PyObject *arguments) {
    struct peer_table *table = table_from(arguments);
    if (!table)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    plane_set_table(((DataPlane *)self)->plane, table);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_find(PyObject *self, PyObject *arguments) {
    Py_buffer address;
    if (!PyArg_ParseTuple(arguments, "y*", &address))
        return NULL;
    PyObject *result = NULL;
    if (address.len == 4 || address.len == 16)
        result = PyLong_FromLong(peers_find(atomic_load(&((DataPlane *)self)->plane->table),
                                            address.len == 4 ? 4 : 6, address.buf));
    else
        PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes");
    PyBuffer_Release(&address);
    return result;
}

static PyObject *py_counters(PyObject *self, PyObject *unused) {
    (void)unused;
    struct counters counters = plane_counters(((DataPlane *)self)->plane);
    PyObject *result = PyDict_New();
#define ENTER(name, help) \
    if (result) { \
        PyObject *value = PyLong_FromUnsignedLongLong(counters.name); \
        if (!value || PyDict_SetItemString(result, #name, value) < 0) \
            Py_CLEAR(result); \
        Py_XDECREF(value); \
    }
    FOR_EACH_COUNTER(ENTER)
#undef ENTER
    return result;
}

static PyObject *py_fileno(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(((DataPlane *)self)->plane->gone_fd);
}

static PyMethodDef plane_methods[] = {
    {"start", py_start, METH_NOARGS, "Start the worker threads."},
    {"stop", py_stop, METH_NOARGS, "End them and wait for them; descriptors stay open."},
    {"set_peers", py_set_peers, METH_VARARGS,
     "set_peers(peers, ranges4, ranges6): put a packed table in place of the current one."},
    {"find", py_find, METH_VARARGS,
     "find(address): number of the peer that leases it, -1 for none, -2 for this host."},
    {"counters", py_counters, METH_NOARGS, "All counters by name."},
    {"fileno", py_fileno, METH_NOARGS, "Readable when a TUN device is gone and its worker ended."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plane_slots[] = {
    {Py_tp_new, plane_new},
    {Py_tp_dealloc, plane_dealloc},
    {Py_tp_methods, plane_methods},
    {Py_tp_doc, "Worker threads between TUN queues and UDP sockets. Descriptors stay the caller's."},
    {0, NULL},
};

PyType_Spec plane_spec = {
    .name = "flannel.udp._plane.DataPlane",
    .basicsize = sizeof(DataPlane),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plane_slots,
};
