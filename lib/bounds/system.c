/*
 * What the kernel reads and writes for the program.
 *
 * The kernel does not trap on a guard page, it says EFAULT or stops short, and what it overwrites in
 * between it overwrites silently. So these are asked before the call, for all that the program says
 * it has: what will arrive can't be known, and a size that is too large is the error. A null pointer is
 * the kernel's to refuse; programs find out by it whether memory is there.
 *
 * Cancellation points stay that: the real function is called last, nothing here is held.
 */
#include <sys/socket.h>
#include <sys/uio.h>

#include "bounds/bounds.h"

enum { VECTORS_MAX = 1024 }; /* more are EINVAL (UIO_MAXIOV) */

static bool is_null(const void *p)
{
    return (uintptr_t)p < 4096;
}

static void check_filled(struct fh_here here, void *to, size_t size)
{
    if (!is_null(to))
        fh_check_write(here, to, size);
}

static void check_sent(struct fh_here here, const void *from, size_t size)
{
    if (!is_null(from))
        fh_check_read(here, from, size);
}

typedef void check_one(struct fh_here here, void *p, size_t size);

static void check_read_vector(struct fh_here here, void *p, size_t size)
{
    check_sent(here, p, size);
}

static void check_vectors(struct fh_here here, const struct iovec *vectors, size_t count,
                          check_one *check)
{
    if (is_null(vectors) || count > VECTORS_MAX)
        return;
    fh_check_read(here, vectors, count * sizeof(*vectors));
    for (size_t i = 0; i < count; i++)
        check(here, vectors[i].iov_base, vectors[i].iov_len);
}

static void check_vectors_of(struct fh_here here, const struct iovec *vectors, int count,
                             check_one *check)
{
    if (count > 0)
        check_vectors(here, vectors, (size_t)count, check);
}

static void check_message(struct fh_here here, const struct msghdr *message, check_one *check)
{
    if (is_null(message))
        return;
    fh_check_read(here, message, sizeof(*message));
    check_vectors(here, message->msg_iov, message->msg_iovlen, check);
    if (message->msg_name != NULL)
        check(here, message->msg_name, message->msg_namelen);
    if (message->msg_control != NULL)
        check(here, message->msg_control, message->msg_controllen);
}

/* ---- in --------------------------------------------------------------------------------------- */

/* A function that fills `size` bytes at `to`. */
#define FILL(type, name, shown, parameters, ...)                                                   \
    FH_WRAP(type, name, parameters)                                                                \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(shown);                                                                        \
            check_filled(here, to, size);                                                          \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }

FILL(ssize_t, read, read, (int fd, void *to, size_t size), fd, to, size)
FILL(ssize_t, pread, pread, (int fd, void *to, size_t size, off_t at), fd, to, size, at)
FILL(ssize_t, pread64, pread, (int fd, void *to, size_t size, int64_t at), fd, to, size, at)
FILL(ssize_t, recv, recv, (int fd, void *to, size_t size, int flags), fd, to, size, flags)
FILL(ssize_t, getrandom, getrandom, (void *to, size_t size, unsigned flags), to, size, flags)
FILL(int, getentropy, getentropy, (void *to, size_t size), to, size)
FILL(char *, getcwd, getcwd, (char *to, size_t size), to, size)
FILL(ssize_t, readlink, readlink, (const char *path, char *to, size_t size), path, to, size)
FILL(ssize_t, readlinkat, readlinkat, (int fd, const char *path, char *to, size_t size), fd, path,
     to, size)
FILL(int, gethostname, gethostname, (char *to, size_t size), to, size)
FILL(int, getdomainname, getdomainname, (char *to, size_t size), to, size)
FILL(int, ttyname_r, ttyname_r, (int fd, char *to, size_t size), fd, to, size)
FILL(int, getlogin_r, getlogin_r, (char *to, size_t size), to, size)
FILL(ssize_t, __read_chk, read, (int fd, void *to, size_t size, size_t to_size), fd, to, size,
     to_size)
FILL(ssize_t, __pread_chk, pread, (int fd, void *to, size_t size, off_t at, size_t to_size), fd, to,
     size, at, to_size)
FILL(ssize_t, __pread64_chk, pread, (int fd, void *to, size_t size, int64_t at, size_t to_size), fd,
     to, size, at, to_size)
