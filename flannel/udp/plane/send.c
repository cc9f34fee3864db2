/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages leave by sendmmsg(), each with UDP_SEGMENT: the kernel carries it down its stack as
 * one, and the card (or the kernel, last thing) cuts it. Where a device can't do that, packets
 * are sent one by one.
 *
 * Too large a packet (RFC 1191, RFC 8201): outer packets have DF set, so the kernel returns
 * EMSGSIZE once a router has told it, and knows the path's MTU. The inner packet's sender is
 * told with ICMP; a packet that may be fragmented is, as a router would do it.
 */
#define _GNU_SOURCE
#include "transmit.h"

#include <errno.h>
#include <netinet/udp.h>
#include <time.h>
#include <unistd.h>

#include "fragment.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h, Linux 4.18 */
#endif

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint32_t largest_packet(const struct transmitter *tx, const struct peer *peer) {
    uint32_t mtu = tx->underlay_mtu ? tx->underlay_mtu : MAX_PACKET;
    uint32_t path = atomic_load_explicit(&peer->path_mtu, memory_order_relaxed);
    if (path && path < mtu &&
        now_ms() < atomic_load_explicit(&peer->known_until, memory_order_relaxed))
        mtu = path;
    uint32_t overhead = peer->by_ipv6 ? OVERHEAD_IPV6 : OVERHEAD_IPV4;
    return mtu > overhead ? mtu - overhead : 0;
}

