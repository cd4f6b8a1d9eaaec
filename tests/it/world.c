/* A disk and a clock that a test may break, preloaded (LD_PRELOAD) into the service.
 *
 * The file named by OARLOCK_TEST_WORLD says how the world is, in words: `readonly` (writing fails with EROFS), `full`
 * (ENOSPC), `slow N` (each sync takes N ms), `clock N` (the wall clock is N s ahead). It is read anew at each call, and
 * files are only touched below the folder named by OARLOCK_TEST_DISK. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long word(const char *name) {
    char text[256];
    const char *path = getenv("OARLOCK_TEST_WORLD");
    long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (fd < 0) return -1;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (n <= 0) return -1;
    text[n] = 0;
    char *at = strstr(text, name);
    return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

/* 0, or the error of writing to the disk now. */
static int refused(void) {
    if (word("readonly") >= 0) return EROFS;
    return word("full") >= 0 ? ENOSPC : 0;
}

static int is_ours(const char *path) {
    const char *disk = getenv("OARLOCK_TEST_DISK");
    return disk && path && strncmp(path, disk, strlen(disk)) == 0;
}

static int is_our_file(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return is_ours(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSE_IF(ours)                                                                                                \
    do {                                                                                                               \
        int error = (ours) ? refused() : 0;                                                                            \
        if (error) {                                                                                                   \
            errno = error;                                                                                             \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        REFUSE_IF((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && is_ours(path));                                 \
        return REAL(name)(path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int at, const char *path, int flags, ...) {                                                               \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        REFUSE_IF((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && is_ours(path));                                 \
        return REAL(name)(at, path, flags, mode);                                                                      \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t n) {
    REFUSE_IF(is_our_file(fd));
    return REAL(write)(fd, bytes, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REFUSE_IF(is_our_file(fd));
    return REAL(writev)(fd, parts, n);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    REFUSE_IF(is_our_file(fd));
    return REAL(pwrite)(fd, bytes, n, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    REFUSE_IF(is_our_file(fd));
    return REAL(pwrite64)(fd, bytes, n, at);
}
int mkdir(const char *path, mode_t mode) {
    REFUSE_IF(is_ours(path));
    return REAL(mkdir)(path, mode);
}
int rename(const char *from, const char *to) {
    REFUSE_IF(is_ours(from) && word("readonly") >= 0);
    return REAL(rename)(from, to);
}
int unlink(const char *path) {
    REFUSE_IF(is_ours(path) && word("readonly") >= 0);
    return REAL(unlink)(path);
}

static void linger(int fd) {
    long ms = is_our_file(fd) ? word("slow") : -1;
    if (ms > 0) usleep(ms * 1000);
}
int fsync(int fd) {
    linger(fd);
    REFUSE_IF(is_our_file(fd));
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    linger(fd);
    REFUSE_IF(is_our_file(fd));
    return REAL(fdatasync)(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int outcome = syscall(SYS_clock_gettime, clock, now);
    if (outcome == 0 && clock == CLOCK_REALTIME) {
        const char *text = getenv("OARLOCK_TEST_WORLD");
        long ahead = text ? word("clock") : -1;
        if (ahead != -1) now->tv_sec += ahead;
    }
    return outcome;
}
