/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker serves one queue: it sleeps in poll() until the TUN device or a socket is readable,
 * and reads a batch from each that is. It holds the peer table only while it works on the batch.
 *
 * A worker is faster than the senders. It would wake for every few packets, and each would pay
 * for a wake-up, a message and a pass through the kernel's stack. So after a batch of more than
 * one packet it sleeps for a moment, as network cards delay interrupts: under load the next batch
 * is larger, and a single packet (a request, a response) is never delayed. Workers share nothing
 * but the table and the raw ICMP sockets.
 *
 * The kernel spreads datagrams over the sockets (SO_REUSEPORT) by the hash of their outer
 * addresses: one thread gets all datagrams of a peer, so no flow is reordered. It writes each flow
 * to the TUN queue of the flow's hash; the kernel remembers the queue, and hands out the flow's
 * other direction there. So several flows between two hosts are sent by several threads.
 */
#define _GNU_SOURCE
#include "plane.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    RECLAIM_PAUSE = 50,   /* us between two checks whether a table is in use */
    GATHER_PAUSE = 50000, /* ns to sleep until more packets are there */
    SMALL_PAUSE = 150000, /* ns, for small packets: a message holds many of them */
    SMALL = 512,          /* bytes: below this average packets are small */
};

/* -- one worker ------------------------------------------------------------------------- */

enum { STOP, TUN, IPV4, IPV6, WAITS };

static uint64_t packets_of(const struct worker *worker) {
    return worker->counters.tx_reads + worker->counters.rx_packets;
}

static uint64_t bytes_of(const struct worker *worker) {
    return worker->counters.tx_bytes + worker->counters.rx_bytes;
}

/* Read and send one batch; false when the TUN device is gone. */
static bool serve(struct worker *worker, const struct pollfd *waits) {
    struct peer_table *table = peers_enter(&worker->reader, &worker->plane->table);
    bool there = true;
    if (waits[TUN].revents)
        there = transmit_burst(worker->tx, table) >= 0;
    if (waits[IPV4].revents)
        there = receive_burst(worker->rx, table, worker->queue.ipv4_fd) >= 0 && there;
    if (waits[IPV6].revents)
        there = receive_burst(worker->rx, table, worker->queue.ipv6_fd) >= 0 && there;
    peers_leave(&worker->reader);
    return there;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct plane *plane = worker->plane;
    struct pollfd waits[WAITS] = { /* poll() leaves out negative descriptors */
        [STOP] = {.fd = plane->stop_fd, .events = POLLIN},
        [TUN] = {.fd = worker->queue.tun_fd, .events = worker->tx ? POLLIN : 0},
        [IPV4] = {.fd = worker->rx ? worker->queue.ipv4_fd : -1, .events = POLLIN},
        [IPV6] = {.fd = worker->rx ? worker->queue.ipv6_fd : -1, .events = POLLIN},
    };
    const struct timespec pause = {.tv_nsec = GATHER_PAUSE}, small_pause = {.tv_nsec = SMALL_PAUSE};
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns; the usual 50 us would double the pause */
    for (;;) {
        uint64_t packets = packets_of(worker), bytes = bytes_of(worker);
        int ready = poll(waits, WAITS, -1);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0 || waits[STOP].revents)
            return NULL;
        if (waits[TUN].revents & (POLLERR | POLLHUP | POLLNVAL) || !serve(worker, waits)) {
            eventfd_write(plane->gone_fd, 1);
            return NULL;
        }
        packets = packets_of(worker) - packets;
        bytes = bytes_of(worker) - bytes;
        if (worker->pauses && packets > 1)
            nanosleep(bytes < packets * SMALL ? &small_pause : &pause, NULL);
    }
}

/* -- all of them ------------------------------------------------------------------------ */

static void *map_room(size_t size) {
    void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return room == MAP_FAILED ? NULL : room;
}

