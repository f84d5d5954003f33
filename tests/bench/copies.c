/* Count the bytes that a process copies, and those that it reads and writes: loaded before libc (LD_PRELOAD).

   Each process has a file of its own in the folder POLKU_COPIES, named by its number, with four counters of 64 bits:
   copied (memcpy, memmove and the like, of POLKU_COPIES_LEAST bytes or more), read, written, and written to files at
   a place (pwrite), where SQLite writes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COPIED, READ, WRITTEN, PLACED, COUNTERS };

static uint64_t unknown[COUNTERS], *counters = unknown;
static pid_t owner;
static size_t least;

static void open_file(void) {
    const char *folder = getenv("POLKU_COPIES"), *bytes = getenv("POLKU_COPIES_LEAST");
    char path[4096];
    owner = getpid();
    counters = unknown;
    least = bytes ? strtoul(bytes, NULL, 10) : 1024;
    if (!folder) return;
    snprintf(path, sizeof path, "%s/%d", folder, owner);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    if (ftruncate(file, sizeof unknown) == 0) {
        void *map = mmap(NULL, sizeof unknown, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (map != MAP_FAILED) counters = map;
    }
    close(file);
}

static void count(int which, ssize_t bytes) {
    if (bytes <= 0) return;
    if (owner != getpid()) open_file(); /* also after a fork */
    __atomic_add_fetch(&counters[which], (uint64_t)bytes, __ATOMIC_RELAXED);
}

static void count_copy(size_t n) {
    if (owner != getpid()) open_file();
    if (n >= least) count(COPIED, (ssize_t)n);
}

#define REAL(name) ((__typeof__(name) *)real(&name##_, #name))

static void *real(void **known, const char *name) {
    if (!*known) *known = dlsym(RTLD_NEXT, name);
    return *known;
}

static void *copy(void *to, const void *from, size_t n, void **known, const char *name) {
    static __thread int looking; /* dlsym may copy, too */
    if (!*known && !looking) {
        looking = 1;
        real(known, name);
        looking = 0;
    }
    if (owner == 0 || n >= least) count_copy(n);
    if (*known) return ((void *(*)(void *, const void *, size_t)) * known)(to, from, n);
    volatile char *t = to;
    const volatile char *f = from;
    if (t < f || t >= f + n)
        while (n--) *t++ = *f++;
    else
        while (n--) t[n] = f[n];
    return to;
}

static void *memcpy_, *memmove_;

void *memcpy(void *to, const void *from, size_t n) { return copy(to, from, n, &memcpy_, "memcpy"); }
void *memmove(void *to, const void *from, size_t n) { return copy(to, from, n, &memmove_, "memmove"); }
void *__memcpy_chk(void *to, const void *from, size_t n, size_t room) { return memcpy(to, from, n <= room ? n : room); }
void *__memmove_chk(void *to, const void *from, size_t n, size_t room) { return memmove(to, from, n <= room ? n : room); }
void *mempcpy(void *to, const void *from, size_t n) { return (char *)memcpy(to, from, n) + n; }

#define COUNTED(which, name, parameters, arguments) \
    static void *name##_;                           \
    ssize_t name parameters {                       \
        ssize_t bytes = REAL(name) arguments;       \
        count(which, bytes);                        \
        return bytes;                               \
    }

COUNTED(READ, read, (int fd, void *to, size_t n), (fd, to, n))
COUNTED(READ, readv, (int fd, const struct iovec *to, int n), (fd, to, n))
COUNTED(READ, recv, (int fd, void *to, size_t n, int flags), (fd, to, n, flags))
COUNTED(READ, recvmsg, (int fd, struct msghdr *to, int flags), (fd, to, flags))
COUNTED(READ, recvfrom, (int fd, void *to, size_t n, int flags, struct sockaddr *a, socklen_t *l), (fd, to, n, flags, a, l))
COUNTED(WRITTEN, write, (int fd, const void *from, size_t n), (fd, from, n))
COUNTED(WRITTEN, writev, (int fd, const struct iovec *from, int n), (fd, from, n))
COUNTED(WRITTEN, send, (int fd, const void *from, size_t n, int flags), (fd, from, n, flags))
COUNTED(WRITTEN, sendmsg, (int fd, const struct msghdr *from, int flags), (fd, from, flags))
COUNTED(WRITTEN, sendto, (int fd, const void *from, size_t n, int flags, const struct sockaddr *a, socklen_t l), (fd, from, n, flags, a, l))
COUNTED(PLACED, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at))
COUNTED(PLACED, pwrite64, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at))
