/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What client.c needs of a C library, for Linux on x86-64.
 *
 * The start of a C library asks the processor for its features and caches. On a virtual machine
 * each of these questions (cpuid) is answered by the hypervisor, which took 0.6 of the 0.7 ms that
 * a static program with glibc needs from its start to its end. This program asks nothing.
 *
 * The start does what hardening needs: it moves the program's pointers to where the kernel has
 * loaded it (PIE), gives the stack protector its canary, and then makes the moved pointers
 * read-only (RELRO).
 */
#if !defined(__x86_64__) || !defined(__linux__) || !defined(__LP64__)
#error "other processors use a C library"
#endif

#undef _FORTIFY_SOURCE /* it is for those who call these functions */

#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define TCGETS 0x5401 /* asm-generic/ioctls.h */

char **environ;
extern Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));
static int last_error;
static struct { void *self; uint64_t unused[4], canary; } thread; /* canary at 40: the x86-64 ABI */

int main(int argc, char **argv);
void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *mempcpy(void *restrict to, const void *restrict from, size_t length);
void *memset(void *to, int byte, size_t length);

static long kernel(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long checked(long result) {
    if (result < 0 && result > -4096) {
        last_error = (int)-result;
        return -1;
    }
    return result;
}

#define CALL(number, a, b, c, d, e, f) \
    checked(kernel(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))

int *__errno_location(void) { return &last_error; }

ssize_t read(int fd, void *to, size_t length) { return CALL(SYS_read, fd, to, length, 0, 0, 0); }
ssize_t write(int fd, const void *from, size_t length) {
    return CALL(SYS_write, fd, from, length, 0, 0, 0);
}
int close(int fd) { return (int)CALL(SYS_close, fd, 0, 0, 0, 0, 0); }
int dup2(int fd, int other) { return (int)CALL(SYS_dup2, fd, other, 0, 0, 0, 0); }
off_t lseek(int fd, off_t to, int from) { return CALL(SYS_lseek, fd, to, from, 0, 0, 0); }
int open(const char *path, int flags, ...) { return (int)CALL(SYS_open, path, flags, 0, 0, 0, 0); }
int memfd_create(const char *name, unsigned flags) {
    return (int)CALL(SYS_memfd_create, name, flags, 0, 0, 0, 0);
}
int execv(const char *path, char *const argv[]) {
    return (int)CALL(SYS_execve, path, argv, environ, 0, 0, 0);
}
uid_t geteuid(void) { return (uid_t)CALL(SYS_geteuid, 0, 0, 0, 0, 0, 0); }
int isatty(int fd) {
    char settings[64]; /* struct termios of the kernel has 36 bytes */
    return CALL(SYS_ioctl, fd, TCGETS, settings, 0, 0, 0) == 0;
}
int socket(int family, int type, int protocol) {
    return (int)CALL(SYS_socket, family, type, protocol, 0, 0, 0);
}
int connect(int fd, const struct sockaddr *address, socklen_t length) {
    return (int)CALL(SYS_connect, fd, address, length, 0, 0, 0);
}
int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
    return (int)CALL(SYS_setsockopt, fd, level, option, value, length, 0);
}
int getsockopt(int fd, int level, int option, void *restrict value, socklen_t *restrict length) {
    return (int)CALL(SYS_getsockopt, fd, level, option, value, length, 0);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return CALL(SYS_sendmsg, fd, message, flags, 0, 0, 0);
}
ssize_t send(int fd, const void *from, size_t length, int flags) {
    return CALL(SYS_sendto, fd, from, length, flags, 0, 0);
}
ssize_t recv(int fd, void *to, size_t length, int flags) {
    return CALL(SYS_recvfrom, fd, to, length, flags, 0, 0);
}
void _exit(int status) {
    for (;;)
        CALL(SYS_exit_group, status, 0, 0, 0, 0, 0);
}
static void give_up(const char *text, size_t length) {
    CALL(SYS_write, STDERR_FILENO, text, length, 0, 0, 0);
    CALL(SYS_kill, kernel(SYS_getpid, 0, 0, 0, 0, 0, 0), 6 /* SIGABRT */, 0, 0, 0, 0);
    _exit(134); /* the first process of a namespace gets no signal from itself */
}
#define GIVE_UP(text) give_up(text, sizeof text - 1)

