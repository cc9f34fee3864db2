/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From pods to peers: the TUN device is read, packets leave as UDP datagrams, many a call.
 */
#ifndef FLANNEL_UDP_TRANSMIT_H
#define FLANNEL_UDP_TRANSMIT_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "counters.h"
#include "icmp.h"
#include "packet.h"
#include "peers.h"

enum {
    READ_ROOM = 10 + MAX_PACKET + 1,       /* bytes: vnet header and the largest packet */
    ARENA_BYTES = 256 << 10,               /* for what is read until it is sent */
    FLUSH_BYTES = 128 << 10,               /* send when so much waits: what the caches hold */
    MAX_MESSAGES = 64,                     /* of one sendmmsg() */
    MAX_PARTS = 1024,                      /* views of all messages together: UIO_MAXIOV */
    HEADERS_BYTES = MAX_PARTS / 2 * 128,   /* for the headers of segments */
    MAX_SEGMENTS_SENT = 64,                /* UDP_MAX_SEGMENTS before Linux 6.9 */
    MAX_MESSAGE_IPV4 = 65507,              /* bytes: 65535 less IPv4 and UDP header */
    MAX_MESSAGE_IPV6 = 65487,              /* kept as if the IPv6 header counted, too */
    PATH_MTU_LIFE = 60 * 1000,             /* ms that a path's MTU is believed */
    OVERHEAD_IPV4 = IPV4_HEADER + UDP_HEADER,
    OVERHEAD_IPV6 = IPV6_HEADER + UDP_HEADER,
};

/* One sendmsg() in the making: packets of one size for one peer, the last may be shorter. */
struct message {
    struct peer *peer;
    uint32_t size;   /* bytes of each packet but the last */
    uint32_t bytes;  /* of all */
    uint32_t packets;
    uint32_t first_part, parts;
    bool closed;     /* a shorter packet came: nothing may follow */
};

/* What messages are views of. There are two, so that the last message can go on growing in one
 * while the other is filled anew. */
struct arena {
    uint32_t used, headers_used;
    uint8_t headers[HEADERS_BYTES];
    uint8_t packets[ARENA_BYTES];
};

struct transmitter {
    int tun_fd, ipv4_fd, ipv6_fd; /* the sockets: -1 when there is none of the family */
    bool single;           /* one packet a call and no vnet header, as flanneld does it */
    bool no_segmentation;  /* the kernel refused UDP_SEGMENT: send packet by packet */
    uint32_t underlay_mtu; /* bytes; 0: not known */
    struct icmp icmp;
    struct counters *counters;
    uint32_t parts_used, message_count;
    uint32_t waiting;      /* bytes to send */
    struct arena *arena;   /* the one in use */
    struct message messages[MAX_MESSAGES];
    struct mmsghdr calls[MAX_MESSAGES];
    struct iovec parts[MAX_PARTS];
    union {
        char space[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } controls[MAX_MESSAGES];
    uint8_t scratch[READ_ROOM];
    struct arena arenas[2];
};

/* Make ready; all but the arenas and counts is set before. */
void transmit_start(struct transmitter *tx);

/* Take in what one read() of the TUN device gave. It must stay as it is until it is sent. */
void transmit_packet(struct transmitter *tx, const struct peer_table *table, uint8_t *buffer,
                     size_t length);

/* Send everything that waits. */
void transmit_flush(struct transmitter *tx);

/* Read and send until nothing is left or a fair share is done. Returns the number of reads, -1
 * with errno when the TUN device is gone. */
int transmit_burst(struct transmitter *tx, const struct peer_table *table);

/* -- send.c: sends what transmit.c has collected ------------------------------------------ */

/* Bytes of the largest packet that reaches the peer, as far as is known. */
uint32_t largest_packet(const struct transmitter *tx, const struct peer *peer);

/* Send the first `count` messages. */
void send_messages(struct transmitter *tx, uint32_t count);

/* A packet larger than the path takes: fragment it where that is allowed, else tell its sender. */
void send_too_big(struct transmitter *tx, struct peer *peer, const struct packet *packet);

#endif
