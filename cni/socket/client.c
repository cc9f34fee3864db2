/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The executable that a container runtime calls: flatmesh, flatmesh-ipam or flannel. The name
 * it is called by tells which.
 *
 * A runtime starts a process for each call, and starting a Python interpreter takes longer than
 * everything else in an ADD. So this program only sends the call (environment, stdin, the network
 * namespace as an open descriptor) over the daemon's unix socket, prints the answer, and exits
 * with its status. It is a static program and uses libc alone, and so starts in less than a
 * millisecond. protocol.py describes the protocol.
 *
 * Where no daemon answers (none runs, it refuses, it dies before it answers, or it tells us to),
 * this process becomes the Python program, with the same stdin, and that answers the call.
 * A daemon that has received the whole request and does not answer is not replaced in this way:
 * it may be at work on the call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef FLATMESH_PYTHON
#define FLATMESH_PYTHON "/opt/flatmesh/bin/python"
#endif

#define SEND_TIMEOUT 10        /* seconds, connecting included */
#define ANSWER_TIMEOUT 100     /* seconds; the daemon itself gives up earlier */
#define MAX_STDIN (16u << 20)  /* bytes, as in request.py */
#define MAX_ANSWER (64u << 20) /* bytes */
#define RUN_IT_YOURSELF 254    /* as in protocol.py */

extern char **environ;

struct request_header { char magic[4]; uint32_t plugin, environment, input; };
struct answer_header { char magic[4]; uint32_t status, length; };

static char *input;
static size_t input_length;

static void write_all(int fd, const char *data, size_t length) {
    while (length) {
        ssize_t put = write(fd, data, length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return; /* the reader has closed; it still gets the exit status */
        data += put;
        length -= (size_t)put;
    }
}

static void print(const char *text) { write_all(STDOUT_FILENO, text, strlen(text)); }

/* Print an error object of the specification and exit. The texts must need no JSON escapes. */
static void fail(int code, const char *message, const char *detail) {
    const char digits[] = {(char)('0' + code / 10), (char)('0' + code % 10), 0};
    print("{\"cniVersion\": \"1.0.0\", \"code\": ");
    print(code < 10 ? digits + 1 : digits);
    print(", \"msg\": \"");
    print(message);
    print("\"");
    if (detail) {
        print(", \"details\": \"");
        print(detail);
        print("\"");
    }
    print("}\n");
    _exit(1);
}

static void read_input(void) {
    size_t capacity = 1 << 16;
    input = malloc(capacity);
    if (!input)
        fail(11, "out of memory", NULL);
    if (isatty(STDIN_FILENO))
        return; /* called by hand, without a config */
    while (input_length <= MAX_STDIN) { /* one byte too many is sent, and refused by the answer */
        if (input_length == capacity) {
            capacity *= 2;
            input = realloc(input, capacity);
            if (!input)
                fail(11, "out of memory", NULL);
        }
        ssize_t got = read(STDIN_FILENO, input + input_length, capacity - input_length);
        if (got == 0)
            return;
        if (got > 0)
            input_length += (size_t)got;
        else if (errno == EBADF)
            return;
        else if (errno != EINTR)
            fail(5, "the config can't be read from stdin", strerror(errno));
    }
    input_length = MAX_STDIN + 1;
}

/* Become the Python program; a memory file gives it the stdin that we have read already. */
static void run_it_here(const char *plugin) {
    int fd = memfd_create("cni-stdin", 0);
    if (fd < 0)
        fail(5, "no daemon, and no memory file for the fallback", strerror(errno));
    write_all(fd, input, input_length);
    lseek(fd, 0, SEEK_SET);
    if (fd != STDIN_FILENO) {
        dup2(fd, STDIN_FILENO);
        close(fd);
    }
    char *const arguments[] = {FLATMESH_PYTHON, "-I", "-m", "cni.main", (char *)plugin, NULL};
    execv(FLATMESH_PYTHON, arguments);
    fail(5, "no daemon, and the fallback " FLATMESH_PYTHON " can't be run: install flatmesh again",
         strerror(errno));
}

static int connect_daemon(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("FLATMESH_SOCKET");
    const char *directory = getenv("FLATMESH_RUN_DIR"), *name = "";
    if (!path || !*path) {
        path = directory && *directory ? directory : "/run/flatmesh";
        name = "/cni.sock";
    }
    size_t length = strlen(path), name_length = strlen(name);
    if (length >= sizeof address.sun_path - name_length)
        return -1;
    memcpy(mempcpy(address.sun_path, path, length), name, name_length);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct timeval send_timeout = {.tv_sec = SEND_TIMEOUT}, answer_timeout = {.tv_sec = ANSWER_TIMEOUT};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof send_timeout);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &answer_timeout, sizeof answer_timeout);
    struct ucred peer;
    socklen_t peer_length = sizeof peer;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_length) == 0 &&
        (peer.uid == 0 || peer.uid == geteuid()))
        return fd;
    close(fd);
    return -1;
}

