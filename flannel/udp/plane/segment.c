/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation as a network card does it (and as Linux does in tcp_gso_segment() and
 * __udp_gso_segment()): each segment gets a copy of the headers in which only these differ:
 *
 *     IP length, IPv4 id (counts up) and checksum
 *     TCP sequence number; FIN and PSH on the last segment only, CWR on the first only
 *     UDP length
 *     transport checksum
 *
 * The payload is not copied: a segment is a header and a pointer into the super-packet.
 *
 * The kernel leaves the sum of the pseudo-header, with the super-packet's length, in the
 * checksum field. The sum for a segment is computed from it by replacing the length (RFC 1624),
 * so extension headers and routing headers need not be parsed.
 */
#include "segment.h"

#include "checksum.h"

enum { TCP_FLAGS = 13, FIN = 0x01, PSH = 0x08, CWR = 0x80 }; /* offset of the flags, RFC 9293 */

bool segment_start(struct segmenter *segmenter, const struct vnet_header *vnet,
                   const struct packet *packet) {
    uint32_t transport = vnet->csum_start, headers, check;
    uint8_t type = vnet->gso_type & (uint8_t)~VNET_GSO_ECN;
    bool tcp = type == VNET_GSO_TCPV4 || type == VNET_GSO_TCPV6;
    if (!(vnet->flags & VNET_NEEDS_CSUM) || vnet->gso_size == 0 || packet->fragment)
        return false;
    if (tcp ? type != (packet->version == 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6)
            : type != VNET_GSO_UDP_L4)
        return false;
    if (packet->version == 4 &&
        (transport != packet->header || packet->protocol != (tcp ? PROTOCOL_TCP : PROTOCOL_UDP)))
        return false;
    if (transport < packet->header || transport + (tcp ? TCP_HEADER : UDP_HEADER) > packet->length)
        return false;
    if (tcp) {
        uint32_t words = packet->data[transport + 12] >> 4;
        if (words * 4 < TCP_HEADER)
            return false;
        headers = transport + words * 4;
        check = 16;
    } else {
        headers = transport + UDP_HEADER;
        check = 6;
    }
    if (headers > MAX_HEADERS || headers >= packet->length || vnet->csum_offset != check)
        return false;
    uint16_t open;
    memcpy(&open, packet->data + transport + check, sizeof open);
    *segmenter = (struct segmenter){
        .packet = packet,
        .transport = transport,
        .headers = headers,
        .size = vnet->gso_size,
        .pseudo = open + (uint64_t)(uint16_t)~checksum_word(packet->length - transport),
        .tcp = tcp,
    };
    return true;
}

size_t segment_next(struct segmenter *segmenter, uint8_t *headers, const uint8_t **payload,
                    size_t *payload_length) {
    const struct packet *packet = segmenter->packet;
    uint32_t left = packet->length - segmenter->headers - segmenter->offset;
    if (left == 0)
        return 0;
    uint32_t size = left < segmenter->size ? left : segmenter->size;
    uint32_t length = segmenter->headers + size;
    bool first = segmenter->number == 0, last = size == left;
    memcpy(headers, packet->data, segmenter->headers);
    if (packet->version == 4) {
        write16(headers + 2, length);
        write16(headers + 4, read16(headers + 4) + segmenter->number);
        checksum_ipv4(headers, packet->header);
    } else {
        write16(headers + 4, length - IPV6_HEADER);
    }
    uint8_t *transport = headers + segmenter->transport, *check;
    if (segmenter->tcp) {
        write32(transport + 4, read32(transport + 4) + segmenter->offset);
        if (!last)
            transport[TCP_FLAGS] &= (uint8_t)~(FIN | PSH);
        if (!first)
            transport[TCP_FLAGS] &= (uint8_t)~CWR;
        check = transport + 16;
    } else {
        write16(transport + 4, UDP_HEADER + size);
        check = transport + 6;
    }
    const uint8_t *data = packet->data + segmenter->headers + segmenter->offset;
    checksum_store(check, 0);
    uint64_t sum = segmenter->pseudo + checksum_word(length - segmenter->transport);
    sum = checksum_add(transport, segmenter->headers - segmenter->transport, sum);
    uint16_t folded = (uint16_t)~checksum_fold(checksum_add(data, size, sum));
    checksum_store(check, folded == 0 && !segmenter->tcp ? 0xffff : folded);
    segmenter->offset += size;
    segmenter->number++;
    *payload = data;
    *payload_length = size;
    return segmenter->headers;
}

bool complete_checksum(const struct vnet_header *vnet, const struct packet *packet) {
    uint32_t start = vnet->csum_start, check = start + vnet->csum_offset;
    if (start < packet->header || check + 2 > packet->length)
        return false;
    uint64_t sum = checksum_add(packet->data + start, packet->length - start, 0);
    uint16_t folded = (uint16_t)~checksum_fold(sum);
    /* 0 would mean "none" in UDP; in one's complement both say the same */
    checksum_store(packet->data + check, folded == 0 ? 0xffff : folded);
    return true;
}
