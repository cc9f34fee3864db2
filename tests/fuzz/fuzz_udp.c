/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer harness of the udp data plane's packet code. The first byte chooses what is fed:
 *
 *     0  a pod's packet or super-packet, as read from the TUN device    -> transmit_packet()
 *     1  a message from the underlay, a size to cut it by               -> receive_message()
 *     2  packets, put together and cut again                            -> must be what came in
 *     3  a packet that is fragmented                                    -> must add up
 *
 * Nothing leaves the process: the linker puts the functions below in place of the system calls
 * (--wrap). Every input is copied to a block of exactly its size, so that AddressSanitizer sees
 * each step beyond. Build and run: tests/fuzz/run
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "checksum.h"
#include "fragment.h"
#include "receive.h"
#include "segment.h"
#include "transmit.h"

#define REQUIRE(condition) do { if (!(condition)) __builtin_trap(); } while (0)

static int refusal; /* errno that the next send gives, once; 0: none */

static void look_at(const struct msghdr *call) {
    static volatile uint8_t sink;
    size_t length = 0;
    for (size_t i = 0; i < call->msg_iovlen; i++) {
        const uint8_t *bytes = call->msg_iov[i].iov_base;
        for (size_t k = 0; k < call->msg_iov[i].iov_len; k++)
            sink ^= bytes[k];
        length += call->msg_iov[i].iov_len;
    }
    REQUIRE(call->msg_iovlen <= 1024 && length > 0 && length <= 65535);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *call, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *calls, unsigned count, int flags);
ssize_t __wrap_sendto(int fd, const void *data, size_t length, int flags,
                      const struct sockaddr *to, socklen_t size);
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *call, int flags) {
    (void)fd, (void)flags;
    look_at(call);
    if (refusal) {
        errno = refusal;
        return -1;
    }
    return 100;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *calls, unsigned count, int flags) {
    (void)fd, (void)flags;
    for (unsigned i = 0; i < count; i++) {
        look_at(&calls[i].msg_hdr);
        struct cmsghdr *control = CMSG_FIRSTHDR(&calls[i].msg_hdr);
        if (control) { /* what the kernel asks of UDP_SEGMENT */
            uint16_t size;
            size_t length = 0;
            memcpy(&size, CMSG_DATA(control), sizeof size);
            for (size_t k = 0; k < calls[i].msg_hdr.msg_iovlen; k++)
                length += calls[i].msg_hdr.msg_iov[k].iov_len;
            REQUIRE(size && length > size && length <= (size_t)size * 64 && length <= 65507);
        }
    }
    if (refusal) {
        errno = refusal;
        return -1;
    }
    return (int)count;
}

ssize_t __wrap_sendto(int fd, const void *data, size_t length, int flags,
                      const struct sockaddr *to, socklen_t size) {
    (void)fd, (void)flags, (void)to, (void)size;
    struct iovec part = {(void *)data, length};
    look_at(&(struct msghdr){.msg_iov = &part, .msg_iovlen = 1});
    return (ssize_t)length;
}

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count) {
    (void)fd;
    look_at(&(struct msghdr){.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count});
    return 100;
}

/* Asking the kernel for a path's MTU: it says what the input chose. */
static int path_mtu;
int __wrap_connect(int fd, const struct sockaddr *to, socklen_t size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);

int __wrap_connect(int fd, const struct sockaddr *to, socklen_t size) {
    (void)fd, (void)to, (void)size;
    return 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size) {
    (void)fd, (void)level, (void)name, (void)size;
    memcpy(value, &path_mtu, sizeof path_mtu);
    return 0;
}

static struct peer_table *make_table(void) {
    struct peer peers[2] = {
        {.ipv4 = {.sin_family = AF_INET, .sin_port = 1, .sin_addr = {htonl(0xc0a84002)}}},
        {.ipv6 = {.sin6_family = AF_INET6, .sin6_port = 1, .sin6_addr = {{{0xfd}}}},
         .by_ipv6 = true},
    };
    /* so wide that half of what the fuzzer makes up gets through */
    struct range4 ranges4[] = {{0x00000000, 0x3fffffff, OWN_HOST}, {0x40000000, 0x7fffffff, 0},
                               {0x80000000, 0xbfffffff, 1}};
    uint64_t all = UINT64_MAX;
    struct range6 ranges6[] = {{{0, 0}, {all >> 2, all}, OWN_HOST, 0},
                               {{1ull << 62, 0}, {all >> 1, all}, 1, 0}};
    struct peer_table *table = peers_make(peers, 2, ranges4, 3, ranges6, 2);
    REQUIRE(table);
    return table;
}

