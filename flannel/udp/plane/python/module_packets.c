/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the data plane that only compute, as Python functions: tests compare them with
 * other implementations.
 */
#include "module.h"

#include "coalesce.h"
#include "fragment.h"
#include "icmp.h"
#include "segment.h"

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

PyMethodDef packet_functions[] = {
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
