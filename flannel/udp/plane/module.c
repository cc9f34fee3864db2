/*
 * The Python face of the udp data plane: `flannel.udp._plane`.
 *
 * Python opens the descriptors and says who the peers are; packets are moved by threads that
 * never touch the interpreter. The pure parts (segment, coalesce, ...) are exported as well, so
 * that tests can hold them against other implementations.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "coalesce.h"
#include "fragment.h"
#include "plane.h"
#include "segment.h"

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

static PyType_Spec plane_spec = {
    .name = "flannel.udp._plane.DataPlane",
    .basicsize = sizeof(DataPlane),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plane_slots,
};

/* -- the pure parts, for tests ---------------------------------------------------------- */

/* Append headers and payload as one bytes object; -1 on error. */
static int append(PyObject *list, const void *head, size_t head_length, const void *tail,
                  size_t tail_length) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(head_length + tail_length));
    if (!bytes)
        return -1;
    memcpy(PyBytes_AS_STRING(bytes), head, head_length);
    if (tail_length)
        memcpy(PyBytes_AS_STRING(bytes) + head_length, tail, tail_length);
    int result = PyList_Append(list, bytes);
    Py_DECREF(bytes);
    return result;
}

/* A copy with exactly the given length, so that sanitizers see every step beyond. */
static uint8_t *copy_of(const Py_buffer *buffer) {
    uint8_t *copy = malloc(buffer->len ? (size_t)buffer->len : 1);
    if (copy)
        memcpy(copy, buffer->buf, (size_t)buffer->len);
    else
        PyErr_NoMemory();
    return copy;
}

static PyObject *py_segment(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer input;
    if (!PyArg_ParseTuple(arguments, "y*", &input))
        return NULL;
    uint8_t *data = copy_of(&input), headers[MAX_HEADERS];
    struct vnet_header vnet;
    struct packet packet;
    struct segmenter segmenter;
    PyObject *list = NULL;
    if (data && (size_t)input.len >= sizeof vnet) {
        memcpy(&vnet, data, sizeof vnet);
        if (parse_packet(data + sizeof vnet, (size_t)input.len - sizeof vnet, &packet)) {
            if (vnet.gso_type == VNET_GSO_NONE) {
                if (!(vnet.flags & VNET_NEEDS_CSUM) || complete_checksum(&vnet, &packet))
                    list = PyList_New(0);
                if (list && append(list, packet.data, packet.length, NULL, 0) < 0)
                    Py_CLEAR(list);
            } else if (segment_start(&segmenter, &vnet, &packet)) {
                const uint8_t *payload;
                size_t length, size;
                list = PyList_New(0);
                while (list && (size = segment_next(&segmenter, headers, &payload, &length)))
                    if (append(list, headers, size, payload, length) < 0)
                        Py_CLEAR(list);
            }
        }
    }
    free(data);
    PyBuffer_Release(&input);
    if (!list && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no sound packet, or a vnet header that doesn't fit it");
    return list;
}

static void append_written(void *context, const struct iovec *parts, int count,
                           const struct written *what) {
    PyObject **list = context;
    if (!*list)
        return;
    PyObject *bytes =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(what->length + sizeof(struct vnet_header)));
    size_t used = 0;
    for (int i = 0; bytes && i < count; i++) {
        memcpy(PyBytes_AS_STRING(bytes) + used, parts[i].iov_base, parts[i].iov_len);
        used += parts[i].iov_len;
    }
    if (!bytes || PyList_Append(*list, bytes) < 0)
        Py_CLEAR(*list);
    Py_XDECREF(bytes);
}

static PyObject *py_coalesce(PyObject *module, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"packets", "udp", NULL};
    (void)module;
    PyObject *packets;
    int udp = 1;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$p", names, &packets, &udp))
        return NULL;
    PyObject *fast = PySequence_Fast(packets, "coalesce() takes a list of packets");
    if (!fast)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    PyObject *list = PyList_New(0);
    uint8_t **copies = calloc((size_t)count + 1, sizeof *copies);
    struct coalescer *coalescer = calloc(1, sizeof *coalescer);
    if (list && copies && coalescer) {
        coalescer->udp = udp;
        coalescer->write = append_written;
        coalescer->context = &list;
        for (Py_ssize_t i = 0; list && i < count; i++) {
            Py_buffer one;
            struct packet packet;
            if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(fast, i), &one, PyBUF_SIMPLE) < 0) {
                Py_CLEAR(list);
                break;
            }
            copies[i] = copy_of(&one);
            if (copies[i] && parse_packet(copies[i], (size_t)one.len, &packet)) {
                coalesce_add(coalescer, &packet);
            } else {
                if (copies[i])
                    PyErr_Format(PyExc_ValueError, "packet %zd is not sound", i);
                Py_CLEAR(list);
            }
            PyBuffer_Release(&one);
        }
        if (list)
            coalesce_flush(coalescer);
    } else {
        Py_CLEAR(list);
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; copies && i < count; i++)
        free(copies[i]);
    free(copies);
    free(coalescer);
    Py_DECREF(fast);
    return list;
}