static void transmit(const uint8_t *data, size_t length) {
    static struct transmitter tx;
    static struct counters counters;
    static const int refusals[] = {0, 0, 0, 0, 0, EMSGSIZE, EIO, EINVAL};
    if (length < 2)
        return;
    if (!tx.arena)
        transmit_start(&tx);
    struct peer_table *table = make_table();
    uint8_t how = data[0];
    tx.counters = &counters;
    tx.ipv4_fd = tx.ipv6_fd = tx.tun_fd = -1;
    tx.icmp = (struct icmp){.ipv4_fd = 0, .ipv6_fd = 0, .budget = 50};
    tx.single = (how & 0x38) == 0x38;
    tx.no_segmentation = false;
    tx.underlay_mtu = how & 0x40 ? 600 : 0;
    refusal = refusals[how & 7];
    path_mtu = how & 0x80 ? 300 : 1400;
    data++, length--;
    while (length > 2) { /* several packets in one batch: a length, then the packet */
        size_t size = read16(data);
        data += 2, length -= 2;
        if (size > length)
            size = length;
        uint8_t *copy = malloc(size ? size : 1);
        memcpy(copy, data, size);
        transmit_packet(&tx, table, copy, size);
        transmit_flush(&tx);
        tx.arena->used = tx.arena->headers_used = 0;
        free(copy);
        data += size, length -= size;
    }
    refusal = 0;
    peers_free(table);
}

static void receive(const uint8_t *data, size_t length) {
    static struct receiver rx;
    static struct counters counters;
    static const int fds[1] = {-1};
    if (length < 4)
        return;
    struct peer_table *table = make_table();
    rx.counters = &counters;
    rx.tun_fds = fds;
    rx.tun_count = 1;
    rx.icmp = (struct icmp){.ipv4_fd = 0, .ipv6_fd = 0, .budget = 50};
    static uint8_t room[1];
    rx.room = room;
    rx.single = data[0] & 2;
    receive_start(&rx, data[0] & 1);
    struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_addr = {htonl(0xc0a84002)}};
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_addr = {{{0xfd}}}};
    struct sockaddr *from = data[0] & 4 ? (struct sockaddr *)&ipv6 : (struct sockaddr *)&ipv4;
    size_t size = read16(data + 1);
    length -= 3;
    uint8_t *copy = malloc(length ? length : 1);
    memcpy(copy, data + 3, length);
    receive_message(&rx, table, copy, length, size, from);
    coalesce_flush(&rx.coalescer);
    free(copy);
    peers_free(table);
}

/* -- put together and cut again ----------------------------------------------------------- */

struct trip {
    uint8_t bytes[1 << 17];
    size_t length;
    uint32_t segments;
    uint64_t digest; /* of all packets, whatever their order */
};

static uint64_t digest_of(const uint8_t *bytes, size_t length) {
    uint64_t hash = 1469598103934665603ull; /* FNV-1a */
    bool means_nothing = bytes[0] >> 4 == 4 && bytes[6] & 0x40; /* the id of a packet with DF */
    for (size_t i = 0; i < length; i++) {
        bool skipped = means_nothing && (i == 4 || i == 5 || i == 10 || i == 11);
        hash = (hash ^ (skipped ? 0 : bytes[i])) * 1099511628211ull;
    }
    return hash;
}

static void cut_again(void *context, const struct iovec *parts, int count,
                      const struct written *what) {
    struct trip *trip = context;
    static uint8_t whole[MAX_PACKET + 10], one[MAX_PACKET + MAX_HEADERS];
    struct vnet_header vnet;
    size_t length = 0;
    for (int i = 0; i < count; i++) {
        REQUIRE(length + parts[i].iov_len <= sizeof whole);
        memcpy(whole + length, parts[i].iov_base, parts[i].iov_len);
        length += parts[i].iov_len;
    }
    memcpy(&vnet, whole, sizeof vnet);
    struct packet packet;
    REQUIRE(length == what->length + sizeof vnet);
    REQUIRE(parse_packet(whole + sizeof vnet, length - sizeof vnet, &packet));
    if (vnet.gso_type == VNET_GSO_NONE) {
        trip->digest += digest_of(packet.data, packet.length);
        trip->segments++;
        return;
    }
    struct segmenter segmenter;
    const uint8_t *payload;
    size_t size, payload_length;
    uint8_t headers[MAX_HEADERS];
    REQUIRE(segment_start(&segmenter, &vnet, &packet));
    uint32_t segments = 0;
    while ((size = segment_next(&segmenter, headers, &payload, &payload_length))) {
        memcpy(one, headers, size);
        memcpy(one + size, payload, payload_length);
        trip->digest += digest_of(one, size + payload_length);
        segments++;
    }
    REQUIRE(segments == what->segments);
    trip->segments += segments;
}

