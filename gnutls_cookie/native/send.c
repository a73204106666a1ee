/* Datagrams out by a UDP socket. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sendmmsg */
#endif
#include "send.h"
#include "udp.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: datagram sockets raise no SIGPIPE anyway */
#endif
#if defined(__linux__) && !defined(UDP_SEGMENT)
#define UDP_SEGMENT 103 /* linux/udp.h, since 4.18 */
#endif

enum {
    SENT_AT_ONCE = 64,  /* messages, and datagrams, in one system call */
    MOST_SEGMENTS = 64, /* UDP_MAX_SEGMENTS of Linux before 6.9 */
    MOST_BYTES = 65000, /* of a message: with its headers a packet of IP */
    /* For room in the socket's buffer, which a burst fills on a slow link. */
    MOST_WAITS = 3,
    WAIT_MS = 10,
};

#if GCOOKIE_UDP_PORTABLE
struct message {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};
#else
#define message mmsghdr
#endif

/* 1: the kernel, or a device of it, does not cut messages. Once is enough to know. */
static int cuts_nothing;

/* How many datagrams from the first on can be one message: of one way and size, and the last may be
 * shorter. */
static size_t count_run(const struct gcookie_datagram *datagrams, size_t count) {
#if defined(UDP_SEGMENT) && !GCOOKIE_UDP_PORTABLE
    const size_t size = datagrams[0].size;
    size_t run = 1, bytes = size;
    if (size == 0 || __atomic_load_n(&cuts_nothing, __ATOMIC_RELAXED))
        return 1;
    while (run < count && run < MOST_SEGMENTS && datagrams[run - 1].size == size &&
           datagrams[run].size > 0 && datagrams[run].size <= size &&
           bytes + datagrams[run].size <= MOST_BYTES &&
           memcmp(datagrams[run].path, datagrams[0].path, sizeof *datagrams[0].path) == 0)
        bytes += datagrams[run++].size;
    return run;
#else
    (void)datagrams, (void)count;
    return 1;
#endif
}

/* One message of `run` datagrams. */
static void lay_out(struct msghdr *header, struct iovec *vectors, union gcookie_control_out *room,
                    const struct gcookie_datagram *datagrams, size_t run) {
    const struct gcookie_path *path = datagrams[0].path;
    for (size_t at = 0; at < run; at++) {
        vectors[at].iov_base = (void *)datagrams[at].data; /* sendmsg only reads */
        vectors[at].iov_len = datagrams[at].size;
    }
    memset(header, 0, sizeof *header);
    gcookie_source_write(header, room, &path->source);
    header->msg_iov = vectors;
    header->msg_iovlen = run;
    header->msg_name = (void *)&path->address;
    header->msg_namelen = gcookie_address_size(&path->address);
#if defined(UDP_SEGMENT) && !GCOOKIE_UDP_PORTABLE
    if (run > 1) {
        const uint16_t size = (uint16_t)datagrams[0].size;
        const size_t before = header->msg_controllen;
        struct cmsghdr *one = (struct cmsghdr *)(void *)(room->bytes + before);
        memset(one, 0, CMSG_SPACE(sizeof size));
        one->cmsg_level = IPPROTO_UDP;
        one->cmsg_type = UDP_SEGMENT;
        one->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(one), &size, sizeof size);
        header->msg_control = room->bytes;
        header->msg_controllen = before + CMSG_SPACE(sizeof size);
    }
#endif
}

/* Whether it is worth another try: the call was interrupted, or the buffer, which was full, has
 * room again. In a link that takes nothing one wait is the last. */
static int can_go_on(int fd, unsigned int *waits) {
    struct pollfd polled = {fd, POLLOUT, 0};
    if (errno == EINTR)
        return 1;
    if ((errno != EAGAIN && errno != EWOULDBLOCK) || *waits == 0)
        return 0;
    --*waits;
    if (poll(&polled, 1, WAIT_MS) > 0)
        return 1;
    *waits = 0;
    return 0;
}

static int send_message(int fd, const struct msghdr *header, unsigned int *waits) {
    ssize_t sent;
    do {
        sent = sendmsg(fd, header, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && can_go_on(fd, waits));
    return sent >= 0;
}

/* The datagrams of a message that was not taken, one by one. */
static unsigned int send_apart(int fd, const struct gcookie_datagram *datagrams, size_t run,
                               unsigned int *waits) {
    unsigned int lost = 0;
    for (size_t at = 0; at < run; at++) {
        union gcookie_control_out room;
        struct iovec vector;
        struct msghdr header;
        lay_out(&header, &vector, &room, datagrams + at, 1);
        lost += !send_message(fd, &header, waits);
    }
    return lost;
}

static int send_messages(int fd, struct message *messages, unsigned int count) {
#if GCOOKIE_UDP_PORTABLE
    (void)count;
    return sendmsg(fd, &messages->msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 1;
#else
    return sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
#endif
}

/* The messages of one system call, all of them. `first` says which datagram each begins with, and
 * behind the last one, with which the next would. */
static unsigned int send_all(int fd, struct message *messages, unsigned int count,
                             const struct gcookie_datagram *datagrams, const size_t *first,
                             unsigned int *waits) {
    unsigned int lost = 0;
    for (unsigned int at = 0; at < count;) {
        const int sent = send_messages(fd, messages + at, count - at);
        const size_t run = first[at + 1] - first[at];
        if (sent > 0) {
            at += (unsigned int)sent;
            continue;
        }
        if (sent < 0 && can_go_on(fd, waits))
            continue;
        if (run > 1) {
            /* Not EINVAL: it may be of this path alone, whose MTU is less (net/ipv4/udp.c). */
            if (errno == EIO || errno == EOPNOTSUPP || errno == ENOPROTOOPT)
                __atomic_store_n(&cuts_nothing, 1, __ATOMIC_RELAXED);
            lost += send_apart(fd, datagrams + first[at], run, waits);
        } else {
            lost++;
        }
        at++;
    }
    return lost;
}

unsigned int gcookie_send_each(int fd, const struct gcookie_datagram *datagrams, size_t count) {
    struct message messages[SENT_AT_ONCE];
    struct iovec vectors[SENT_AT_ONCE];
    union gcookie_control_out rooms[SENT_AT_ONCE];
    size_t first[SENT_AT_ONCE + 1];
    unsigned int lost = 0, waits = MOST_WAITS;

    for (size_t at = 0; at < count;) {
        unsigned int number = 0;
        size_t used = 0;
        while (at < count && number < SENT_AT_ONCE && used < SENT_AT_ONCE) {
            size_t most = count - at < SENT_AT_ONCE - used ? count - at : SENT_AT_ONCE - used;
            const size_t run = count_run(datagrams + at, most);
            memset(&messages[number], 0, sizeof messages[number]);
            lay_out(&messages[number].msg_hdr, vectors + used, &rooms[number], datagrams + at, run);
            first[number++] = at;
            used += run;
            at += run;
        }
        first[number] = at;
        lost += send_all(fd, messages, number, datagrams, first, &waits);
    }
    return lost;
}