FILL(ssize_t, __recv_chk, recv, (int fd, void *to, size_t size, size_t to_size, int flags), fd, to,
     size, to_size, flags)
FILL(char *, __getcwd_chk, getcwd, (char *to, size_t size, size_t to_size), to, size, to_size)
FILL(ssize_t, __readlink_chk, readlink, (const char *path, char *to, size_t size, size_t to_size),
     path, to, size, to_size)
FILL(ssize_t, __readlinkat_chk, readlinkat,
     (int fd, const char *path, char *to, size_t size, size_t to_size), fd, path, to, size, to_size)
FILL(int, __gethostname_chk, gethostname, (char *to, size_t size, size_t to_size), to, size,
     to_size)

static void check_address(struct fh_here here, struct sockaddr *address, const socklen_t *len)
{
    if (!is_null(address) && !is_null(len))
        fh_check_write(here, address, *len);
}

FH_WRAP(ssize_t, recvfrom,
        (int fd, void *to, size_t size, int flags, struct sockaddr *address, socklen_t *len))
{
    if (FH_IS_ON()) {
        FH_HERE(recvfrom);
        check_filled(here, to, size);
        check_address(here, address, len);
    }
    return fh_real.recvfrom(fd, to, size, flags, address, len);
}

FH_WRAP(ssize_t, __recvfrom_chk,
        (int fd, void *to, size_t size, size_t to_size, int flags, struct sockaddr *address,
         socklen_t *len))
{
    if (FH_IS_ON()) {
        FH_HERE(recvfrom);
        check_filled(here, to, size);
        check_address(here, address, len);
    }
    return fh_real.__recvfrom_chk(fd, to, size, to_size, flags, address, len);
}

FH_WRAP(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags))
{
    if (FH_IS_ON()) {
        FH_HERE(recvmsg);
        check_message(here, message, check_filled);
    }
    return fh_real.recvmsg(fd, message, flags);
}

/* ---- out -------------------------------------------------------------------------------------- */

#define SEND(name, shown, parameters, ...)                                                         \
    FH_WRAP(ssize_t, name, parameters)                                                             \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(shown);                                                                        \
            check_sent(here, from, size);                                                          \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }

SEND(write, write, (int fd, const void *from, size_t size), fd, from, size)
SEND(pwrite, pwrite, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
SEND(pwrite64, pwrite, (int fd, const void *from, size_t size, int64_t at), fd, from, size, at)
SEND(send, send, (int fd, const void *from, size_t size, int flags), fd, from, size, flags)

FH_WRAP(ssize_t, sendto,
        (int fd, const void *from, size_t size, int flags, const struct sockaddr *address,
         socklen_t len))
{
    if (FH_IS_ON()) {
        FH_HERE(sendto);
        check_sent(here, from, size);
        check_sent(here, address, len);
    }
    return fh_real.sendto(fd, from, size, flags, address, len);
}

FH_WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags))
{
    if (FH_IS_ON()) {
        FH_HERE(sendmsg);
        check_message(here, message, check_read_vector);
    }
    return fh_real.sendmsg(fd, message, flags);
}

/* ---- both by vectors -------------------------------------------------------------------------- */

#define VECTORS(name, shown, check, parameters, ...)                                               \
    FH_WRAP(ssize_t, name, parameters)                                                             \
    {                                                                                              \
        if (FH_IS_ON()) {                                                                          \
            FH_HERE(shown);                                                                        \
            check_vectors_of(here, vectors, count, check);                                         \
        }                                                                                          \
        return fh_real.name(__VA_ARGS__);                                                          \
    }

VECTORS(readv, readv, check_filled, (int fd, const struct iovec *vectors, int count), fd, vectors,
        count)
VECTORS(preadv, preadv, check_filled, (int fd, const struct iovec *vectors, int count, off_t at),
        fd, vectors, count, at)
VECTORS(preadv64, preadv, check_filled,
        (int fd, const struct iovec *vectors, int count, int64_t at), fd, vectors, count, at)
VECTORS(writev, writev, check_read_vector, (int fd, const struct iovec *vectors, int count), fd,
        vectors, count)
VECTORS(pwritev, pwritev, check_read_vector,
        (int fd, const struct iovec *vectors, int count, off_t at), fd, vectors, count, at)
VECTORS(pwritev64, pwritev, check_read_vector,
        (int fd, const struct iovec *vectors, int count, int64_t at), fd, vectors, count, at)