/* The kernel said EMSGSIZE: ask it for the path's MTU. */
static void learn_path_mtu(const struct transmitter *tx, struct peer *peer) {
    bool ipv6 = peer->by_ipv6;
    const struct sockaddr *to =
        ipv6 ? (struct sockaddr *)&peer->ipv6 : (struct sockaddr *)&peer->ipv4;
    int mtu = 0, fd = socket(to->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof mtu;
    if (fd < 0)
        return;
    if (connect(fd, to, ipv6 ? sizeof peer->ipv6 : sizeof peer->ipv4) == 0 &&
        getsockopt(fd, ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, ipv6 ? IPV6_MTU : IP_MTU, &mtu, &size) ==
            0 &&
        mtu > OVERHEAD_IPV6 && (tx->underlay_mtu == 0 || (uint32_t)mtu < tx->underlay_mtu)) {
        atomic_store_explicit(&peer->path_mtu, (uint32_t)mtu, memory_order_relaxed);
        atomic_store_explicit(&peer->known_until, now_ms() + PATH_MTU_LIFE, memory_order_relaxed);
    }
    close(fd);
}

static int address_call(const struct transmitter *tx, struct peer *peer, struct msghdr *call) {
    call->msg_name = peer->by_ipv6 ? (void *)&peer->ipv6 : (void *)&peer->ipv4;
    call->msg_namelen = peer->by_ipv6 ? sizeof peer->ipv6 : sizeof peer->ipv4;
    return peer->by_ipv6 ? tx->ipv6_fd : tx->ipv4_fd;
}

static void count_sent(struct transmitter *tx, const struct message *message) {
    tx->counters->tx_datagrams++;
    tx->counters->tx_packets += message->packets;
    tx->counters->tx_bytes += message->bytes;
}

/* One packet, one call. Returns 0 or an errno; only EMSGSIZE is left to the caller to count. */
static int send_one(struct transmitter *tx, struct peer *peer, struct iovec *parts,
                    size_t count) {
    struct msghdr call = {.msg_iov = parts, .msg_iovlen = count};
    int fd = address_call(tx, peer, &call);
    ssize_t sent;
    do
        sent = sendmsg(fd, &call, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        count_sent(tx, &(struct message){.packets = 1, .bytes = (uint32_t)sent});
        return 0;
    }
    if (errno != EMSGSIZE)
        tx->counters->drop_tx_refused++;
    return errno;
}

void send_too_big(struct transmitter *tx, struct peer *peer, const struct packet *packet) {
    uint32_t limit = largest_packet(tx, peer);
    struct fragmenter fragmenter;
    uint8_t header[IPV4_MAX_HEADER];
    const uint8_t *payload;
    size_t length, size;
    if (!fragment_start(&fragmenter, packet, limit)) {
        tx->counters->drop_tx_too_big++;
        icmp_answer(&tx->icmp, TOO_BIG, packet, limit, tx->counters);
        return;
    }
    while ((size = fragment_next(&fragmenter, header, &payload, &length))) {
        struct iovec parts[2] = {{header, size}, {(uint8_t *)payload, length}};
        if (send_one(tx, peer, parts, 2) == EMSGSIZE) {
            learn_path_mtu(tx, peer); /* it has just become smaller: the next one will do */
            tx->counters->drop_tx_too_big++;
            return;
        }
        tx->counters->tx_fragments++;
    }
}

/* The same for a packet in parts. */
static void parts_too_big(struct transmitter *tx, struct peer *peer, const struct iovec *parts,
                          size_t count) {
    struct packet packet;
    size_t length = 0;
    for (size_t i = 0; i < count && length + parts[i].iov_len <= sizeof tx->scratch; i++) {
        memcpy(tx->scratch + length, parts[i].iov_base, parts[i].iov_len);
        length += parts[i].iov_len;
    }
    if (parse_packet(tx->scratch, length, &packet))
        send_too_big(tx, peer, &packet);
}

static void send_alone(struct transmitter *tx, struct peer *peer, struct iovec *parts,
                       size_t count, uint32_t length) {
    if (length <= largest_packet(tx, peer)) {
        if (send_one(tx, peer, parts, count) != EMSGSIZE)
            return;
        learn_path_mtu(tx, peer);
    }
    if (length > largest_packet(tx, peer))
        parts_too_big(tx, peer, parts, count);
    else /* the kernel says no and doesn't say how large it may be */
        tx->counters->drop_tx_too_big++;
}

/* A message that was refused as a whole: packet by packet. */
static void send_apart(struct transmitter *tx, struct message *message) {
    struct iovec *parts = tx->parts + message->first_part;
    for (uint32_t i = 0; i < message->parts;) {
        uint32_t first = i, bytes = 0;
        while (i < message->parts && bytes < message->size)
            bytes += (uint32_t)parts[i++].iov_len;
        send_alone(tx, message->peer, parts + first, i - first, bytes);
    }
}

static void message_refused(struct transmitter *tx, struct message *message, int error) {
    bool many = message->packets > 1;
    if (many && (error == EIO || error == EOPNOTSUPP || error == ENOPROTOOPT))
        tx->no_segmentation = true; /* this path's device can't do checksums */
    if (error == EMSGSIZE || (many && (error == EINVAL || tx->no_segmentation)))
        send_apart(tx, message);
    else
        tx->counters->drop_tx_refused += message->packets;
}

static void prepare_call(struct transmitter *tx, uint32_t number) {
    struct message *message = &tx->messages[number];
    struct msghdr *call = &tx->calls[number].msg_hdr;
    *call = (struct msghdr){.msg_iov = tx->parts + message->first_part,
                            .msg_iovlen = message->parts};
    address_call(tx, message->peer, call);
    if (message->packets == 1)
        return;
    call->msg_control = tx->controls[number].space;
    call->msg_controllen = sizeof tx->controls[number].space;
    struct cmsghdr *control = CMSG_FIRSTHDR(call);
    uint16_t size = (uint16_t)message->size;
    control->cmsg_level = IPPROTO_UDP;
    control->cmsg_type = UDP_SEGMENT;
    control->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(control), &size, sizeof size);
}

void send_messages(struct transmitter *tx, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        prepare_call(tx, i);
    for (uint32_t i = 0; i < count;) {
        bool ipv6 = tx->messages[i].peer->by_ipv6;
        uint32_t end = i + 1; /* one socket's messages at a time */
        while (end < count && tx->messages[end].peer->by_ipv6 == ipv6)
            end++;
        if (tx->single || (tx->no_segmentation && tx->messages[i].packets > 1)) {
            send_apart(tx, &tx->messages[i++]);
            continue;
        }
        int sent = sendmmsg(ipv6 ? tx->ipv6_fd : tx->ipv4_fd, tx->calls + i, end - i, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            message_refused(tx, &tx->messages[i++], errno);
            continue;
        }
        for (int k = 0; k < sent; k++)
            count_sent(tx, &tx->messages[i++]);
    }
}