void __stack_chk_fail(void);
void __stack_chk_fail(void) { GIVE_UP("*** stack smashing detected ***: terminated\n"); }

/* Each block is a mapping of its own, whose length stands before it. */
void *malloc(size_t length) {
    if (length > SIZE_MAX - PAGE)
        return NULL;
    size_t whole = length + 16;
    long at = CALL(SYS_mmap, 0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == -1)
        return NULL;
    *(size_t *)at = whole;
    return (char *)at + 16;
}
void free(void *block) {
    if (block) {
        char *at = (char *)block - 16;
        CALL(SYS_munmap, at, *(size_t *)at, 0, 0, 0, 0);
    }
}
void *realloc(void *block, size_t length) {
    void *other = malloc(length);
    if (other && block) {
        size_t had = *(size_t *)((char *)block - 16) - 16;
        memcpy(other, block, had < length ? had : length);
        free(block);
    }
    return other;
}

/* A loop in C would be compiled to a call of the function itself. */
void *mempcpy(void *restrict to, const void *restrict from, size_t length) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return to;
}
void *memcpy(void *restrict to, const void *restrict from, size_t length) {
    mempcpy(to, from, length);
    return to;
}
void *memset(void *to, int byte, size_t length) {
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(byte) : "memory");
    return to;
}

/* What the compiler calls for these where it knows the room that there is (_FORTIFY_SOURCE). */
static void require_room(size_t length, size_t room) {
    if (length > room)
        GIVE_UP("*** buffer overflow detected ***: terminated\n");
}
void *__memcpy_chk(void *to, const void *from, size_t length, size_t room);
void *__memcpy_chk(void *to, const void *from, size_t length, size_t room) {
    require_room(length, room);
    return memcpy(to, from, length);
}
void *__mempcpy_chk(void *to, const void *from, size_t length, size_t room);
void *__mempcpy_chk(void *to, const void *from, size_t length, size_t room) {
    require_room(length, room);
    return mempcpy(to, from, length);
}
void *__memset_chk(void *to, int byte, size_t length, size_t room);
void *__memset_chk(void *to, int byte, size_t length, size_t room) {
    require_room(length, room);
    return memset(to, byte, length);
}
ssize_t __read_chk(int fd, void *to, size_t length, size_t room);
ssize_t __read_chk(int fd, void *to, size_t length, size_t room) {
    require_room(length, room);
    return read(fd, to, length);
}
ssize_t __recv_chk(int fd, void *to, size_t length, size_t room, int flags);
ssize_t __recv_chk(int fd, void *to, size_t length, size_t room, int flags) {
    require_room(length, room);
    return recv(fd, to, length, flags);
}

