/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors to pods: what a router in our place would say about a packet it can't forward.
 */
#ifndef FLANNEL_UDP_ICMP_H
#define FLANNEL_UDP_ICMP_H

#include "counters.h"
#include "packet.h"

enum icmp_error {
    NET_UNREACHABLE, /* RFC 792 type 3 code 0; RFC 4443 type 1 code 0 */
    TIME_EXCEEDED,   /* type 11; type 3 */
    TOO_BIG,         /* type 3 code 4 with the MTU, RFC 1191; type 2 */
};

enum {
    ICMP_ROOM = 1240,       /* bytes that a message takes at most */
    ICMP_PER_SECOND = 1000, /* of one worker thread, as net.ipv4.icmp_msgs_per_sec */
    ICMP_BURST = 50,
};

/* How one worker thread sends them. */
struct icmp {
    int ipv4_fd, ipv6_fd; /* raw sockets; -1: don't send */
    int64_t refilled;     /* ms of CLOCK_MONOTONIC */
    uint32_t budget;      /* errors that may be sent now */
};

/* Whether a packet may be answered with an error at all (RFC 1122 section 3.2.2, RFC 4443
 * section 2.4): not when it is one itself, or came from or went to no single host. */
bool icmp_may_answer(const struct packet *about);

/* Write the message (without an IP header) to `message`, ICMP_ROOM bytes; returns its length.
 * `mtu` is for TOO_BIG: bytes of the largest packet that passes. */
size_t icmp_message(enum icmp_error error, const struct packet *about, uint32_t mtu,
                    uint8_t *message);

/* Tell the packet's sender, if that may be done and the rate allows it. */
void icmp_answer(struct icmp *icmp, enum icmp_error error, const struct packet *about,
                 uint32_t mtu, struct counters *counters);

#endif