/* Make the IPv4 and transport checksums right, as else nothing would ever be joined; leave it
 * where the packet says it should stay wrong. */
static void mend(struct packet *packet) {
    if (packet->version == 4)
        checksum_ipv4(packet->data, packet->header);
    uint32_t at = packet->protocol == PROTOCOL_TCP ? 16 : 6, start = packet->header;
    if ((packet->protocol != PROTOCOL_TCP && packet->protocol != PROTOCOL_UDP) ||
        start + (packet->protocol == PROTOCOL_TCP ? TCP_HEADER : UDP_HEADER) > packet->length)
        return;
    uint8_t *check = packet->data + start + at;
    checksum_store(check, 0);
    uint64_t sum = checksum_pseudo(packet, packet->protocol, packet->length - start);
    uint16_t folded =
        (uint16_t)~checksum_fold(checksum_add(packet->data + start, packet->length - start, sum));
    checksum_store(check, folded == 0 && packet->protocol == PROTOCOL_UDP ? 0xffff : folded);
}

static void round_trip(const uint8_t *data, size_t length) {
    static struct coalescer coalescer;
    static struct trip trip;
    uint8_t *copies[64];
    unsigned count = 0;
    uint64_t wanted = 0;
    if (length < 3)
        return;
    coalescer = (struct coalescer){.udp = data[0] & 1, .write = cut_again, .context = &trip};
    trip.digest = 0;
    trip.segments = 0;
    bool right = data[0] & 2;
    uint8_t repeat = data[0] >> 4; /* follow-ups of each packet, as a sender would go on */
    data++, length--;
    while (length > 2 && count + repeat < 64) {
        size_t size = data[0];
        data++, length--;
        if (size > length)
            size = length;
        for (unsigned n = 0; n <= repeat && count < 64; n++) {
            uint8_t *copy = malloc(size ? size : 1);
            memcpy(copy, data, size);
            struct packet packet;
            if (!parse_packet(copy, size, &packet)) {
                free(copy);
                break;
            }
            uint32_t transport = packet.header;
            if (packet.version == 4)
                write16(copy + 4, read16(copy + 4) + n);
            if (packet.protocol == PROTOCOL_TCP && transport + TCP_HEADER <= packet.length) {
                uint32_t headers = transport + (copy[transport + 12] >> 4) * 4u;
                if (headers <= packet.length)
                    write32(copy + transport + 4,
                            read32(copy + transport + 4) + n * (packet.length - headers));
            }
            if (right)
                mend(&packet);
            else if (packet.version == 4 && !checksum_ipv4_right(copy, packet.header)) {
                free(copy); /* the receiver drops it before */
                continue;
            }
            wanted += digest_of(packet.data, packet.length);
            copies[count++] = copy;
            coalesce_add(&coalescer, &packet);
        }
        data += size, length -= size;
    }
    coalesce_flush(&coalescer);
    REQUIRE(trip.segments == count);
    REQUIRE(trip.digest == wanted);
    REQUIRE(coalescer.open == 0);
    while (count)
        free(copies[--count]);
}

static void fragments(const uint8_t *data, size_t length) {
    if (length < 3)
        return;
    uint32_t limit = read16(data);
    length -= 2;
    uint8_t *copy = malloc(length), header[IPV4_MAX_HEADER];
    memcpy(copy, data + 2, length);
    struct packet packet;
    struct fragmenter fragmenter;
    if (parse_packet(copy, length, &packet) && fragment_start(&fragmenter, &packet, limit)) {
        const uint8_t *payload;
        size_t size, payload_length, at = packet.header;
        while ((size = fragment_next(&fragmenter, header, &payload, &payload_length))) {
            REQUIRE(size == packet.header && size + payload_length <= limit);
            REQUIRE(payload == copy + at && checksum_ipv4_right(header, size));
            at += payload_length;
        }
        REQUIRE(at == packet.length);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length) {
    if (length < 1)
        return 0;
    void (*const targets[])(const uint8_t *, size_t) = {transmit, receive, round_trip, fragments};
    targets[data[0] & 3](data + 1, length - 1);
    return 0;
}
