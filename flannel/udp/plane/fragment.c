/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fragment's header is the packet's with length, offset and "more" set. The second and later
 * fragments carry only options that have the "copied" flag; the others are overwritten with
 * no-operations, so that the header keeps its length (as Linux does in ip_options_fragment()).
 *
 * The packet may be a fragment itself: offsets are added to its own, and "more" is left out only
 * in the last fragment of a packet that has no "more".
 */
#include "fragment.h"

#include "checksum.h"

enum { DF = 0x4000, MORE = 0x2000, OFFSET = 0x1fff, OPTION_END = 0, OPTION_NOP = 1, COPIED = 0x80 };

bool fragment_start(struct fragmenter *fragmenter, const struct packet *packet, uint32_t limit) {
    if (packet->version != 4 || read16(packet->data + 6) & DF)
        return false;
    if (limit < (uint32_t)packet->header + 8)
        return false;
    *fragmenter = (struct fragmenter){
        .packet = packet,
        .size = (limit - packet->header) & ~7u,
    };
    return true;
}

static void blank_options(uint8_t *header, size_t length) {
    for (size_t i = IPV4_HEADER; i < length && header[i] != OPTION_END;) {
        size_t size = header[i] == OPTION_NOP || i + 1 == length ? 1 : header[i + 1];
        if (size == 0 || i + size > length || (size == 1 && header[i] != OPTION_NOP))
            size = length - i; /* malformed: receivers stop parsing here, too */
        if (!(header[i] & COPIED))
            memset(header + i, OPTION_NOP, size);
        i += size;
    }
}

size_t fragment_next(struct fragmenter *fragmenter, uint8_t *header, const uint8_t **payload,
                     size_t *payload_length) {
    const struct packet *packet = fragmenter->packet;
    uint32_t left = packet->length - packet->header - fragmenter->offset;
    if (left == 0)
        return 0;
    uint32_t size = left < fragmenter->size ? left : fragmenter->size;
    uint32_t word = read16(packet->data + 6);
    uint32_t offset = (word & OFFSET) + fragmenter->offset / 8;
    memcpy(header, packet->data, packet->header);
    write16(header + 2, packet->header + size);
    write16(header + 6, (word & MORE) | (size < left ? MORE : 0) | (offset & OFFSET));
    if (fragmenter->offset)
        blank_options(header, packet->header);
    checksum_ipv4(header, packet->header);
    *payload = packet->data + packet->header + fragmenter->offset;
    *payload_length = size;
    fragmenter->offset += size;
    return packet->header;
}