int memcmp(const void *left, const void *right, size_t length) {
    const unsigned char *a = left, *b = right;
    for (; length; a++, b++, length--)
        if (*a != *b)
            return *a - *b;
    return 0;
}
size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length]) {
        __asm__ volatile("" : "+r"(length)); /* or it would be compiled to a call of itself */
        length++;
    }
    return length;
}
char *strrchr(const char *text, int byte) {
    const char *found = NULL;
    do
        if (*text == (char)byte)
            found = text;
    while (*text++);
    return (char *)found;
}
char *getenv(const char *name) {
    size_t length = strlen(name);
    for (char **one = environ; *one; one++) {
        size_t same = 0;
        while (same < length && (*one)[same] == name[same])
            same++;
        if (same == length && (*one)[length] == '=')
            return *one + length + 1;
    }
    return NULL;
}
char *strerror(int number) {
    static const struct { int number; const char *text; } known[] = {
        {ENOENT, "No such file or directory"},
        {EIO, "Input/output error"},
        {ENOEXEC, "Exec format error"},
        {ENOMEM, "Cannot allocate memory"},
        {EACCES, "Permission denied"},
        {EISDIR, "Is a directory"},
        {EMFILE, "Too many open files"},
        {ENFILE, "Too many open files in system"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == number)
            return (char *)known[i].text;
    static char text[] = "error number 0000";
    for (size_t at = sizeof text - 2; at > sizeof text - 6; at--, number /= 10)
        text[at] = (char)('0' + number % 10);
    return text;
}

/* Nothing before the canary is set may check it: neither these functions nor what they call. */
#define EARLY __attribute__((used, noinline, optimize("no-stack-protector")))
#if defined(__has_attribute)
#if __has_attribute(no_stack_protector)
#undef EARLY
#define EARLY __attribute__((used, noinline, no_stack_protector))
#endif
#endif

/* Where the kernel has loaded the program; the compiler shall not know which object it is. */
EARLY static char *loaded_at(void) {
    char *base = (char *)&__ehdr_start;
    __asm__ volatile("" : "+r"(base));
    return base;
}

EARLY static void move_pointers(void) {
    char *base = loaded_at();
    const Elf64_Rela *move = NULL;
    size_t length = 0;
    for (const Elf64_Dyn *one = _DYNAMIC; one->d_tag != DT_NULL; one++) {
        if (one->d_tag == DT_RELA)
            move = (const Elf64_Rela *)(base + one->d_un.d_ptr);
        else if (one->d_tag == DT_RELASZ)
            length = one->d_un.d_val;
    }
    for (; move && length >= sizeof *move; move++, length -= sizeof *move) {
        if (ELF64_R_TYPE(move->r_info) != R_X86_64_RELATIVE)
            _exit(127);
        *(uint64_t *)(base + move->r_offset) = (uint64_t)base + (uint64_t)move->r_addend;
    }
}

EARLY static void protect_pointers(void) {
    const char *base = loaded_at();
    const Elf64_Phdr *part = (const Elf64_Phdr *)(base + __ehdr_start.e_phoff);
    for (size_t i = 0; i < __ehdr_start.e_phnum; i++) {
        if (part[i].p_type != PT_GNU_RELRO)
            continue;
        uint64_t begin = ((uint64_t)base + part[i].p_vaddr) & ~(PAGE - 1);
        uint64_t end = ((uint64_t)base + part[i].p_vaddr + part[i].p_memsz) & ~(PAGE - 1);
        if (end > begin && CALL(SYS_mprotect, begin, end - begin, PROT_READ, 0, 0, 0) != 0)
            _exit(127);
    }
}

/* `stack` is as the kernel leaves it: argc, argv, NULL, environ, NULL, auxiliary values. */
EARLY static void begin(long *stack) {
    move_pointers();
    long argc = stack[0];
    char **argv = (char **)(stack + 1);
    environ = argv + argc + 1;
    char **end = environ;
    while (*end)
        end++;
    for (const Elf64_auxv_t *one = (const Elf64_auxv_t *)(end + 1); one->a_type != AT_NULL; one++)
        if (one->a_type == AT_RANDOM) /* the first byte stays 0: no text can hold the canary */
            thread.canary = *(const uint64_t *)one->a_un.a_val & ~(uint64_t)0xff;
    thread.self = &thread;
    if (CALL(SYS_arch_prctl, ARCH_SET_FS, &thread, 0, 0, 0, 0) != 0)
        _exit(127);
    protect_pointers();
    _exit(main((int)argc, argv));
}

__asm__(".globl _start\n.type _start, @function\n_start:\n"
        "xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall enter_program\nhlt\n");
EARLY void enter_program(long *stack);
EARLY void enter_program(long *stack) { begin(stack); }
