/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subnets of the cluster, and the underlay addresses of the hosts that lease them.
 *
 * A table never changes once it is in use; a changed lease makes a new one. Readers (the worker
 * threads) hold it for one batch of packets, see peers_enter(); the writer puts the new one in
 * place and frees the old when no reader has it any more. No thread waits for a lock.
 */
#ifndef FLANNEL_UDP_PEERS_H
#define FLANNEL_UDP_PEERS_H

#include <netinet/in.h>
#include <stdatomic.h>

#include "packet.h"

enum {
    NO_PEER = -1,  /* nobody leases the address */
    OWN_HOST = -2, /* this host does */
};

/* A host. Packets go to its IPv4 address unless it has none or we have none. */
struct peer {
    struct sockaddr_in ipv4;   /* sin_port 0: it has no such address */
    struct sockaddr_in6 ipv6;  /* sin6_port 0: it has no such address */
    bool by_ipv6;              /* which of them we send to */
    _Atomic uint32_t path_mtu; /* bytes of an outer packet, as ICMP told us; 0: not known */
    _Atomic int64_t known_until; /* for how long that is believed, ms of CLOCK_MONOTONIC */
};

/* Addresses first..last belong to a peer, or OWN_HOST. */
struct range4 {
    uint32_t first, last;
    int32_t peer;
};

/* An IPv6 address as two numbers. */
struct address6 {
    uint64_t high, low;
};

struct range6 {
    struct address6 first, last;
    int32_t peer;
    uint32_t unused;
};

struct peer_table {
    uint32_t peer_count, range4_count, range6_count;
    struct peer *peers;
    struct range4 *ranges4; /* ascending, disjoint: longest prefixes are cut out of shorter ones */
    struct range6 *ranges6;
};

/* Copy ranges and peers into one table; NULL with errno: EINVAL when the ranges are not ascending
 * and disjoint or name a peer that isn't there, ENOMEM. */
struct peer_table *peers_make(const struct peer *peers, uint32_t peer_count,
                              const struct range4 *ranges4, uint32_t range4_count,
                              const struct range6 *ranges6, uint32_t range6_count);

void peers_free(struct peer_table *table);

/* The peer (its index) that leases an address: `address` has 4 or 16 bytes. Logarithmic. */
int32_t peers_find(const struct peer_table *table, uint8_t version, const uint8_t *address);

/* A thread's view of the current table. */
struct reader {
    _Atomic(struct peer_table *) using;
};

/* Hold the current table. */
static inline struct peer_table *peers_enter(struct reader *reader,
                                             _Atomic(struct peer_table *) *current) {
    struct peer_table *table;
    do { /* a writer that has not seen our mark has changed `current` before we look again */
        table = atomic_load(current);
        atomic_store(&reader->using, table);
    } while (table != atomic_load(current));
    return table;
}

static inline void peers_leave(struct reader *reader) {
    atomic_store_explicit(&reader->using, NULL, memory_order_release);
}

#endif
