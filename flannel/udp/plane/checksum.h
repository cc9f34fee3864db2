/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Internet checksum (RFC 1071): the one's complement sum of 16-bit words.
 *
 * Sums are kept unfolded in 64 bits and in the machine's byte order; the one's complement sum
 * doesn't care (RFC 1071, section 2B), so a folded sum is stored as it is. Sums of parts may be
 * added when every part but the last has an even length.
 */
#ifndef FLANNEL_UDP_CHECKSUM_H
#define FLANNEL_UDP_CHECKSUM_H

#include <stdbool.h>

#include "packet.h"

/* `sum` plus the words of `length` bytes; an odd last byte counts as one followed by zero. */
uint64_t checksum_add(const uint8_t *data, size_t length, uint64_t sum);

/* Fold a sum to the 16 bits that are stored, not complemented. */
static inline uint16_t checksum_fold(uint64_t sum) {
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)sum;
}

/* The word that a 16-bit number adds to a sum. */
static inline uint64_t checksum_word(uint32_t number) {
    return __builtin_bswap16((uint16_t)number);
}

/* Sum of the pseudo-header for `length` bytes of transport header and payload (RFC 793 section
 * 3.1, RFC 8200 section 8.1). */
static inline uint64_t checksum_pseudo(const struct packet *packet, uint8_t protocol,
                                       uint32_t length) {
    size_t addresses = packet->version == 4 ? 8 : 32;
    uint64_t sum = checksum_word(protocol) + checksum_word(length >> 16) + checksum_word(length);
    return checksum_add(source_of(packet), addresses, sum);
}

static inline void checksum_store(uint8_t *where, uint16_t folded) {
    memcpy(where, &folded, sizeof folded);
}

/* Make the IPv4 header's own checksum right. */
static inline void checksum_ipv4(uint8_t *header, size_t length) {
    checksum_store(header + 10, 0);
    checksum_store(header + 10, (uint16_t)~checksum_fold(checksum_add(header, length, 0)));
}

/* Whether the IPv4 header's checksum is right. */
static inline bool checksum_ipv4_right(const uint8_t *header, size_t length) {
    return checksum_fold(checksum_add(header, length, 0)) == 0xffff;
}

#endif
