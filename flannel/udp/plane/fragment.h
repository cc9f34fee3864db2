/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IPv4 fragmentation (RFC 791), for packets without DF that are larger than their path takes.
 */
#ifndef FLANNEL_UDP_FRAGMENT_H
#define FLANNEL_UDP_FRAGMENT_H

#include "packet.h"

enum { IPV4_MAX_HEADER = 60 };

struct fragmenter {
    const struct packet *packet;
    uint32_t size;   /* payload bytes of a fragment but the last: a multiple of 8 */
    uint32_t offset; /* payload bytes that are done */
};

/* Get ready to cut into packets of at most `limit` bytes; false when the packet may not be
 * fragmented (IPv6, DF) or `limit` leaves no room. */
bool fragment_start(struct fragmenter *fragmenter, const struct packet *packet, uint32_t limit);

/* Write the next fragment's header to `header` (IPV4_MAX_HEADER bytes) and say where its payload
 * is. Returns the bytes of header, 0 after the last fragment. */
size_t fragment_next(struct fragmenter *fragmenter, uint8_t *header, const uint8_t **payload,
                     size_t *payload_length);

#endif
