/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inverse of segmentation. A segment joins its flow's super-packet only if cutting that
 * again (as segment.c or the kernel does) gives back what came in, byte for byte. So, as in
 * Linux' tcp_gro_receive() and inet_gro_receive():
 *
 *     network header   no IPv4 options, no fragment, no extension header; all fields but length,
 *                      id and checksum equal; IPv4 id counts up by one, or stays the same in
 *                      packets with DF, whose id means nothing (RFC 6864)
 *     TCP              the next sequence number; header length, acknowledgement, window, urgent
 *                      pointer and options equal; flags equal but for PSH and FIN, which end the
 *                      super-packet, and CWR, which may stand on its first segment only;
 *                      SYN, RST and URG are never joined, nor is a bare acknowledgement
 *     UDP              a checksum that is not "none"
 *     payload          of the first one's size; a shorter one ends the super-packet
 *     checksum         right in every segment, as a super-packet is handed over as checked;
 *                      a wrong one goes on alone, for the receiver to see and count
 *
 * Payload is never copied: a super-packet is a list of pointers into the receive buffers. Order is
 * kept within a flow: a packet that can't join is written after its flow's super-packet. Before a
 * packet without ports (a fragment, ICMP) all super-packets are written.
 */
#include "coalesce.h"

#include "checksum.h"

enum {
    FIN = 0x01,
    SYN = 0x02,
    RST = 0x04,
    PSH = 0x08,
    ACK = 0x10,
    URG = 0x20,
    CWR = 0x80,
    DF = 0x4000, /* in the IPv4 flags word */
};

static bool is_tcp(const struct flow *flow) {
    return flow->first.protocol == PROTOCOL_TCP;
}

static void write_flow(struct coalescer *coalescer, struct flow *flow) {
    uint8_t *data = flow->first.data, *transport = data + flow->transport;
    uint32_t length = flow->headers + flow->payload, segments = flow->segments;
    flow->segments = 0;
    coalescer->open--;
    flow->vnet = (struct vnet_header){0};
    flow->parts[0] = (struct iovec){&flow->vnet, sizeof flow->vnet};
    flow->parts[1] = (struct iovec){data, flow->first.length};
    if (segments > 1) {
        if (flow->first.version == 4) {
            write16(data + 2, length);
            checksum_ipv4(data, flow->first.header);
        } else {
            write16(data + 4, length - IPV6_HEADER);
        }
        flow->vnet.flags = VNET_NEEDS_CSUM;
        flow->vnet.hdr_len = (uint16_t)flow->headers;
        flow->vnet.gso_size = (uint16_t)(flow->first.length - flow->headers);
        flow->vnet.csum_start = (uint16_t)flow->transport;
        if (is_tcp(flow)) {
            flow->vnet.gso_type = flow->first.version == 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
            if (transport[13] & CWR)
                flow->vnet.gso_type |= VNET_GSO_ECN;
            transport[13] |= flow->last_flags & (FIN | PSH);
            flow->vnet.csum_offset = 16;
        } else {
            write16(transport + 4, UDP_HEADER + flow->payload);
            flow->vnet.gso_type = VNET_GSO_UDP_L4;
            flow->vnet.csum_offset = 6;
        }
        uint32_t covered = length - flow->transport;
        uint64_t pseudo = checksum_pseudo(&flow->first, flow->first.protocol, covered);
        checksum_store(transport + flow->vnet.csum_offset, checksum_fold(pseudo));
    }
    struct written what = {length, segments, flow->hash};
    coalescer->write(coalescer->context, flow->parts, (int)segments + 1, &what);
}

void coalesce_flush(struct coalescer *coalescer) {
    for (unsigned i = 0; i < MAX_FLOWS && coalescer->open; i++)
        if (coalescer->flows[i].segments)
            write_flow(coalescer, &coalescer->flows[i]);
}

static void write_alone(struct coalescer *coalescer, const struct packet *packet, uint32_t hash) {
    struct vnet_header vnet = {0};
    struct iovec parts[2] = {{&vnet, sizeof vnet}, {packet->data, packet->length}};
    struct written what = {packet->length, 1, hash};
    coalescer->write(coalescer->context, parts, 2, &what);
}

/* Whether the transport checksum is right. */
static bool checksum_right(const struct packet *packet, uint32_t transport) {
    uint32_t covered = packet->length - transport;
    uint64_t sum = checksum_pseudo(packet, packet->protocol, covered);
    return checksum_fold(checksum_add(packet->data + transport, covered, sum)) == 0xffff;
}

/* Bytes of all headers if the packet is a segment that could be joined with others, else 0. */
static uint32_t joinable(const struct coalescer *coalescer, const struct packet *packet,
                         uint32_t transport) {
    const uint8_t *header = packet->data + transport;
    uint32_t headers;
    if (packet->protocol == PROTOCOL_TCP) {
        if (transport + TCP_HEADER > packet->length || (header[12] >> 4) * 4 < TCP_HEADER)
            return 0;
        headers = transport + (uint32_t)(header[12] >> 4) * 4;
        if ((header[13] & (SYN | RST | URG | ACK)) != ACK)
            return 0;
    } else {
        headers = transport + UDP_HEADER;
        if (!coalescer->udp || headers > packet->length ||
            read16(header + 4) != packet->length - transport || read16(header + 6) == 0)
            return 0;
    }
    return headers < packet->length ? headers : 0;
}

