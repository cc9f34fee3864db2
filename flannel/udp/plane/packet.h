/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the udp data plane knows of a packet: its network header, and what the kernel says
 * about it through a TUN device with IFF_VNET_HDR.
 *
 * No byte of a packet is trusted: parse_packet() comes before any reading of a header. It makes
 * sure that header and length lie within the bytes that were received.
 *
 * Sources: RFC 791, RFC 8200; linux/virtio_net.h (struct virtio_net_hdr),
 * linux/if_tun.h (TUN_F_USO4, TUN_F_USO6: Linux 6.2).
 */
#ifndef FLANNEL_UDP_PACKET_H
#define FLANNEL_UDP_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    VNET_NEEDS_CSUM = 1, /* flags: the transport checksum holds the pseudo-header's sum only */
    VNET_GSO_NONE = 0,   /* gso_type: one packet as it is */
    VNET_GSO_TCPV4 = 1,
    VNET_GSO_TCPV6 = 4,
    VNET_GSO_UDP_L4 = 5, /* datagrams of one size, the last may be shorter */
    VNET_GSO_ECN = 0x80, /* with TCP: the first segment has CWR set */
};

/* struct virtio_net_hdr, in the machine's byte order: how to cut a super-packet. */
struct vnet_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len;     /* bytes of all headers */
    uint16_t gso_size;    /* payload bytes of a segment */
    uint16_t csum_start;  /* offset of the transport header */
    uint16_t csum_offset; /* offset of the checksum in it */
};
_Static_assert(sizeof(struct vnet_header) == 10, "as the kernel has it");

enum {
    IPV4_HEADER = 20, /* bytes, without options */
    IPV6_HEADER = 40,
    TCP_HEADER = 20, /* bytes, without options */
    UDP_HEADER = 8,
    MAX_PACKET = 65535, /* bytes of an IPv4 packet; nothing larger goes through a TUN device */
    PROTOCOL_ICMP = 1,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_ICMPV6 = 58,
};

/* A network header that was found to be sound. */
struct packet {
    uint8_t *data;
    uint32_t length;  /* bytes, as its header says */
    uint16_t header;  /* bytes of the network header; IPv6: of the fixed part */
    uint8_t version;  /* 4 or 6 */
    uint8_t protocol; /* IPv6: of what follows the fixed part */
    uint8_t ttl;      /* IPv6: hop limit */
    bool fragment;    /* IPv4: of a packet in several; an IPv6 fragment has protocol 44 */
};

static inline uint16_t read16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t read32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t read64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

static inline void write16(void *p, uint32_t value) {
    uint16_t v = __builtin_bswap16((uint16_t)value);
    memcpy(p, &v, sizeof v);
}

static inline void write32(void *p, uint32_t value) {
    uint32_t v = __builtin_bswap32(value);
    memcpy(p, &v, sizeof v);
}
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for little-endian machines: give read16() and its like another body"
#endif

/* Read the network header of `length` bytes; false when they are no sound IPv4 or IPv6 packet.
 * Bytes beyond the header's length are left out. The IPv4 checksum is not looked at. */
static inline bool parse_packet(uint8_t *data, size_t length, struct packet *packet) {
    if (length < IPV4_HEADER)
        return false;
    packet->data = data;
    packet->version = data[0] >> 4;
    if (packet->version == 4) {
        packet->header = (uint16_t)((data[0] & 15) * 4);
        packet->length = read16(data + 2);
        packet->protocol = data[9];
        packet->ttl = data[8];
        packet->fragment = (read16(data + 6) & 0x3fff) != 0; /* more to come, or an offset */
        return packet->header >= IPV4_HEADER && packet->header <= packet->length &&
               packet->length <= length;
    }
    if (packet->version == 6 && length >= IPV6_HEADER) {
        packet->header = IPV6_HEADER;
        packet->length = IPV6_HEADER + (uint32_t)read16(data + 4);
        packet->protocol = data[6];
        packet->ttl = data[7];
        packet->fragment = false;
        return packet->length <= length && packet->length <= MAX_PACKET;
    }
    return false;
}

/* Where the addresses are: 4 bytes each, or 16. */
static inline uint8_t *source_of(const struct packet *packet) {
    return packet->data + (packet->version == 4 ? 12 : 8);
}

static inline uint8_t *destination_of(const struct packet *packet) {
    return packet->data + (packet->version == 4 ? 16 : 24);
}

/* One hop less. The IPv4 checksum follows (RFC 1624): the word's high byte falls by one. */
static inline void decrement_ttl(struct packet *packet) {
    packet->ttl--;
    if (packet->version == 6) {
        packet->data[7]--;
        return;
    }
    uint32_t sum = read16(packet->data + 10) + 0x100u;
    write16(packet->data + 10, sum + (sum >= 0xffff));
    packet->data[8]--;
}

#endif
