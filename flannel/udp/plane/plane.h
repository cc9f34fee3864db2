/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data plane: worker threads that move packets between TUN queues and UDP sockets.
 */
#ifndef FLANNEL_UDP_PLANE_H
#define FLANNEL_UDP_PLANE_H

#include <pthread.h>

#include "receive.h"
#include "transmit.h"

enum { MAX_QUEUES = 64 };

/* What one queue works on. Descriptors stay the caller's; -1: there is none. All non-blocking
 * but the UDP sockets, whose sends may wait. */
struct queue {
    int tun_fd, ipv4_fd, ipv6_fd;
};

struct settings {
    int icmp4_fd, icmp6_fd; /* raw sockets for ICMP errors; -1: none are sent */
    uint32_t underlay_mtu;  /* bytes; 0: not known */
    bool single;            /* one packet a call and no vnet header: the benchmark's baseline */
    bool udp_segmentation;  /* whether the TUN device takes UDP super-packets (Linux 6.2) */
    bool split;             /* a thread for each direction of a queue, not one for both */
};

struct worker {
    struct plane *plane;
    struct queue queue;
    struct transmitter *tx; /* NULL: it doesn't send */
    struct receiver *rx;    /* NULL: it doesn't receive */
    struct counters counters;
    struct reader reader;
    pthread_t thread;
    bool running;
    bool pauses; /* whether it lets packets come together */
};

struct plane {
    _Atomic(struct peer_table *) table;
    int stop_fd, gone_fd; /* eventfds: workers are to end; a worker's TUN device is gone */
    int tun_fds[MAX_QUEUES];
    unsigned tun_count, worker_count;
    struct worker *workers;
};

/* Make a plane with an empty table, not running; NULL with errno. */
struct plane *plane_make(const struct queue *queues, unsigned count,
                         const struct settings *settings);

/* Start the threads that don't run; 0 or an errno, and then none runs. */
int plane_start(struct plane *plane);

/* End the threads and wait for them. */
void plane_stop(struct plane *plane);

/* Stop it and free it. */
void plane_free(struct plane *plane);

/* Put another table in place; the old one is freed when no thread uses it any more. */
void plane_set_table(struct plane *plane, struct peer_table *table);

/* The sums of all workers' counters. */
struct counters plane_counters(const struct plane *plane);

#endif
