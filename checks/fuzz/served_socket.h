/* For server.c, built with GCOOKIE_SERVE: serve.c in front of the server, on a socket that is made
 * up here. What peers send lies in the socket until a turn takes it, some of it much later; what a
 * turn sends goes to the peers. Claimed besides: every datagram is counted once, as what it was;
 * answers leave from where the question came to; a turn ends, and the next one is wanted in time.
 */
#ifndef GCOOKIE_FUZZ_SERVED_SOCKET_H
#define GCOOKIE_FUZZ_SERVED_SOCKET_H

#include "serve.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h */
#endif

enum {                      /* the second byte of an input */
       RECEIVING_FAILS = 1, /* now and then */
       SENDING_FAILS = 2,
       WILDCARD = 4,
       SMALL_BATCH = 8,
       SLOW = 16,         /* a look at the clock takes long */
       WAITS = 32,        /* for a datagram before a turn, as threads do */
       CUTS_NOTHING = 64, /* the kernel */
};
enum { IN = 77, OUT = 78, IN_SOCKET = 600, CAPACITY = 2048, MOST_SYSTEM_CALLS = 4000, WORK_MS = 5 };

struct lying {
    struct peer *from;
    struct datagram datagram;
};

static struct gcookie_udp *udp;
static struct gcookie_serve serve;
static struct gcookie_keys cookie_keys;
static struct gcookie_counters judged;
static struct lying lying[IN_SOCKET];
static unsigned int lying_count, system_options, system_calls, faults;
static int64_t clock_us;

int fuzz_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                  struct timespec *timeout);
int fuzz_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t fuzz_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags);
int fuzz_poll(struct pollfd *polled, nfds_t count, int milliseconds);
int fuzz_clock_gettime(clockid_t id, struct timespec *at);
int fuzz_getsockname(int fd, struct sockaddr *address, socklen_t *size);
int fuzz_setsockopt(int fd, int level, int option, const void *value, socklen_t size);

/* --- the system ------------------------------------------------------------------------------- */

static int fails(unsigned int option) {
    MUST(++system_calls < MOST_SYSTEM_CALLS);
    return (system_options & option) && ++faults % 5 == 0;
}

int fuzz_clock_gettime(clockid_t id, struct timespec *at) {
    MUST(id == CLOCK_MONOTONIC);
    clock_us += system_options & SLOW ? 2900 : 100;
    at->tv_sec = (time_t)(clock_us / 1000000);
    at->tv_nsec = (long)(clock_us % 1000000 * 1000);
    return 0;
}

int fuzz_getsockname(int fd, struct sockaddr *address, socklen_t *size) {
    struct sockaddr_in6 bound = {.sin6_family = AF_INET6};
    MUST(fd == IN && *size >= sizeof bound);
    if (!(system_options & WILDCARD))
        bound.sin6_addr.s6_addr[15] = 1;
    memcpy(address, &bound, sizeof bound);
    *size = sizeof bound;
    return 0;
}

int fuzz_setsockopt(int fd, int level, int option, const void *value, socklen_t size) {
    (void)level, (void)option, (void)value, (void)size;
    MUST(fd == IN && (system_options & WILDCARD));
    return 0;
}

int fuzz_poll(struct pollfd *polled, nfds_t count, int milliseconds) {
    if (count == 1 && polled->events == POLLOUT) { /* whether its buffer has room again */
        MUST((polled->fd == IN || polled->fd == OUT) && milliseconds > 0 && milliseconds <= 10);
        clock_us += milliseconds * INT64_C(1000);
        return ++faults % 3 > 0;
    }
    MUST(count == 1 && polled->fd == IN);
    if (fails(RECEIVING_FAILS)) {
        errno = EINTR;
        return -1;
    }
    polled->revents = lying_count > 0 ? POLLIN : 0;
    clock_us += lying_count > 0 ? 0 : milliseconds * INT64_C(1000);
    return lying_count > 0;
}

static void receive_one(struct mmsghdr *message) {
    struct msghdr *header = &message->msg_hdr;
    const struct datagram one = lying[0].datagram;
    const struct gcookie_path *path = &lying[0].from->path;
    union gcookie_control_out room;
    struct msghdr control;
    const size_t size = one.size < CAPACITY ? one.size : CAPACITY;

    MUST(header->msg_iovlen == 1 && header->msg_iov->iov_len == CAPACITY);
    if (size > 0)
        memcpy(header->msg_iov->iov_base, one.bytes, size);
    message->msg_len = (unsigned int)size;
    header->msg_flags = one.size > CAPACITY ? MSG_TRUNC : 0;
    header->msg_namelen = gcookie_address_size(&path->address);
    memcpy(header->msg_name, &path->address, sizeof path->address); /* of both families here */
    gcookie_source_write(&control, &room, &path->source);
    MUST(control.msg_controllen <= header->msg_controllen);
    if (control.msg_controllen > 0)
        memcpy(header->msg_control, control.msg_control, control.msg_controllen);
    header->msg_controllen = control.msg_controllen;
    free(one.bytes);
    memmove(lying, lying + 1, --lying_count * sizeof *lying);
}

