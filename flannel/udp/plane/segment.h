/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From what a TUN device hands out to packets for the wire: a super-packet of up to 64 KiB is
 * cut into segments, a checksum left open is completed.
 */
#ifndef FLANNEL_UDP_SEGMENT_H
#define FLANNEL_UDP_SEGMENT_H

#include "packet.h"

enum { MAX_HEADERS = 256 }; /* bytes of network and transport header together */

/* The segments of one super-packet, one after the other. */
struct segmenter {
    const struct packet *packet;
    uint32_t transport; /* offset of the TCP or UDP header */
    uint32_t headers;   /* bytes of all headers */
    uint32_t size;      /* payload bytes of a segment but the last */
    uint32_t offset;    /* payload bytes that are done */
    uint32_t number;    /* of the next segment, from 0 */
    uint64_t pseudo;    /* sum of the pseudo-header without the length */
    bool tcp;
};

/* Get ready to cut; false when the recipe doesn't fit the packet. */
bool segment_start(struct segmenter *segmenter, const struct vnet_header *vnet,
                   const struct packet *packet);

/* Write the next segment's headers to `headers` (MAX_HEADERS bytes) and say where its payload
 * is. Returns the bytes of headers, 0 after the last segment. */
size_t segment_next(struct segmenter *segmenter, uint8_t *headers, const uint8_t **payload,
                    size_t *payload_length);

/* Complete the checksum of a packet with VNET_NEEDS_CSUM; false when it lies outside. */
bool complete_checksum(const struct vnet_header *vnet, const struct packet *packet);

#endif
