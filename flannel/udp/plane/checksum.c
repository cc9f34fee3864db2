/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loop of the Internet checksum: every payload byte passes through it once, so it is
 * the only arithmetic here that shows in a profile. 32-bit words are added up in 64 bits (no
 * carry can be lost below 16 GiB), which compilers turn into vector instructions at -O3.
 */
#include "checksum.h"

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
/* compiled twice; which one runs is chosen by the processor when the library is loaded */
__attribute__((target_clones("avx2", "default")))
#endif
static uint64_t add_words(const uint8_t *data, size_t words, uint64_t sum) {
    for (size_t i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, data + 4 * i, sizeof word);
        sum += word;
    }
    return sum;
}

uint64_t checksum_add(const uint8_t *data, size_t length, uint64_t sum) {
    sum = add_words(data, length / 4, sum);
    data += length & ~(size_t)3;
    if (length & 2) {
        uint16_t word;
        memcpy(&word, data, sizeof word);
        sum += word;
        data += 2;
    }
    if (length & 1)
        sum += *data; /* the low byte comes first on a little-endian machine */
    return sum;
}
