/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With UDP_GRO a socket hands out up to 64 datagrams of one sender and size as one message.
 * Each datagram is a packet. It has to be well-formed, to come from the underlay address of the
 * host that leases its source's subnet (else any sender that reaches our port could use any pod's
 * address), and to be for a pod of this host. The packets that pass are coalesced over the whole
 * batch and written.
 */
#define _GNU_SOURCE
#include "receive.h"

#include <errno.h>
#include <netinet/udp.h>
#include <unistd.h>

#include "checksum.h"

#ifndef UDP_GRO
#define UDP_GRO 104 /* linux/udp.h, Linux 5.0 */
#endif

enum { BATCHES_IN_A_ROW = 8, LARGE_MESSAGE = 8192 };

static void write_to_tun(void *context, const struct iovec *parts, int count,
                         const struct written *what) {
    struct receiver *rx = context;
    ssize_t written;
    do
        written = writev(rx->tun_fds[(uint64_t)what->hash * rx->tun_count >> 32], parts, count);
    while (written < 0 && errno == EINTR);
    if (written >= 0) {
        rx->counters->rx_writes++;
        return;
    }
    rx->counters->drop_rx_refused += what->segments;
    rx->tun_gone = rx->tun_gone || errno == EBADFD || errno == EBADF;
}

void receive_start(struct receiver *rx, bool udp_segmentation) {
    rx->coalescer.udp = udp_segmentation;
    rx->coalescer.write = write_to_tun;
    rx->coalescer.context = rx;
    rx->batch = rx->single ? 1 : MAX_RECEIVED;
    for (unsigned i = 0; i < MAX_RECEIVED; i++)
        rx->parts[i] = (struct iovec){rx->room + (size_t)i * MESSAGE_ROOM, MESSAGE_ROOM};
}

static bool same_host(const struct peer *peer, const struct sockaddr *source) {
    if (source->sa_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)source;
        return peer->ipv4.sin_port && peer->ipv4.sin_addr.s_addr == ipv4->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)source;
    return source->sa_family == AF_INET6 && peer->ipv6.sin6_port &&
           memcmp(&peer->ipv6.sin6_addr, &ipv6->sin6_addr, sizeof ipv6->sin6_addr) == 0;
}

static void receive_packet(struct receiver *rx, const struct peer_table *table, uint8_t *data,
                           size_t length, const struct sockaddr *source) {
    struct packet packet;
    rx->counters->rx_packets++;
    rx->counters->rx_bytes += length;
    if (!parse_packet(data, length, &packet) ||
        (packet.version == 4 && !checksum_ipv4_right(data, packet.header))) {
        rx->counters->drop_rx_malformed++;
        return;
    }
    int32_t number = peers_find(table, packet.version, source_of(&packet));
    if (number < 0) {
        if (number == NO_PEER)
            rx->counters->drop_rx_unknown_source++;
        else /* a sender on the underlay uses the address of a pod of this host */
            rx->counters->drop_rx_spoofed++;
        return;
    }
    if (!same_host(&table->peers[number], source)) {
        rx->counters->drop_rx_spoofed++;
        return;
    }
    if (peers_find(table, packet.version, destination_of(&packet)) != OWN_HOST) {
        rx->counters->drop_rx_not_ours++;
        return;
    }
    if (packet.ttl <= 1) {
        rx->counters->drop_rx_ttl++;
        icmp_answer(&rx->icmp, TIME_EXCEEDED, &packet, 0, rx->counters);
        return;
    }
    decrement_ttl(&packet);
    if (rx->single) {
        struct iovec whole = {packet.data, packet.length};
        write_to_tun(rx, &whole, 1, &(struct written){.length = packet.length, .segments = 1});
    } else {
        coalesce_add(&rx->coalescer, &packet);
    }
}

void receive_message(struct receiver *rx, const struct peer_table *table, uint8_t *data,
                     size_t length, size_t size, const struct sockaddr *source) {
    rx->counters->rx_messages++;
    if (size == 0)
        size = length;
    while (length) {
        size_t one = length < size ? length : size;
        receive_packet(rx, table, data, one, source);
        data += one;
        length -= one;
    }
}

/* The size of the packets in a message: said by the kernel where there are several. */
static size_t segment_size(struct msghdr *call) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(call); c; c = CMSG_NXTHDR(call, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 ? (size_t)size : 0;
        }
    }
    return 0;
}

static int receive_batch(struct receiver *rx, int fd) {
    for (unsigned i = 0; i < rx->batch; i++) {
        rx->calls[i].msg_hdr = (struct msghdr){
            .msg_name = &rx->sources[i],
            .msg_namelen = sizeof rx->sources[i],
            .msg_iov = &rx->parts[i],
            .msg_iovlen = 1,
            .msg_control = rx->controls[i].space,
            .msg_controllen = sizeof rx->controls[i].space,
        };
    }
    if (rx->single) {
        ssize_t length = recvmsg(fd, &rx->calls[0].msg_hdr, MSG_DONTWAIT);
        rx->calls[0].msg_len = length < 0 ? 0 : (unsigned)length;
        return length < 0 ? -1 : 1;
    }
    return recvmmsg(fd, rx->calls, rx->batch, MSG_DONTWAIT, NULL);
}

int receive_burst(struct receiver *rx, const struct peer_table *table, int fd) {
    int messages = 0;
    for (int batches = 0; batches < (rx->single ? 1 : BATCHES_IN_A_ROW); batches++) {
        unsigned asked = rx->batch;
        int count = receive_batch(rx, fd);
        if (count <= 0) {
            if (count < 0 && errno != EAGAIN)
                continue; /* EINTR, or an error of an earlier send (ICMP): it is taken by asking */
            break;
        }
        size_t bytes = 0;
        for (int i = 0; i < count; i++) {
            struct mmsghdr *call = &rx->calls[i];
            bytes += call->msg_len;
            if (call->msg_hdr.msg_flags & MSG_TRUNC) {
                rx->counters->drop_rx_truncated++;
                continue;
            }
            receive_message(rx, table, rx->parts[i].iov_base, call->msg_len,
                            segment_size(&call->msg_hdr), (struct sockaddr *)&rx->sources[i]);
        }
        coalesce_flush(&rx->coalescer);
        rx->counters->rx_checksum_wrong = rx->coalescer.bad_checksums;
        messages += count;
        if (!rx->single)
            rx->batch = bytes / (unsigned)count > LARGE_MESSAGE ? LARGE_BATCH : MAX_RECEIVED;
        if ((unsigned)count < asked)
            break;
    }
    return rx->tun_gone ? -1 : messages;
}
