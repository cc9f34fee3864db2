/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Longest-prefix match by binary search. Prefixes may lie within each other; flannel/udp/table.py
 * cuts the longer ones out of the shorter, which leaves disjoint ranges. So one search finds the
 * longest match: 13 steps for 5,000 hosts.
 */
#include "peers.h"

#include <errno.h>
#include <stdlib.h>

static bool below(struct address6 a, struct address6 b) {
    return a.high < b.high || (a.high == b.high && a.low < b.low);
}

static bool sound(const struct peer_table *table) {
    for (uint32_t i = 0; i < table->range4_count; i++) {
        const struct range4 *range = &table->ranges4[i];
        if (range->first > range->last || range->peer < OWN_HOST || range->peer == NO_PEER ||
            range->peer >= (int64_t)table->peer_count ||
            (i && range->first <= table->ranges4[i - 1].last))
            return false;
    }
    for (uint32_t i = 0; i < table->range6_count; i++) {
        const struct range6 *range = &table->ranges6[i];
        if (below(range->last, range->first) || range->peer < OWN_HOST ||
            range->peer == NO_PEER || range->peer >= (int64_t)table->peer_count ||
            (i && !below(table->ranges6[i - 1].last, range->first)))
            return false;
    }
    for (uint32_t i = 0; i < table->peer_count; i++) {
        const struct peer *peer = &table->peers[i];
        if (peer->by_ipv6 ? !peer->ipv6.sin6_port : !peer->ipv4.sin_port)
            return false;
    }
    return true;
}

static void *copy(const void *from, size_t count, size_t size) {
    void *to = calloc(count + 1, size); /* never 0 bytes, whose result may be NULL */
    if (to && count)
        memcpy(to, from, count * size);
    return to;
}

struct peer_table *peers_make(const struct peer *peers, uint32_t peer_count,
                              const struct range4 *ranges4, uint32_t range4_count,
                              const struct range6 *ranges6, uint32_t range6_count) {
    struct peer_table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->peer_count = peer_count;
    table->range4_count = range4_count;
    table->range6_count = range6_count;
    table->peers = copy(peers, peer_count, sizeof *peers);
    table->ranges4 = copy(ranges4, range4_count, sizeof *ranges4);
    table->ranges6 = copy(ranges6, range6_count, sizeof *ranges6);
    if (table->peers && table->ranges4 && table->ranges6 && sound(table))
        return table;
    errno = table->peers && table->ranges4 && table->ranges6 ? EINVAL : ENOMEM;
    peers_free(table);
    return NULL;
}

void peers_free(struct peer_table *table) {
    if (!table)
        return;
    int error = errno;
    free(table->peers);
    free(table->ranges4);
    free(table->ranges6);
    free(table);
    errno = error;
}

int32_t peers_find(const struct peer_table *table, uint8_t version, const uint8_t *address) {
    if (version == 4) {
        uint32_t wanted = read32(address), low = 0, high = table->range4_count;
        while (low < high) { /* the first range that doesn't end before it */
            uint32_t middle = low + (high - low) / 2;
            if (table->ranges4[middle].last < wanted)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < table->range4_count && table->ranges4[low].first <= wanted)
            return table->ranges4[low].peer;
        return NO_PEER;
    }
    struct address6 wanted = {read64(address), read64(address + 8)};
    uint32_t low = 0, high = table->range6_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (below(table->ranges6[middle].last, wanted))
            low = middle + 1;
        else
            high = middle;
    }
    if (low < table->range6_count && !below(wanted, table->ranges6[low].first))
        return table->ranges6[low].peer;
    return NO_PEER;
}
