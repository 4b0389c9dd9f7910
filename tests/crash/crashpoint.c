/* LD_PRELOAD library: a crash before the n-th call that changes something which has to last.
 *
 * $CRASHPOINT names a file that all processes of one run map: struct shared. Each call below is
 * counted there, over all threads and children: execve passes the library on, whatever environment
 * the child gets. When the count reaches `at`, the process group is killed with SIGKILL before the
 * call is made; with `alone` set only the first process, and its children go on. With `log` set,
 * every point is written to "$CRASHPOINT.log".
 *
 * What ctr and Compose do inside is not counted (Go makes system calls by itself). That they are
 * started is a point, requests to a server are, and a start of `docker-compose up` has more of
 * them: killed some time later.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PATH_SIZE 400
#define ARGUMENTS 256

struct shared { /* crash.py knows this layout */
    _Atomic uint64_t count;
    uint64_t at;
    uint32_t log;
    uint32_t alone;
    _Atomic uint32_t first;
    char name[32];
    char path[PATH_SIZE];
};
static struct shared *shared;
static char variable[PATH_SIZE] = "CRASHPOINT=";
static char preload[PATH_SIZE] = "LD_PRELOAD=";

/* Milliseconds after the start of `docker-compose up` at which it is killed too. */
static const int delays[] = {30, 100, 250, 500, 1000};

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("CRASHPOINT"), *self = getenv("LD_PRELOAD");
    if (!file || !self)
        return;
    strncat(variable, file, PATH_SIZE / 2);
    strncat(preload, self, PATH_SIZE / 2);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(0, sizeof *shared, 3, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        _exit(99); /* a run that counts nothing must not look like one that passed */
    close(fd);
    shared = map;
    uint32_t nobody = 0;
    atomic_compare_exchange_strong(&shared->first, &nobody, (uint32_t)getpid());
}

static void write_log(uint64_t n, const char *name, const char *path)
{
    char file[PATH_SIZE + 8], line[PATH_SIZE + 64];
    snprintf(file, sizeof file, "%s.log", strchr(variable, '=') + 1);
    int size = snprintf(line, sizeof line, "%llu %s %s\n", (unsigned long long)n, name, path);
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    syscall(SYS_write, fd, line, size);
    syscall(SYS_close, fd);
}

/* Also runs in a vfork child: no memory is allocated. */
static int due(const char *name, const char *path)
{
    if (!shared)
        return 0;
    uint64_t n = atomic_fetch_add(&shared->count, 1) + 1;
    if (shared->log)
        write_log(n, name, path);
    if (n != shared->at)
        return 0;
    snprintf(shared->name, sizeof shared->name, "%s", name);
    snprintf(shared->path, sizeof shared->path, "%s", path);
    return 1;
}

static void die(void)
{
    kill(shared->alone ? (pid_t)shared->first : 0, SIGKILL);
}

static void point(const char *name, const char *path)
{
    if (due(name, path))
        die();
}

static void describe(int fd, char *into) /* an absolute path, or nothing */
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, into, PATH_SIZE - 1);
    into[size < 0 || into[0] != '/' ? 0 : size] = 0;
}

static void point_fd(const char *name, int fd)
{
    char path[PATH_SIZE];
    int saved = errno;
    describe(fd, path);
    errno = saved;
    /* Pipes and sockets have no path; devices and nameless scratch files do not last. */
    if (path[0] && strncmp(path, "/dev/", 5) && !strstr(path, " (deleted)"))
        point(name, path);
}

static void point_at(const char *name, int fd, const char *path)
{
    char whole[2 * PATH_SIZE] = "";
    int saved = errno;
    if (path[0] != '/' && fd != AT_FDCWD) {
        describe(fd, whole);
        strcat(whole, "/");
    }
    strncat(whole, path, PATH_SIZE / 2);
    errno = saved;
    point(name, whole);
}

#define NEXT(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
#define NEXT_SIZE(name, ...) ((ssize_t(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