static PyObject *py_fragment(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer input;
    unsigned limit;
    if (!PyArg_ParseTuple(arguments, "y*I", &input, &limit))
        return NULL;
    uint8_t *data = copy_of(&input), header[IPV4_MAX_HEADER];
    struct packet packet;
    struct fragmenter fragmenter;
    PyObject *list = NULL;
    if (data && parse_packet(data, (size_t)input.len, &packet) &&
        fragment_start(&fragmenter, &packet, limit)) {
        const uint8_t *payload;
        size_t length, size;
        list = PyList_New(0);
        while (list && (size = fragment_next(&fragmenter, header, &payload, &length)))
            if (append(list, header, size, payload, length) < 0)
                Py_CLEAR(list);
    }
    free(data);
    PyBuffer_Release(&input);
    if (!list && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no sound packet that may be fragmented");
    return list;
}

static PyObject *py_icmp_error(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer input;
    int error;
    unsigned mtu = 0;
    if (!PyArg_ParseTuple(arguments, "iy*|I", &error, &input, &mtu))
        return NULL;
    uint8_t *data = copy_of(&input), message[ICMP_ROOM];
    struct packet packet;
    PyObject *result = NULL;
    if (data && error >= NET_UNREACHABLE && error <= TOO_BIG &&
        parse_packet(data, (size_t)input.len, &packet)) {
        if (icmp_may_answer(&packet)) {
            size_t length = icmp_message((enum icmp_error)error, &packet, mtu, message);
            result = PyBytes_FromStringAndSize((char *)message, (Py_ssize_t)length);
        } else {
            result = Py_NewRef(Py_None);
        }
    }
    free(data);
    PyBuffer_Release(&input);
    if (!result && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no sound packet, or an unknown error");
    return result;
}

static PyMethodDef module_methods[] = {
    {"segment", py_segment, METH_VARARGS,
     "segment(super_packet): packets for the wire from a vnet header and what follows it."},
    {"coalesce", (PyCFunction)(void (*)(void))py_coalesce, METH_VARARGS | METH_KEYWORDS,
     "coalesce(packets, *, udp=True): super-packets, each with its vnet header."},
    {"fragment", py_fragment, METH_VARARGS,
     "fragment(packet, limit): IPv4 fragments of at most `limit` bytes."},
    {"icmp_error", py_icmp_error, METH_VARARGS,
     "icmp_error(error, packet, mtu=0): an ICMP message; None when there must be none."},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module) {
    PyObject *help = PyDict_New();
#define ENTER(name, text) \
    if (help) { \
        PyObject *value = PyUnicode_FromString(text); \
        if (!value || PyDict_SetItemString(help, #name, value) < 0) \
            Py_CLEAR(help); \
        Py_XDECREF(value); \
    }
    FOR_EACH_COUNTER(ENTER)
#undef ENTER
    int result = help ? PyModule_AddObjectRef(module, "COUNTERS", help) : -1;
    Py_XDECREF(help);
    if (result < 0 || PyModule_AddIntConstant(module, "NET_UNREACHABLE", NET_UNREACHABLE) < 0 ||
        PyModule_AddIntConstant(module, "TIME_EXCEEDED", TIME_EXCEEDED) < 0 ||
        PyModule_AddIntConstant(module, "TOO_BIG", TOO_BIG) < 0 ||
        PyModule_AddIntConstant(module, "OWN_HOST", OWN_HOST) < 0)
        return -1;
    return 0;
}

static int prepare_module(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &plane_spec, NULL);
    if (!type || PyModule_AddObjectRef(module, "DataPlane", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return add_constants(module);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, prepare_module}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_plane",
    .m_doc = "The udp backend's packet mover.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__plane(void) {
    return PyModuleDef_Init(&module);
}
