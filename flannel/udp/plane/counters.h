/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the data plane counts. Each worker thread has a set of its own, in which only it writes;
 * readers add them up. "tx" is from pods to the underlay, "rx" from the underlay to pods.
 */
#ifndef FLANNEL_UDP_COUNTERS_H
#define FLANNEL_UDP_COUNTERS_H

#include <stdint.h>

#define FOR_EACH_COUNTER(X) \
    X(tx_reads, "packets and super-packets read from the TUN device") \
    X(tx_packets, "packets sent to peers") \
    X(tx_bytes, "their bytes, without outer headers") \
    X(tx_datagrams, "messages that carried them: up to 64 packets each") \
    X(tx_fragments, "fragments made of packets without DF") \
    X(rx_messages, "messages received: up to 64 packets each") \
    X(rx_packets, "packets in them") \
    X(rx_bytes, "their bytes, without outer headers") \
    X(rx_writes, "packets and super-packets written to the TUN device") \
    X(rx_checksum_wrong, "TCP and UDP checksums found wrong; left to the receiver to drop") \
    X(icmp_sent, "ICMP errors sent to pods") \
    X(icmp_withheld, "ICMP errors not sent, because of their rate or of what they answer") \
    X(drop_tx_malformed, "from a pod: no sound IPv4 or IPv6 packet, or a recipe that doesn't fit") \
    X(drop_tx_no_peer, "from a pod: no host leases the destination's subnet") \
    X(drop_tx_multicast, "from a pod: destination is a group; a tunnel has no groups") \
    X(drop_tx_ttl, "from a pod: TTL or hop limit used up") \
    X(drop_tx_too_big, "from a pod: larger than the path takes, and may not be fragmented") \
    X(drop_tx_refused, "the kernel would not send: no route to the host, firewall, no memory") \
    X(drop_rx_malformed, "from a peer: no sound IPv4 or IPv6 packet, or a wrong header checksum") \
    X(drop_rx_truncated, "from a peer: larger than any packet") \
    X(drop_rx_unknown_source, "from a peer: no host leases the inner source address") \
    X(drop_rx_spoofed, "from an underlay address that doesn't own the inner source's subnet") \
    X(drop_rx_not_ours, "from a peer: destination is not in this host's subnets") \
    X(drop_rx_ttl, "from a peer: TTL or hop limit used up") \
    X(drop_rx_refused, "the TUN device would not take it: down, or no memory")

#define FIELD(name, help) uint64_t name;
struct counters {
    FOR_EACH_COUNTER(FIELD)
};
#undef FIELD

#endif