#define OF_FD(name) \
    int name(int fd) { point_fd(#name, fd); return NEXT(name, int)(fd); }
OF_FD(fsync)
OF_FD(fdatasync)

#define OF_LENGTH(name, type) \
    int name(int fd, type length) \
    { point_fd(#name, fd); return NEXT(name, int, type)(fd, length); }
OF_LENGTH(ftruncate, off_t)
OF_LENGTH(ftruncate64, off64_t)

ssize_t write(int fd, const void *data, size_t size)
{
    point_fd("write", fd);
    return NEXT_SIZE(write, int, const void *, size_t)(fd, data, size);
}

#define OF_PWRITE(name, type) \
    ssize_t name(int fd, const void *data, size_t size, type offset) \
    { \
        point_fd(#name, fd); \
        return NEXT_SIZE(name, int, const void *, size_t, type)(fd, data, size, offset); \
    }
OF_PWRITE(pwrite, off_t)
OF_PWRITE(pwrite64, off64_t)

#define OF_WRITEV(name, type) \
    ssize_t name(int fd, const struct iovec *data, int count, type offset) \
    { \
        point_fd(#name, fd); \
        return NEXT_SIZE(name, int, const struct iovec *, int, type)(fd, data, count, offset); \
    }
OF_WRITEV(pwritev, off_t)
OF_WRITEV(pwritev64, off64_t)

ssize_t copy_file_range(int from, off64_t *skip, int to, off64_t *offset, size_t size, unsigned flags)
{
    point_fd("copy_file_range", to);
    return NEXT_SIZE(copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned)(
        from, skip, to, offset, size, flags);
}

#define OF_SENDFILE(name, type) \
    ssize_t name(int to, int from, type *offset, size_t size) \
    { point_fd(#name, to); return NEXT_SIZE(name, int, int, type *, size_t)(to, from, offset, size); }
OF_SENDFILE(sendfile, off_t)
OF_SENDFILE(sendfile64, off64_t)

#define OF_PATH(name) \
    int name(const char *path) \
    { point_at(#name, AT_FDCWD, path); return NEXT(name, const char *)(path); }
OF_PATH(unlink)
OF_PATH(rmdir)

int unlinkat(int fd, const char *path, int flags)
{
    point_at("unlinkat", fd, path);
    return NEXT(unlinkat, int, const char *, int)(fd, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    point_at("mkdir", AT_FDCWD, path);
    return NEXT(mkdir, const char *, mode_t)(path, mode);
}

int mkdirat(int fd, const char *path, mode_t mode)
{
    point_at("mkdirat", fd, path);
    return NEXT(mkdirat, int, const char *, mode_t)(fd, path, mode);
}

#define OF_TWO(name) \
    int name(const char *old, const char *new) \
    { point_at(#name, AT_FDCWD, new); return NEXT(name, const char *, const char *)(old, new); }
OF_TWO(rename)
OF_TWO(symlink)
OF_TWO(link)

int symlinkat(const char *old, int fd, const char *new)
{
    point_at("symlinkat", fd, new);
    return NEXT(symlinkat, const char *, int, const char *)(old, fd, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    point_at("renameat", to, new);
    return NEXT(renameat, int, const char *, int, const char *)(from, old, to, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    point_at("renameat2", to, new);
    return NEXT(renameat2, int, const char *, int, const char *, unsigned)(
        from, old, to, new, flags);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    point_at("linkat", to, new);
    return NEXT(linkat, int, const char *, int, const char *, int)(from, old, to, new, flags);
}

int mount(const char *what, const char *where, const char *type, unsigned long flags,
          const void *data)
{
    point("mount", where);
    return NEXT(mount, const char *, const char *, const char *, unsigned long, const void *)(
        what, where, type, flags, data);
}

int umount2(const char *where, int flags)
{
    point("umount2", where);
    return NEXT(umount2, const char *, int)(where, flags);
}

/* A request that changes something at a server, the engine for one. */
static void point_request(const void *data, size_t size)
{
    char line[PATH_SIZE] = "";
    if (size < 8)
        return;
    memcpy(line, data, size < sizeof line ? size : sizeof line - 1);
    if (strncmp(line, "POST ", 5) && strncmp(line, "PUT ", 4) && strncmp(line, "DELETE ", 7))
        return;
    line[strcspn(line, "\r\n")] = 0;
    point("request", line);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    point_request(data, size);
    return NEXT_SIZE(send, int, const void *, size_t, int)(fd, data, size, flags);
}

/* Kill the group `milliseconds` after this. In a vfork child: plain system calls only. */
static void die_later(int milliseconds)
{
    if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) != 0)
        return;
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    syscall(SYS_nanosleep, &time, 0);
    die();
    _exit(99);
}

static void point_start(const char *path, char *const argv[])
{
    char line[PATH_SIZE] = "";
    const char *last = "";
    for (int i = 0; argv[i]; i++) {
        strncat(line, argv[i], PATH_SIZE - 2 - strlen(line));
        strcat(line, " ");
        last = strcmp(argv[i], "up") ? last : "up";
    }
    point("start", line);
    if (!strstr(path, "docker-compose") || strcmp(last, "up"))
        return;
    for (unsigned i = 0; i < sizeof delays / sizeof *delays; i++) {
        char name[32];
        snprintf(name, sizeof name, "started+%dms", delays[i]);
        if (due(name, line))
            die_later(delays[i]);
    }
}

int execve(const char *path, char *const argv[], char *const envp[])
{
    char *all[ARGUMENTS];
    int count = 0;
    /* The stand-in for systemd is none of ours: what it starts lives on. */
    if (!shared || access(path, X_OK) || !strcmp(path, "/run/testbed-engine"))
        return NEXT(execve, const char *, char *const *, char *const *)(path, argv, envp);
    point_start(path, argv);
    for (; envp && envp[count] && count < ARGUMENTS - 3; count++)
        all[count] = envp[count];
    all[count++] = variable;
    all[count++] = preload;
    all[count] = 0;
    return NEXT(execve, const char *, char *const *, char *const *)(path, argv, all);
}
