/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From packets of the wire to super-packets for a TUN device: consecutive segments of a flow
 * become one, so that the kernel's stack is walked once for up to 64 KiB.
 */
#ifndef FLANNEL_UDP_COALESCE_H
#define FLANNEL_UDP_COALESCE_H

#include <sys/uio.h>

#include "packet.h"

enum {
    MAX_FLOWS = 32,     /* open at a time; with more, the oldest is written out */
    MAX_SEGMENTS = 128, /* of one TCP super-packet */
    MAX_DATAGRAMS = 64, /* of one UDP super-packet: UDP_MAX_SEGMENTS of older kernels */
};

/* One super-packet in the making. `parts` are: vnet header, first packet, further payloads. */
struct flow {
    struct packet first;
    uint32_t hash;
    uint32_t transport; /* offset of the transport header */
    uint32_t headers;   /* bytes of all headers */
    uint32_t size;      /* payload bytes of each segment but the last; 0: nothing may follow */
    uint32_t payload;   /* bytes so far */
    uint32_t segments;  /* 0: this place is free */
    uint16_t id_step;   /* from one segment's IPv4 id to the next: 0 or 1 */
    uint8_t last_flags; /* TCP flags of the last segment */
    bool verified;      /* whether the first packet's checksum was found right */
    struct vnet_header vnet;
    struct iovec parts[2 + MAX_SEGMENTS];
};

/* What is said of a finished packet. */
struct written {
    size_t length;     /* bytes, without the vnet header */
    uint32_t segments; /* in it */
    uint32_t hash;     /* of its flow; 0 when it has no ports */
};

/* Takes one finished packet in parts, the vnet header first. */
typedef void write_packet(void *context, const struct iovec *parts, int count,
                          const struct written *what);

struct coalescer {
    bool udp; /* whether the TUN device takes VNET_GSO_UDP_L4 */
    unsigned next; /* place to use when none is free */
    unsigned open;
    uint64_t bad_checksums; /* segments left alone as their transport checksum is wrong */
    write_packet *write;
    void *context;
    struct flow flows[MAX_FLOWS];
};

/* Take a packet in. It must stay as it is until coalesce_flush(); its headers are written to. */
void coalesce_add(struct coalescer *coalescer, const struct packet *packet);

/* Write everything that is still held. */
void coalesce_flush(struct coalescer *coalescer);

#endif
