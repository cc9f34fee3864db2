/*
 * One super-packet of 64 KiB becomes one or two sendmsg() with UDP_SEGMENT, which the kernel
 * carries down its stack as one, too, and the card (or the kernel, last thing) cuts. Nothing is
 * copied here: a message is a list of views, headers made by segment.c and payload where
 * read() put it. As a datagram of this protocol is a bare packet, small packets of equal size
 * for one peer share a message just as segments do, whatever flows they are of.
 *
 * Order is kept: only the last message is ever added to.
 *
 * Too large a packet (RFC 1191, RFC 8201): outer packets have DF set, so the kernel says
 * EMSGSIZE once it has heard from a router, and knows the path's MTU. The inner packet's sender
 * is told with ICMP; a packet that may be fragmented is, as a router would do it.
 */
#define _GNU_SOURCE
#include "transmit.h"

#include <errno.h>
#include <netinet/udp.h>
#include <time.h>
#include <unistd.h>

#include "checksum.h"
#include "fragment.h"
#include "segment.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h, Linux 4.18 */
#endif

enum { READS_IN_A_ROW = 256 }; /* then others have their turn */

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Bytes of the largest packet that reaches the peer, as far as is known. */
static uint32_t largest_packet(const struct transmitter *tx, const struct peer *peer) {
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

/* -- sending ---------------------------------------------------------------------------- */

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

/* A packet that doesn't pass: cut it if that may be done, else tell its sender. */
static void too_big(struct transmitter *tx, struct peer *peer, const struct packet *packet) {
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
        too_big(tx, peer, &packet);
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

/* Send the first `count` messages. */
static void send_messages(struct transmitter *tx, uint32_t count) {
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

static void clear(struct arena *arena) {
    arena->used = arena->headers_used = 0;
}

void transmit_start(struct transmitter *tx) {
    tx->arena = &tx->arenas[0];
}

void transmit_flush(struct transmitter *tx) {
    send_messages(tx, tx->message_count);
    tx->message_count = tx->parts_used = tx->waiting = 0;
}

/* Send all messages but the last, which may still grow, and go on in the other arena. */
static void flush_full(struct transmitter *tx) {
    struct message last = {0};
    if (tx->message_count > 1 && !tx->messages[tx->message_count - 1].closed) {
        last = tx->messages[--tx->message_count];
        tx->waiting = last.bytes;
    }
    send_messages(tx, tx->message_count);
    tx->message_count = tx->parts_used = 0;
    tx->arena = tx->arena == &tx->arenas[0] ? &tx->arenas[1] : &tx->arenas[0];
    clear(tx->arena);
    if (!last.packets) {
        tx->waiting = 0;
        return;
    }
    memmove(tx->parts, tx->parts + last.first_part, last.parts * sizeof tx->parts[0]);
    last.first_part = 0;
    tx->parts_used = last.parts;
    tx->messages[tx->message_count++] = last;
}

/* -- collecting ------------------------------------------------------------------------- */

/* Add one packet for the wire: one part, or headers and payload. */
static void add(struct transmitter *tx, struct peer *peer, const uint8_t *headers,
                uint32_t headers_length, const uint8_t *payload, uint32_t payload_length) {
    uint32_t length = headers_length + payload_length;
    struct message *last = tx->message_count ? &tx->messages[tx->message_count - 1] : NULL;
    uint32_t room = peer->by_ipv6 ? MAX_MESSAGE_IPV6 : MAX_MESSAGE_IPV4;
    if (!last || last->closed || last->peer != peer || length > last->size ||
        last->packets == MAX_SEGMENTS_SENT || last->bytes + length > room || tx->no_segmentation) {
        last = &tx->messages[tx->message_count++];
        *last = (struct message){.peer = peer, .size = length, .first_part = tx->parts_used};
    }
    last->closed = length < last->size;
    last->packets++;
    last->bytes += length;
    tx->waiting += length;
    tx->parts[tx->parts_used++] = (struct iovec){(uint8_t *)headers, headers_length};
    last->parts++;
    if (payload_length) {
        tx->parts[tx->parts_used++] = (struct iovec){(uint8_t *)payload, payload_length};
        last->parts++;
    }
}

static bool room_for_one(const struct transmitter *tx) {
    return tx->message_count < MAX_MESSAGES && tx->parts_used + 2 <= MAX_PARTS &&
           tx->arena->headers_used + MAX_HEADERS <= HEADERS_BYTES;
}

static void add_segments(struct transmitter *tx, struct peer *peer, const struct vnet_header *vnet,
                         struct packet *packet) {
    struct segmenter segmenter;
    if (!segment_start(&segmenter, vnet, packet)) {
        tx->counters->drop_tx_malformed++;
        return;
    }
    uint32_t limit = largest_packet(tx, peer);
    bool fits = segmenter.headers + segmenter.size <= limit || packet->length <= limit;
    if (!fits && (packet->version == 6 || read16(packet->data + 6) & 0x4000)) { /* DF */
        tx->counters->drop_tx_too_big++;
        icmp_answer(&tx->icmp, TOO_BIG, packet, limit, tx->counters);
        return;
    }
    for (;;) {
        if (!room_for_one(tx)) {
            transmit_flush(tx);
            tx->arena->headers_used = 0; /* the payload stays where it is, so we can go on */
        }
        uint8_t *headers = tx->arena->headers + tx->arena->headers_used;
        const uint8_t *payload;
        size_t length, size = segment_next(&segmenter, headers, &payload, &length);
        if (!size)
            return;
        if (fits) {
            add(tx, peer, headers, (uint32_t)size, payload, (uint32_t)length);
            tx->arena->headers_used += (uint32_t)((size + 7) & ~(size_t)7);
            continue;
        }
        transmit_flush(tx); /* in order */
        struct packet segment;
        memcpy(tx->scratch, headers, size);
        memcpy(tx->scratch + size, payload, length);
        if (parse_packet(tx->scratch, size + length, &segment))
            too_big(tx, peer, &segment);
    }
}

/* The peer for a packet that may be forwarded, its TTL decremented; NULL when it was dropped, and
 * why was counted. */
static struct peer *route(struct transmitter *tx, const struct peer_table *table,
                          struct packet *packet) {
    const uint8_t *destination = destination_of(packet);
    if (packet->version == 4 ? destination[0] >= 224 : destination[0] == 0xff) {
        tx->counters->drop_tx_multicast++;
        return NULL;
    }
    int32_t number = peers_find(table, packet->version, destination);
    if (number < 0) {
        tx->counters->drop_tx_no_peer++;
        icmp_answer(&tx->icmp, NET_UNREACHABLE, packet, 0, tx->counters);
        return NULL;
    }
    if (packet->ttl <= 1) {
        tx->counters->drop_tx_ttl++;
        icmp_answer(&tx->icmp, TIME_EXCEEDED, packet, 0, tx->counters);
        return NULL;
    }
    decrement_ttl(packet);
    return &table->peers[number];
}

void transmit_packet(struct transmitter *tx, const struct peer_table *table, uint8_t *buffer,
                     size_t length) {
    struct vnet_header vnet = {0};
    struct packet packet;
    tx->counters->tx_reads++;
    if (!tx->single) {
        if (length < sizeof vnet) {
            tx->counters->drop_tx_malformed++;
            return;
        }
        memcpy(&vnet, buffer, sizeof vnet);
        buffer += sizeof vnet;
        length -= sizeof vnet;
    }
    if (!parse_packet(buffer, length, &packet)) {
        tx->counters->drop_tx_malformed++;
        return;
    }
    struct peer *peer = route(tx, table, &packet);
    if (!peer)
        return;
    if (vnet.gso_type != VNET_GSO_NONE) {
        add_segments(tx, peer, &vnet, &packet);
        return;
    }
    if (vnet.flags & VNET_NEEDS_CSUM && !complete_checksum(&vnet, &packet)) {
        tx->counters->drop_tx_malformed++;
        return;
    }
    if (!room_for_one(tx))
        transmit_flush(tx);
    if (packet.length > largest_packet(tx, peer)) {
        transmit_flush(tx);
        too_big(tx, peer, &packet);
        return;
    }
    add(tx, peer, packet.data, packet.length, NULL, 0);
}

int transmit_burst(struct transmitter *tx, const struct peer_table *table) {
    int reads = 0, result = 0;
    while (reads < (tx->single ? 1 : READS_IN_A_ROW)) {
        if (tx->arena->used + READ_ROOM > ARENA_BYTES || tx->waiting >= FLUSH_BYTES)
            flush_full(tx);
        uint8_t *room = tx->arena->packets + tx->arena->used;
        ssize_t length = read(tx->tun_fd, room, READ_ROOM);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0) {
            if (length == 0 || (errno != EAGAIN && errno != EIO && errno != ENOMEM))
                result = -1; /* EIO: the device is down, nothing will come */
            break;
        }
        reads++;
        transmit_packet(tx, table, room, (size_t)length);
        tx->arena->used += ((uint32_t)length + 63) & ~63u;
    }
    transmit_flush(tx);
    clear(tx->arena);
    return result < 0 ? result : reads;
}