int fuzz_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                  struct timespec *timeout) {
    unsigned int at = 0;
    MUST(fd == IN && flags == MSG_DONTWAIT && timeout == NULL && count <= GCOOKIE_SERVE_BATCH);
    if (fails(RECEIVING_FAILS) || lying_count == 0) {
        errno = lying_count == 0 ? EAGAIN : faults % 2 ? ECONNREFUSED : EINTR;
        return -1;
    }
    for (; at < count && lying_count > 0; at++)
        receive_one(&messages[at]);
    return (int)at;
}

ssize_t fuzz_recvmsg(int fd, struct msghdr *message, int flags) {
    (void)fd, (void)message, (void)flags;
    errno = EAGAIN;
    return -1;
}

/* One message: datagrams of one size to one peer, and the last may be shorter. */
static int send_one(int fd, const struct msghdr *header) {
    uint8_t bytes[1 << 16], sources[sizeof peers->path.source.ip] = {0};
    size_t size = 0, segment, source_size = 0;
    struct peer *peer = peers;
    uint16_t cut = 0;

    MUST((fd == IN || fd == OUT) && header->msg_iovlen > 0);
    while (header->msg_namelen != gcookie_address_size(&peer->path.address) ||
           memcmp(header->msg_name, &peer->path.address, header->msg_namelen) != 0)
        MUST(++peer < peers + PEERS); /* to whom else? */
    for (struct cmsghdr *one = CMSG_FIRSTHDR(header); one != NULL;
         one = CMSG_NXTHDR((struct msghdr *)header, one)) {
        if (one->cmsg_level == IPPROTO_UDP) {
            MUST(one->cmsg_type == UDP_SEGMENT && one->cmsg_len == CMSG_LEN(sizeof cut));
            memcpy(&cut, CMSG_DATA(one), sizeof cut);
        } else if (one->cmsg_level == IPPROTO_IP) {
            source_size = 4;
            memcpy(sources, CMSG_DATA(one) + sizeof(int), source_size);
        } else {
            source_size = 16;
            memcpy(sources, CMSG_DATA(one), source_size);
        }
    }
    MUST(source_size == peer->path.source.size);
    MUST(memcmp(sources, peer->path.source.ip, source_size) == 0);
    if (cut > 0 && (system_options & CUTS_NOTHING)) {
        errno = EIO;
        return -1;
    }
    for (size_t at = 0; at < header->msg_iovlen; at++) {
        const struct iovec *vector = &header->msg_iov[at];
        MUST(vector->iov_len > 0 && vector->iov_len <= sizeof bytes - size);
        MUST(cut == 0 ? at == 0
                      : vector->iov_len == cut ||
                            (vector->iov_len < cut && at + 1 == header->msg_iovlen));
        memcpy(bytes + size, vector->iov_base, vector->iov_len);
        size += vector->iov_len;
    }
    MUST(size <= 65507);
    for (size_t at = 0; at < size; at += segment) {
        segment = cut > 0 && size - at > cut ? cut : size - at;
        MUST(gcookie_whole_records(bytes + at, segment, segment) == segment);
        put(peer, 1, bytes + at, segment);
    }
    return 0;
}

static int send_fails(void) {
    static const int errors[] = {EINTR, EAGAIN, EPERM, ENOBUFS};
    if (!fails(SENDING_FAILS))
        return 0;
    errno = errors[faults % 4];
    return 1;
}

int fuzz_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    unsigned int at = 0;
    MUST(flags == (MSG_DONTWAIT | MSG_NOSIGNAL) && count > 0 && count <= GCOOKIE_SERVE_BATCH);
    for (; at < count; at++)
        if (send_fails() || send_one(fd, &messages[at].msg_hdr) < 0)
            return at > 0 ? (int)at : -1;
    return (int)at;
}

ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags) {
    MUST(flags == (MSG_DONTWAIT | MSG_NOSIGNAL) && message->msg_iovlen == 1);
    return send_fails() || send_one(fd, message) < 0 ? -1 : (ssize_t)message->msg_iov->iov_len;
}

/* --- the listener ----------------------------------------------------------------------------- */

static void serve_open(void) {
    system_calls = 0;
    clock_us = 0;
    lying_count = 0;
    memset(&cookie_keys, 'k', sizeof cookie_keys);
    cookie_keys.current.size = 16;
    cookie_keys.previous.size = 0;
    memset(&judged, 0, sizeof judged);
    is_making = 1;
    udp = gcookie_udp_new(system_options & SMALL_BATCH ? 3 : GCOOKIE_SERVE_BATCH, CAPACITY, 10);
    is_making = 0;
    MUST(udp != NULL);
    gcookie_udp_watch(udp, IN);
    gcookie_udp_admit_all(udp);
    memset(&serve, 0, sizeof serve);
    serve.udp_box = &udp;
    serve.server_box = &server;
    for (unsigned int at = 0; at < PEERS; at++) {
        struct gcookie_source *source = &peers[at].path.source;
        memset(source, 0, sizeof *source);
        if (system_options & WILDCARD) {
            source->size = peers[at].path.address.any.sa_family == AF_INET ? 4 : 16;
            memset(source->ip, (int)(1 + at), source->size);
        }
    }
}