/* Send the whole request, the descriptors with its first byte. Returns 0 on success, or -1. */
static int send_request(int fd, const char *plugin) {
    size_t count = 0, size = 0;
    while (environ[count])
        size += strlen(environ[count++]) + 1;
    struct request_header header = {.plugin = (uint32_t)strlen(plugin),
                                    .environment = (uint32_t)size,
                                    .input = (uint32_t)input_length};
    memcpy(header.magic, "FMQ1", 4);
    size_t total = sizeof header + header.plugin + size + input_length, sent = 0;
    char *message = malloc(total), *end = message;
    if (!message)
        return -1;
    end = mempcpy(end, &header, sizeof header);
    end = mempcpy(end, plugin, header.plugin);
    for (size_t i = 0; i < count; i++)
        end = mempcpy(end, environ[i], strlen(environ[i]) + 1);
    memcpy(end, input, input_length);

    int fds[3], number = 0;
    fds[0] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    fds[1] = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (fds[0] < 0 || fds[1] < 0)
        return -1;
    number = 2;
    const char *netns = getenv("CNI_NETNS");
    if (netns && *netns) {
        fds[2] = open(netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fds[2] >= 0)
            number = 3;
    }
    union { char space[CMSG_SPACE(sizeof fds)]; struct cmsghdr align; } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {message, total};
    struct msghdr first = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space,
                           .msg_controllen = CMSG_SPACE((size_t)number * sizeof(int))};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&first);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN((size_t)number * sizeof(int));
    memcpy(CMSG_DATA(rights), fds, (size_t)number * sizeof(int));
    while (sent < total) {
        ssize_t put = sent ? send(fd, message + sent, total - sent, MSG_NOSIGNAL)
                           : sendmsg(fd, &first, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -1;
        sent += (size_t)put;
    }
    free(message);
    return 0;
}

/* Read `length` bytes; returns how many there were before the end of the stream or an error. */
static size_t receive(int fd, void *buffer, size_t length) {
    size_t have = 0;
    while (have < length) {
        ssize_t got = recv(fd, (char *)buffer + have, length - have, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail(11, "the flatmesh daemon did not answer in time; try again later", NULL);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    return have;
}

int main(int argc, char **argv) {
    const char *name = argc > 0 ? argv[0] : "flatmesh";
    const char *slash = strrchr(name, '/');
    const char *plugin = slash ? slash + 1 : name;
    read_input();

    int fd = connect_daemon();
    if (fd < 0)
        run_it_here(plugin);
    struct answer_header header;
    if (send_request(fd, plugin) != 0 || receive(fd, &header, sizeof header) < sizeof header ||
        memcmp(header.magic, "FMA1", 4) != 0 || header.status == RUN_IT_YOURSELF) {
        close(fd);
        run_it_here(plugin);
    }
    if (header.length > MAX_ANSWER)
        fail(5, "the flatmesh daemon's answer is too large", NULL);
    char *body = malloc((size_t)header.length + 1);
    if (!body)
        fail(11, "out of memory", NULL);
    if (receive(fd, body, header.length) < header.length)
        fail(11, "the flatmesh daemon closed the connection in the middle of its answer; try again later", NULL);
    write_all(STDOUT_FILENO, body, header.length);
    return (int)header.status;
}
