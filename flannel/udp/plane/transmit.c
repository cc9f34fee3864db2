/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A super-packet of 64 KiB becomes one or two messages, which send.c sends with UDP_SEGMENT.
 * Nothing is copied here: a message is a list of views, headers made by segment.c and payload
 * where read() put it. As a datagram of this protocol is a bare packet, small packets of equal
 * size for one peer share a message just as segments do, whatever flows they are of.
 *
 * Order is kept: only the last message is ever added to.
 */
#define _GNU_SOURCE
#include "transmit.h"

#include <errno.h>
#include <unistd.h>

#include "checksum.h"
#include "segment.h"

enum { READS_IN_A_ROW = 256 }; /* then the sockets are read */

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
            send_too_big(tx, peer, &segment);
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
        send_too_big(tx, peer, &packet);
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
                result = -1; /* EIO: the device is down */
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
