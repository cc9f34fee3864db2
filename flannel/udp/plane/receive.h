/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From peers to pods: datagrams are received many a call, checked, and written to the TUN device
 * as super-packets.
 */
#ifndef FLANNEL_UDP_RECEIVE_H
#define FLANNEL_UDP_RECEIVE_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "coalesce.h"
#include "counters.h"
#include "icmp.h"
#include "peers.h"

enum {
    MAX_RECEIVED = 64,          /* messages of one recvmmsg() */
    MESSAGE_ROOM = 65536,       /* bytes: more than a datagram has */
    LARGE_BATCH = 8,            /* messages when they are large: half a MiB */
};

union control_space {
    char space[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

struct receiver {
    const int *tun_fds; /* all queues of the device: a flow is written to that of its hash */
    unsigned tun_count;
    bool single; /* one packet a call and no vnet header, as flanneld does it */
    bool tun_gone;
    unsigned batch; /* messages to ask for */
    struct icmp icmp;
    struct counters *counters;
    struct coalescer coalescer;
    struct mmsghdr calls[MAX_RECEIVED];
    struct iovec parts[MAX_RECEIVED];
    struct sockaddr_in6 sources[MAX_RECEIVED];
    union control_space controls[MAX_RECEIVED];
    uint8_t *room; /* MAX_RECEIVED * MESSAGE_ROOM bytes, touched only as far as used */
};

/* Make ready; tun_fds, single, icmp, counters and room are set before. */
void receive_start(struct receiver *rx, bool udp_segmentation);

/* Take in one message: packets of `size` bytes each but the last, from the underlay address
 * `source`. It must stay as it is until coalesce_flush(). */
void receive_message(struct receiver *rx, const struct peer_table *table, uint8_t *data,
                     size_t length, size_t size, const struct sockaddr *source);

/* Receive from a socket and write until nothing is left or a fair share is done. Returns the
 * number of messages, -1 when the TUN device is gone. */
int receive_burst(struct receiver *rx, const struct peer_table *table, int fd);

#endif