static void serve_check(void) {
    struct gcookie_udp_counters counted;
    uint64_t sum = judged.challenged;
    gcookie_udp_count(udp, &counted);
    for (unsigned int reason = 0; reason <= GCOOKIE_INTERNAL; reason++)
        sum += judged.discarded[reason];
    for (unsigned int at = serve.taken; at < serve.arrived; at++)
        sum++;
    MUST(serve.busy == 0);
    MUST(counted.received == sum + counted.arrivals + counted.truncated);
    MUST(judged.challenged == counted.replies + counted.reply_errors);
}

/* What comes to the socket. */
static void serve_put(struct peer *peer, const uint8_t *bytes, size_t size) {
    struct lying *one = &lying[lying_count];
    if (lying_count == IN_SOCKET)
        return;
    lying_count++;
    one->from = peer;
    one->datagram.bytes = malloc(size);
    one->datagram.size = size;
    MUST(one->datagram.bytes != NULL || size == 0);
    if (size > 0)
        memcpy(one->datagram.bytes, bytes, size);
}

static int serve_turn(void) {
    const unsigned int waited = serve.waiting.count + serve.handshakes.count + lying_count;
    struct gcookie_turn turn;
    int code = 1;

    system_calls = 0;
    gcookie_turn_init(&turn);
    if (system_options & WAITS)
        code = gcookie_serve_wait(&serve, IN, &cookie_keys, &judged, 10, WORK_MS);
    MUST(code == 0 || code == 1);
    serve_check();
    code = gcookie_serve_turn(&serve, IN, OUT, &cookie_keys, &judged, WORK_MS, &turn, now, HANDLE);
    MUST(code >= 0 && code <= (GCOOKIE_SERVE_NEWS | GCOOKIE_SERVE_ASKS));
    MUST(((code & GCOOKIE_SERVE_ASKS) != 0) == (server->counters.handshaking > 0));
    MUST((serve.due < now) == (serve.waiting.count + serve.handshakes.count > 0));
    MUST(serve.taken == serve.arrived && turn.outgoing_count == 0);
    MUST(serve.due != now || server->most_due > 0);
    /* Something is always done, so that all of it is done some time. */
    MUST(waited == 0 || (system_options & RECEIVING_FAILS) ||
         serve.waiting.count + serve.handshakes.count + lying_count < waited);
    heard(&turn);
    serve_check();
    return serve.due <= now;
}

static void serve_all(void) {
    for (unsigned int turns = 0; turns < 2 * IN_SOCKET; turns++)
        if (!serve_turn() && lying_count == 0)
            return;
    MUST(system_options & RECEIVING_FAILS); /* else it never ends */
}

/* Messages to connections, to those that are no more, and to nobody: `count` of them. */
static void serve_send(struct input *input, unsigned int count) {
    enum { MOST = 80, SIZE = 1200 };
    static uint8_t text[MOST * SIZE];
    const size_t size = 1 + next_16(input) % SIZE;
    uint64_t to[MOST];
    uint32_t sizes[MOST];
    struct gcookie_turn turn;

    count = count % MOST;
    for (unsigned int at = 0; at < count; at++) {
        const unsigned int made_up = at % 4 == 0 ? next_byte(input) : 0;
        to[at] = at > 0 && made_up == 0 ? to[at - 1] : ids > 0 ? seen[made_up % ids].id : made_up;
        sizes[at] = (uint32_t)(at + 1 == count ? size / 2 : size);
    }
    gcookie_turn_init(&turn);
    if (count == 1)
        MUST(gcookie_serve_send_one(&serve, OUT, &turn, to[0], text, sizes[0], now) == 0);
    else
        MUST(gcookie_serve_send(&serve, OUT, &turn, to, sizes, count, text, size * count, now) ==
             0);
    MUST(turn.outgoing_count == 0 && turn.event_count == 0 && turn.state == GCOOKIE_TURN_NEW);
    gcookie_turn_clear(&turn);
}

/* While a lookup is asked for, or where the server is no more. */
static void serve_must_not(int code) {
    const uint64_t id = 1;
    const uint32_t size = 1;
    struct gcookie_turn turn;
    gcookie_turn_init(&turn);
    MUST(gcookie_serve_wait(&serve, IN, &cookie_keys, &judged, 10, WORK_MS) == code);
    MUST(gcookie_serve_turn(&serve, IN, OUT, &cookie_keys, &judged, WORK_MS, &turn, now, 0) ==
         code);
    MUST(gcookie_serve_send(&serve, OUT, &turn, &id, &size, 1, (const uint8_t *)"x", 1, now) < 0);
    gcookie_turn_clear(&turn);
}

static void serve_close(void) {
    while (lying_count > 0)
        free(lying[--lying_count].datagram.bytes);
    gcookie_serve_clear(&serve);
    gcookie_udp_release(&udp);
}

#endif