static bool same_network_header(const uint8_t *a, const uint8_t *b, uint8_t version) {
    if (version == 4) /* all but length, id, checksum; addresses are compared with the ports */
        return memcmp(a, b, 2) == 0 && memcmp(a + 6, b + 6, 4) == 0;
    return memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 2) == 0;
}

static bool same_flow(const struct flow *flow, const struct packet *packet, uint32_t transport) {
    size_t addresses = packet->version == 4 ? 8 : 32;
    return flow->first.version == packet->version && flow->first.protocol == packet->protocol &&
           memcmp(source_of(&flow->first), source_of(packet), addresses) == 0 &&
           memcmp(flow->first.data + flow->transport, packet->data + transport, 4) == 0;
}

/* Whether a packet of the flow may be its next segment, by headers alone. */
static bool continues(struct flow *flow, const struct packet *packet, uint32_t headers) {
    const uint8_t *a = flow->first.data, *b = packet->data;
    uint32_t size = packet->length - headers;
    if (flow->size == 0 || size > flow->size || headers != flow->headers)
        return false;
    if (flow->headers + flow->payload + size > MAX_PACKET ||
        flow->segments >= (is_tcp(flow) ? MAX_SEGMENTS : MAX_DATAGRAMS))
        return false;
    if (!same_network_header(a, b, packet->version))
        return false;
    if (packet->version == 4) {
        uint16_t step = (uint16_t)(read16(b + 4) - read16(a + 4));
        if (flow->segments == 1)
            flow->id_step = step == 0 && (read16(b + 6) & DF) ? 0 : 1;
        if (step != (uint16_t)(flow->id_step * flow->segments))
            return false;
    }
    if (!is_tcp(flow))
        return true;
    a += flow->transport, b += flow->transport;
    uint8_t differ = (a[13] ^ b[13]) & (uint8_t)~(FIN | PSH | CWR);
    return differ == 0 && !(b[13] & CWR) && a[12] == b[12] &&
           read32(b + 4) == read32(a + 4) + flow->payload && memcmp(a + 8, b + 8, 4) == 0 &&
           memcmp(a + 14, b + 14, 2) == 0 &&
           memcmp(a + 18, b + 18, flow->headers - flow->transport - 18) == 0;
}

/* Whether the super-packet may go on after this packet. */
static uint32_t size_after(const struct packet *packet, uint32_t transport, uint32_t headers) {
    if (packet->protocol == PROTOCOL_TCP && packet->data[transport + 13] & (FIN | PSH))
        return 0;
    return packet->length - headers;
}

static void open_flow(struct coalescer *coalescer, const struct packet *packet,
                      uint32_t transport, uint32_t headers, uint32_t hash) {
    struct flow *flow = NULL;
    for (unsigned i = 0; i < MAX_FLOWS && coalescer->open < MAX_FLOWS && !flow; i++)
        if (coalescer->flows[i].segments == 0)
            flow = &coalescer->flows[i];
    if (!flow) {
        flow = &coalescer->flows[coalescer->next++ % MAX_FLOWS];
        write_flow(coalescer, flow);
    }
    coalescer->open++;
    flow->first = *packet;
    flow->hash = hash;
    flow->transport = transport;
    flow->headers = headers;
    flow->size = size_after(packet, transport, headers);
    flow->payload = packet->length - headers;
    flow->segments = 1;
    flow->id_step = 1;
    flow->verified = false;
    flow->last_flags = 0;
}

static uint32_t hash_of(const struct packet *packet, uint32_t transport) {
    uint32_t hash = read32(packet->data + transport) ^ packet->protocol;
    const uint8_t *addresses = source_of(packet);
    for (size_t i = 0; i < (packet->version == 4 ? 8 : 32); i += 4)
        hash = (hash ^ read32(addresses + i)) * 0x9e3779b1u;
    return hash;
}

void coalesce_add(struct coalescer *coalescer, const struct packet *packet) {
    uint32_t transport = packet->header;
    if ((packet->protocol != PROTOCOL_TCP && packet->protocol != PROTOCOL_UDP) ||
        packet->fragment || transport + 4 > packet->length ||
        (packet->version == 4 && transport != IPV4_HEADER)) {
        coalesce_flush(coalescer);
        write_alone(coalescer, packet, 0);
        return;
    }
    uint32_t hash = hash_of(packet, transport);
    struct flow *flow = NULL;
    for (unsigned i = 0; i < MAX_FLOWS && coalescer->open; i++) {
        struct flow *one = &coalescer->flows[i];
        if (one->segments && one->hash == hash && same_flow(one, packet, transport)) {
            flow = one;
            break;
        }
    }
    uint32_t headers = joinable(coalescer, packet, transport);
    if (flow && headers && continues(flow, packet, headers)) {
        if (!flow->verified) /* a lone packet is never summed here: the receiver does that */
            flow->verified = checksum_right(&flow->first, flow->transport);
        bool right = checksum_right(packet, transport);
        if (flow->verified && right) {
            uint32_t size = packet->length - headers;
            flow->parts[1 + flow->segments] = (struct iovec){packet->data + headers, size};
            flow->segments++;
            flow->payload += size;
            if (is_tcp(flow)) /* a small datagram ends before that */
                flow->last_flags = packet->data[transport + 13];
            if (size < flow->size)
                flow->size = 0;
            else
                flow->size = size_after(packet, transport, headers);
            return;
        }
        coalescer->bad_checksums += (uint64_t)!right + !flow->verified;
    }
    if (flow)
        write_flow(coalescer, flow);
    if (headers)
        open_flow(coalescer, packet, transport, headers, hash);
    else
        write_alone(coalescer, packet, hash);
}