static bool make_worker(struct worker *worker, const struct settings *settings, bool sends,
                        bool receives) {
    struct plane *plane = worker->plane;
    struct icmp icmp = {.ipv4_fd = settings->icmp4_fd,
                        .ipv6_fd = settings->icmp6_fd,
                        .budget = ICMP_BURST};
    if (sends) {
        worker->tx = map_room(sizeof *worker->tx);
        if (!worker->tx)
            return false;
        worker->tx->tun_fd = worker->queue.tun_fd;
        worker->tx->ipv4_fd = worker->queue.ipv4_fd;
        worker->tx->ipv6_fd = worker->queue.ipv6_fd;
        worker->tx->single = settings->single;
        worker->tx->underlay_mtu = settings->underlay_mtu;
        worker->tx->icmp = icmp;
        worker->tx->counters = &worker->counters;
        transmit_start(worker->tx);
    }
    if (receives) {
        worker->rx = map_room(sizeof *worker->rx);
        if (!worker->rx)
            return false;
        worker->rx->room = map_room((size_t)MAX_RECEIVED * MESSAGE_ROOM);
        if (!worker->rx->room)
            return false;
        worker->rx->tun_fds = plane->tun_fds;
        worker->rx->tun_count = plane->tun_count;
        worker->rx->single = settings->single;
        worker->rx->icmp = icmp;
        worker->rx->counters = &worker->counters;
        receive_start(worker->rx, settings->udp_segmentation);
    }
    return true;
}

struct plane *plane_make(const struct queue *queues, unsigned count,
                         const struct settings *settings) {
    struct plane *plane = calloc(1, sizeof *plane);
    if (!plane)
        return NULL;
    plane->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    plane->gone_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (unsigned i = 0; i < count; i++)
        plane->tun_fds[plane->tun_count++] = queues[i].tun_fd;
    plane->worker_count = settings->split ? 2 * count : count;
    plane->workers = calloc(plane->worker_count + 1, sizeof *plane->workers);
    atomic_store(&plane->table, peers_make(NULL, 0, NULL, 0, NULL, 0));
    bool made = plane->stop_fd >= 0 && plane->gone_fd >= 0 && plane->workers &&
                atomic_load(&plane->table);
    for (unsigned i = 0; made && i < plane->worker_count; i++) {
        struct worker *worker = &plane->workers[i];
        worker->plane = plane;
        worker->queue = queues[settings->split ? i / 2 : i];
        worker->pauses = !settings->single;
        made = make_worker(worker, settings, !settings->split || i % 2 == 0,
                           !settings->split || i % 2 == 1);
    }
    if (made)
        return plane;
    int error = errno;
    plane_free(plane);
    errno = error;
    return NULL;
}

int plane_start(struct plane *plane) {
    sigset_t all, before;
    uint64_t token;
    (void)!read(plane->stop_fd, &token, sizeof token);
    sigfillset(&all); /* signals are the main thread's business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    for (unsigned i = 0; i < plane->worker_count && !error; i++) {
        struct worker *worker = &plane->workers[i];
        if (worker->running)
            continue;
        error = pthread_create(&worker->thread, NULL, work, worker);
        worker->running = error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        plane_stop(plane);
    return error;
}

void plane_stop(struct plane *plane) {
    eventfd_write(plane->stop_fd, 1);
    for (unsigned i = 0; i < plane->worker_count; i++) {
        if (plane->workers[i].running)
            pthread_join(plane->workers[i].thread, NULL);
        plane->workers[i].running = false;
    }
}

void plane_free(struct plane *plane) {
    if (plane->workers)
        plane_stop(plane);
    for (unsigned i = 0; plane->workers && i < plane->worker_count; i++) {
        struct worker *worker = &plane->workers[i];
        if (worker->tx)
            munmap(worker->tx, sizeof *worker->tx);
        if (worker->rx && worker->rx->room)
            munmap(worker->rx->room, (size_t)MAX_RECEIVED * MESSAGE_ROOM);
        if (worker->rx)
            munmap(worker->rx, sizeof *worker->rx);
    }
    free(plane->workers);
    peers_free(atomic_load(&plane->table));
    if (plane->stop_fd >= 0)
        close(plane->stop_fd);
    if (plane->gone_fd >= 0)
        close(plane->gone_fd);
    free(plane);
}

void plane_set_table(struct plane *plane, struct peer_table *table) {
    struct peer_table *old = atomic_exchange(&plane->table, table);
    for (unsigned i = 0; i < plane->worker_count; i++)
        while (atomic_load(&plane->workers[i].reader.using) == old)
            usleep(RECLAIM_PAUSE);
    peers_free(old);
}

struct counters plane_counters(const struct plane *plane) {
    struct counters sum = {0};
    for (unsigned i = 0; i < plane->worker_count; i++) {
        const struct counters *one = &plane->workers[i].counters;
#define ADD(name, help) sum.name += __atomic_load_n(&one->name, __ATOMIC_RELAXED);
        FOR_EACH_COUNTER(ADD)
#undef ADD
    }
    return sum;
}
