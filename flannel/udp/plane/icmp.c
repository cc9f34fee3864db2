/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors leave through raw sockets, not through the TUN device: the kernel drops packets that
 * come in with one of its own addresses as source. For a socket it also chooses the source address
 * that the receiver knows this host by (RFC 1812 section 4.3.2.4), and the route, to a pod of this
 * host as well as to a pod of a peer.
 *
 * Each worker thread may send ICMP_PER_SECOND errors: many bad packets do not cause as many
 * answers.
 */
#include "icmp.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include "checksum.h"

enum {
    ICMP_HEADER = 8,
    QUOTE_IPV4 = 576 - IPV4_HEADER - ICMP_HEADER,   /* RFC 1812 section 4.3.2.3 */
    QUOTE_IPV6 = 1280 - IPV6_HEADER - ICMP_HEADER,  /* RFC 4443 section 2.4 (c) */
    MIN_MTU_IPV4 = 68,                              /* RFC 791 */
    MIN_MTU_IPV6 = 1280,                            /* RFC 8200; less must not be told */
};

static bool may_answer_ipv4(const struct packet *about) {
    uint32_t source = read32(about->data + 12), destination = read32(about->data + 16);
    if (read16(about->data + 6) & 0x1fff) /* not the first fragment */
        return false;
    if (source >> 24 == 0 || source >> 24 == 127 || source >> 28 >= 14)
        return false; /* this network, loopback, groups, reserved, broadcast */
    if (destination >> 28 >= 14)
        return false;
    if (about->protocol != PROTOCOL_ICMP)
        return true;
    if (about->length <= about->header)
        return false;
    switch (about->data[about->header]) {
    case 0: case 8: case 13: case 14: case 15: case 16: case 17: case 18:
        return true; /* queries and their answers; all else is an error or unknown */
    default:
        return false;
    }
}

static bool may_answer_ipv6(const struct packet *about) {
    const uint8_t *source = about->data + 8, *destination = about->data + 24;
    static const uint8_t none[16];
    if (source[0] == 0xff || destination[0] == 0xff || memcmp(source, none, 16) == 0)
        return false;
    if (source[0] == 0xfe && (source[1] & 0xc0) == 0x80)
        return false; /* link-local: the link of our own device has no other host */
    if (about->protocol != PROTOCOL_ICMPV6)
        return true;
    if (about->length <= about->header)
        return false;
    uint8_t type = about->data[about->header];
    return type >= 128 && type != 137; /* errors are below, 137 is Redirect */
}

bool icmp_may_answer(const struct packet *about) {
    return about->version == 4 ? may_answer_ipv4(about) : may_answer_ipv6(about);
}

size_t icmp_message(enum icmp_error error, const struct packet *about, uint32_t mtu,
                    uint8_t *message) {
    static const uint8_t types4[] = {3, 11, 3}, codes4[] = {0, 0, 4}, types6[] = {1, 3, 2};
    bool ipv4 = about->version == 4;
    uint32_t room = ipv4 ? QUOTE_IPV4 : QUOTE_IPV6;
    uint32_t quote = about->length < room ? about->length : room;
    memset(message, 0, ICMP_HEADER);
    message[0] = ipv4 ? types4[error] : types6[error];
    message[1] = ipv4 ? codes4[error] : 0;
    if (error == TOO_BIG && ipv4)
        write16(message + 6, mtu < MIN_MTU_IPV4 ? MIN_MTU_IPV4 : mtu);
    else if (error == TOO_BIG)
        write32(message + 4, mtu < MIN_MTU_IPV6 ? MIN_MTU_IPV6 : mtu);
    memcpy(message + ICMP_HEADER, about->data, quote);
    size_t length = ICMP_HEADER + quote;
    if (ipv4) /* for IPv6 the kernel does it, as it chooses the source */
        checksum_store(message + 2, (uint16_t)~checksum_fold(checksum_add(message, length, 0)));
    return length;
}

static bool within_budget(struct icmp *icmp) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    int64_t ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    int64_t refill = (ms - icmp->refilled) * ICMP_PER_SECOND / 1000;
    if (refill > 0) {
        icmp->budget = icmp->budget + refill > ICMP_BURST ? ICMP_BURST
                                                          : icmp->budget + (uint32_t)refill;
        icmp->refilled = ms;
    }
    if (icmp->budget == 0)
        return false;
    icmp->budget--;
    return true;
}

void icmp_answer(struct icmp *icmp, enum icmp_error error, const struct packet *about,
                 uint32_t mtu, struct counters *counters) {
    uint8_t message[ICMP_ROOM];
    int fd = about->version == 4 ? icmp->ipv4_fd : icmp->ipv6_fd;
    if (!icmp_may_answer(about) || !within_budget(icmp)) {
        counters->icmp_withheld++;
        return;
    }
    size_t length = icmp_message(error, about, mtu, message);
    struct sockaddr_in ipv4 = {.sin_family = AF_INET};
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};
    struct sockaddr *to = (struct sockaddr *)&ipv6;
    socklen_t size = sizeof ipv6;
    if (about->version == 4) {
        memcpy(&ipv4.sin_addr, source_of(about), sizeof ipv4.sin_addr);
        to = (struct sockaddr *)&ipv4;
        size = sizeof ipv4;
    } else {
        memcpy(&ipv6.sin6_addr, source_of(about), sizeof ipv6.sin6_addr);
    }
    if (fd >= 0 && sendto(fd, message, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, size) >= 0)
        counters->icmp_sent++;
    else
        counters->icmp_withheld++;
}
