/*
 * A worker serves one queue: it sleeps in poll() until the TUN device or a socket has something,
 * then takes turns between them until all are empty. It holds the peer table only while it
 * works on a batch. Workers share nothing but the table and the raw ICMP sockets.
 *
 * The kernel spreads flows over TUN queues by their hash, and datagrams over the sockets
 * (SO_REUSEPORT) by theirs, which is the same for all of one peer: so no flow is ever
 * reordered.
 */
#define _GNU_SOURCE
#include "udp_plane.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RECLAIM_PAUSE = 50 }; /* us between two looks whether a table is still used */

/* -- one worker ------------------------------------------------------------------------- */

/* Work until nothing is left; false when the TUN device is gone. */
static bool drain(struct worker *worker) {
    struct plane *plane = worker->plane;
    int done = 1;
    while (done > 0 && !atomic_load_explicit(&plane->stop, memory_order_relaxed)) {
        struct peer_table *table = peers_enter(&worker->reader, &plane->table);
        int sent = worker->tx ? transmit_burst(worker->tx, table) : 0;
        int received = 0, received6 = 0;
        if (worker->rx && worker->queue.ipv4_fd >= 0)
            received = receive_burst(worker->rx, table, worker->queue.ipv4_fd);
        if (worker->rx && worker->queue.ipv6_fd >= 0)
            received6 = receive_burst(worker->rx, table, worker->queue.ipv6_fd);
        peers_leave(&worker->reader);
        if (sent < 0 || received < 0 || received6 < 0)
            return false;
        done = sent + received + received6;
    }
    return true;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct plane *plane = worker->plane;
    /* poll() leaves out negative descriptors */
    struct pollfd waits[] = {
        {.fd = plane->stop_fd, .events = POLLIN},
        {.fd = worker->queue.tun_fd, .events = worker->tx ? POLLIN : 0},
        {.fd = worker->rx ? worker->queue.ipv4_fd : -1, .events = POLLIN},
        {.fd = worker->rx ? worker->queue.ipv6_fd : -1, .events = POLLIN},
    };
    for (;;) {
        int ready = poll(waits, sizeof waits / sizeof waits[0], -1);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0 || waits[0].revents || atomic_load(&plane->stop))
            return NULL;
        if (waits[1].revents & (POLLERR | POLLHUP | POLLNVAL) || !drain(worker)) {
            eventfd_write(plane->gone_fd, 1);
            return NULL;
        }
    }
}

/* -- all of them ------------------------------------------------------------------------ */

static void *map_room(size_t size) {
    void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return room == MAP_FAILED ? NULL : room;
}

static bool make_worker(struct worker *worker, const struct settings *settings, bool sends,
                        bool receives) {
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
    }
    if (receives) {
        worker->rx = map_room(sizeof *worker->rx);
        if (!worker->rx)
            return false;
        worker->rx->room = map_room((size_t)MAX_RECEIVED * MESSAGE_ROOM);
        if (!worker->rx->room)
            return false;
        worker->rx->tun_fd = worker->queue.tun_fd;
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
    plane->worker_count = settings->split ? 2 * count : count;
    plane->workers = calloc(plane->worker_count + 1, sizeof *plane->workers);
    atomic_store(&plane->table, peers_make(NULL, 0, NULL, 0, NULL, 0));
    bool made = plane->stop_fd >= 0 && plane->gone_fd >= 0 && plane->workers &&
                atomic_load(&plane->table);
    for (unsigned i = 0; made && i < plane->worker_count; i++) {
        struct worker *worker = &plane->workers[i];
        worker->plane = plane;
        worker->queue = queues[settings->split ? i / 2 : i];
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
    atomic_store(&plane->stop, false);
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
    atomic_store(&plane->stop, true);
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
