/* The loop of a listener: recvmmsg, the gate, sendmmsg. All memory is taken when the listener is
 * made; for a datagram of an unverified client nothing is allocated and nothing is kept. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg, POLLRDHUP */
#endif
#include "udp.h"
#include "peers.h"
#include "source.h"
#include "turn.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: datagram sockets raise no SIGPIPE anyway */
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

/* Between two buffers, besides the datagram: with a plain power of two the heads of all buffers
 * would compete for the same few lines of the cache. */
#define SKEW 320u
#define CACHE_LINE 64u

/* An error of the socket that comes so many times in a row is none of the network's. */
#define MAX_FAILURES 1024u

/* Entries of the error queue taken in one go. */
#define MAX_DRAINED 64u

#define NS_PER_MS INT64_C(1000000)

enum { PASSED_OVER = -1 }; /* a gcookie_verdict.kind for what was not judged */

#if GCOOKIE_UDP_PORTABLE
struct message {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};
#else
#define message mmsghdr
#endif

struct slot {
    struct gcookie_verdict verdict;
    union gcookie_address address;
    struct gcookie_source source;
    struct iovec datagram;
    struct iovec reply;
    union gcookie_control_in control_in;
    union gcookie_control_out control_out;
};

struct gcookie_udp {
    unsigned int batch;
    int admits_all;
    int sources_differ; /* 1: the socket tells which address each datagram was sent to */
    size_t memory_size;
    unsigned char *memory; /* the datagrams' */
    struct slot *slots;
    struct message *incoming;
    struct message *outgoing;
    struct gcookie_arrival *arrivals;
    struct gcookie_udp_counters counters;
    struct gcookie_peers *peers;
};

static unsigned int pass_gate(struct gcookie_udp *udp, const struct gcookie_keys *keys,
                              struct gcookie_counters *seen, unsigned int received,
                              unsigned int *replies);
static unsigned int collect(struct gcookie_udp *udp, struct gcookie_counters *seen,
                            unsigned int received);
static int is_whole(struct gcookie_udp *udp, const struct message *message,
                    union gcookie_address *address);
static void arrive(struct gcookie_udp *udp, unsigned int at, unsigned int number);
static int reply(struct gcookie_udp *udp, int fd, unsigned int replies);
static int wait_for_datagram(struct gcookie_udp *udp, int fd, int milliseconds);
static void drain_errors(struct gcookie_udp *udp, int fd);
static int is_fatal(int error);
static void add_all(struct gcookie_counters *counters, const struct gcookie_counters *seen);
static int receive_messages(int fd, struct message *messages, unsigned int count);
static int send_messages(int fd, struct message *messages, unsigned int count);
static int64_t monotonic_ns(void);

/* --- life ------------------------------------------------------------------------------------ */

struct gcookie_udp *gcookie_udp_new(unsigned int batch, size_t capacity, size_t max_peers) {
    if (batch == 0 || capacity == 0 || capacity > SIZE_MAX / 2) {
        return NULL;
    }
    const size_t stride = (capacity + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE + SKEW;
    struct gcookie_udp *udp = calloc(1, sizeof *udp);
    if (udp == NULL || stride > SIZE_MAX / batch) {
        free(udp);
        return NULL;
    }
    udp->batch = batch;
    udp->peers = gcookie_peers_new(max_peers);
    udp->memory_size = stride * batch;
    udp->memory = malloc(udp->memory_size);
    udp->slots = calloc(batch, sizeof *udp->slots);
    udp->incoming = calloc(batch, sizeof *udp->incoming);
    udp->outgoing = calloc(batch, sizeof *udp->outgoing);
    udp->arrivals = calloc(batch, sizeof *udp->arrivals);
    if (udp->peers == NULL || udp->memory == NULL || udp->slots == NULL || udp->incoming == NULL ||
        udp->outgoing == NULL || udp->arrivals == NULL) {
        gcookie_udp_free(udp);
        return NULL;
    }
    /* gnutls_memset, since a compiler may turn malloc and memset into calloc, which touches
     * nothing. */
    gnutls_memset(udp->memory, 0, udp->memory_size);
    for (unsigned int at = 0; at < batch; at++) {
        struct slot *slot = &udp->slots[at];
        slot->datagram.iov_base = udp->memory + stride * at;
        slot->datagram.iov_len = capacity;
        slot->reply.iov_base = slot->verdict.reply;
        slot->reply.iov_len = GCOOKIE_REPLY_SIZE;
        struct msghdr *in = &udp->incoming[at].msg_hdr;
        in->msg_name = &slot->address;
        in->msg_namelen = sizeof slot->address;
        in->msg_iov = &slot->datagram;
        in->msg_iovlen = 1;
        udp->outgoing[at].msg_hdr.msg_iovlen = 1;
    }
    return udp;
}

void gcookie_udp_watch(struct gcookie_udp *udp, int fd) {
    udp->sources_differ = gcookie_source_watch(fd);
}

void gcookie_udp_free(struct gcookie_udp *udp) {
    if (udp == NULL) {
        return;
    }
    gcookie_peers_free(udp->peers);
    if (udp->memory != NULL) {
        gnutls_memset(udp->memory, 0, udp->memory_size);
    }
    if (udp->slots != NULL) {
        gnutls_memset(udp->slots, 0, udp->batch * sizeof *udp->slots);
    }
    free(udp->memory);
    free(udp->slots);
    free(udp->incoming);
    free(udp->outgoing);
    free(udp->arrivals);
    free(udp);
}

void gcookie_udp_release(struct gcookie_udp **box) {
    struct gcookie_udp *udp = *box;

    *box = NULL;
    gcookie_udp_free(udp);
}

/* --- the loop -------------------------------------------------------------------------------- */

int gcookie_udp_run(struct gcookie_udp *udp, int fd, const struct gcookie_keys *keys,
                    struct gcookie_counters *counters, unsigned int want, unsigned int wait_ms,
                    unsigned int work_ms) {
    struct gcookie_counters seen = {{0}, 0, 0, {0, 0}};
    const int64_t start = monotonic_ns();
    unsigned int failures = 0;
    unsigned int arrived = 0;
    int any = 0;
    int error = 0;
    want = want > udp->batch ? udp->batch : want;

    while (want > 0 && error == 0) {
        /* Each time anew: the thread that was at work here may have been left behind by a fork. */
        for (unsigned int at = 0; at < want; at++) {
            struct msghdr *in = &udp->incoming[at].msg_hdr;
            in->msg_namelen = sizeof udp->slots[at].address;
            in->msg_control = udp->sources_differ ? udp->slots[at].control_in.bytes : NULL;
            in->msg_controllen = udp->sources_differ ? GCOOKIE_CONTROL_IN : 0;
        }
        const int received = receive_messages(fd, udp->incoming, want);
        int empty = received < (int)want;
        if (received > 0) {
            unsigned int replies;
            any = 1;
            failures = 0;
            gcookie_add(&udp->counters.received, (uint64_t)received);
            arrived = pass_gate(udp, keys, &seen, (unsigned int)received, &replies);
            error = reply(udp, fd, replies);
            if (arrived > 0) {
                break;
            }
        } else if (errno == EINTR) {
            break;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            failures = 0;
        } else {
            /* An ICMP error, which says nothing about the datagrams that wait. */
            empty = 0;
            gcookie_add(&udp->counters.receive_errors, 1);
            if (is_fatal(errno) || ++failures == MAX_FAILURES) {
                error = errno;
            }
        }

        const int64_t worked = (monotonic_ns() - start) / NS_PER_MS;
        if (!empty) {
            if (worked >= (int64_t)work_ms) {
                break;
            }
            continue;
        }
        const int64_t left = worked < (int64_t)wait_ms ? (int64_t)wait_ms - worked : 0;
        if (error != 0 || (left == 0 && any)) {
            break;
        }
        const int ready = wait_for_datagram(udp, fd, (int)left);
        if (ready == 0) {
            break;
        }
        error = ready < 0 ? -ready : 0;
        any = any || left == 0; /* once is enough, whatever the socket says */
    }

    add_all(counters, &seen);
    if (!udp->admits_all) {
        gcookie_add(&udp->counters.arrivals, arrived);
    }
    /* Arrivals are not lost to an error: it comes again, if it is one that stays. */
    return arrived > 0 ? (int)arrived : -error;
}

const struct gcookie_arrival *gcookie_udp_arrivals(const struct gcookie_udp *udp) {
    return udp->arrivals;
}

void gcookie_udp_count(struct gcookie_udp *udp, struct gcookie_udp_counters *out) {
    out->received = __atomic_load_n(&udp->counters.received, __ATOMIC_RELAXED);
    out->replies = __atomic_load_n(&udp->counters.replies, __ATOMIC_RELAXED);
    out->reply_errors = __atomic_load_n(&udp->counters.reply_errors, __ATOMIC_RELAXED);
    out->receive_errors = __atomic_load_n(&udp->counters.receive_errors, __ATOMIC_RELAXED);
    out->truncated = __atomic_load_n(&udp->counters.truncated, __ATOMIC_RELAXED);
    out->arrivals = __atomic_load_n(&udp->counters.arrivals, __ATOMIC_RELAXED);
}

/* Every datagram goes through the gate, from whatever address: an admitted peer that lost its state
 * begins anew with a ClientHello (RFC 6347 4.2.8). Returns the number of arrivals. */
static unsigned int pass_gate(struct gcookie_udp *udp, const struct gcookie_keys *keys,
                              struct gcookie_counters *seen, unsigned int received,
                              unsigned int *replies) {
    unsigned int challenges = 0;
    for (unsigned int at = 0; at < received; at++) {
        struct message *message = &udp->incoming[at];
        struct slot *slot = &udp->slots[at];
        struct gcookie_verdict *verdict = &slot->verdict;
        if (!is_whole(udp, message, &slot->address)) {
            verdict->kind = PASSED_OVER;
        } else {
            gcookie_gate(keys, &slot->address, message->msg_hdr.msg_namelen,
                         slot->datagram.iov_base, message->msg_len, verdict);
        }
        if (udp->sources_differ) {
            gcookie_source_read(&message->msg_hdr, &slot->source);
        }
        if (verdict->kind == GCOOKIE_CHALLENGE) {
            struct msghdr *out = &udp->outgoing[challenges].msg_hdr;
            out->msg_name = &slot->address;
            out->msg_namelen = message->msg_hdr.msg_namelen;
            out->msg_iov = &slot->reply;
            gcookie_source_write(out, &slot->control_out, &slot->source);
            challenges++;
            seen->presented += (uint64_t)verdict->presented;
        }
    }
    seen->challenged += challenges;
    *replies = challenges;
    return challenges < received ? collect(udp, seen, received) : 0;
}

/* The second look at a batch, for what was no challenge: in the order of arrival, since a fragment
 * counts only behind the one that was verified. */
static unsigned int collect(struct gcookie_udp *udp, struct gcookie_counters *seen,
                            unsigned int received) {
    unsigned int arrived = 0;
    gcookie_peers_lock(udp->peers);
    for (unsigned int at = 0; at < received; at++) {
        const struct slot *slot = &udp->slots[at];
        if (slot->verdict.kind == GCOOKIE_VERIFIED) {
            seen->verified[slot->verdict.key_age == 0 ? 0 : 1]++;
            if (!udp->admits_all) {
                gcookie_peers_note_verified(udp->peers, &slot->address);
            }
            arrive(udp, at, arrived++);
        } else if (slot->verdict.kind == GCOOKIE_DISCARD) {
            if (udp->admits_all || gcookie_peers_admits(udp->peers, &slot->address)) {
                arrive(udp, at, arrived++);
            } else {
                seen->discarded[slot->verdict.reason]++;
            }
        }
    }
    gcookie_peers_unlock(udp->peers);
    return arrived;
}

/* Whether the kernel gave all of the datagram, and an address. */
static int is_whole(struct gcookie_udp *udp, const struct message *message,
                    union gcookie_address *address) {
    const struct msghdr *header = &message->msg_hdr;
    if ((header->msg_flags & MSG_TRUNC) != 0) {
        gcookie_add(&udp->counters.truncated, 1);
        return 0;
    }
    if (header->msg_namelen == sizeof address->ipv4 && address->any.sa_family == AF_INET) {
        /* Linux does so itself. It is part of client_data, and other systems promise nothing. */
        memset(address->ipv4.sin_zero, 0, sizeof address->ipv4.sin_zero);
        return 1;
    }
    if (header->msg_namelen == sizeof address->ipv6 && address->any.sa_family == AF_INET6) {
        return 1;
    }
    gcookie_add(&udp->counters.receive_errors, 1);
    return 0;
}

static void arrive(struct gcookie_udp *udp, unsigned int at, unsigned int number) {
    const struct slot *slot = &udp->slots[at];
    struct gcookie_arrival *arrival = &udp->arrivals[number];
    arrival->datagram = slot->datagram.iov_base;
    arrival->size = udp->incoming[at].msg_len;
    arrival->verified = slot->verdict.kind == GCOOKIE_VERIFIED;
    arrival->prestate = slot->verdict.prestate;
    arrival->reason = slot->verdict.reason;
    arrival->slot = at;
    arrival->local = &slot->source;
    if (slot->address.any.sa_family == AF_INET) {
        arrival->ip = (const unsigned char *)&slot->address.ipv4.sin_addr;
        arrival->ip_size = sizeof slot->address.ipv4.sin_addr;
        arrival->port = ntohs(slot->address.ipv4.sin_port);
        arrival->flowinfo = 0;
        arrival->scope_id = 0;
    } else {
        arrival->ip = (const unsigned char *)&slot->address.ipv6.sin6_addr;
        arrival->ip_size = sizeof slot->address.ipv6.sin6_addr;
        arrival->port = ntohs(slot->address.ipv6.sin6_port);
        arrival->flowinfo = ntohl(slot->address.ipv6.sin6_flowinfo);
        arrival->scope_id = slot->address.ipv6.sin6_scope_id;
    }
}

/* Sends what pass_gate() laid out. A reply that cannot be sent is lost, as UDP loses datagrams;
 * those behind it are not. Returns 0, or the errno of a socket that is no more. */
static int reply(struct gcookie_udp *udp, int fd, unsigned int replies) {
    unsigned int done = 0;
    unsigned int lost = 0;
    int error = 0;
    while (done < replies && error == 0) {
        const int sent = send_messages(fd, udp->outgoing + done, replies - done);
        if (sent > 0) {
            done += (unsigned int)sent;
        } else if (sent == 0 || errno != EINTR) {
            lost++;
            done++;
            error = sent < 0 && (errno == EBADF || errno == ENOTSOCK) ? errno : 0;
        }
    }
    gcookie_add(&udp->counters.replies, done - lost);
    if (lost > 0) {
        gcookie_add(&udp->counters.reply_errors, lost);
    }
    return error;
}

/* Returns 1 if it is worth trying to receive, 0 if nothing came in that time, or a signal, and
 * -errno if nothing will ever come. */
static int wait_for_datagram(struct gcookie_udp *udp, int fd, int milliseconds) {
    struct pollfd polled = {fd, POLLIN | POLLRDHUP, 0};
    const int ready = poll(&polled, 1, milliseconds);
    if (ready == 0 || (ready < 0 && (errno == EINTR || errno == EAGAIN))) {
        return 0;
    }
    if (ready < 0) {
        return -errno;
    }
    if ((polled.revents & POLLNVAL) != 0) {
        return -EBADF;
    }
    /* Shut down for reading: always readable, never a datagram. */
    if ((polled.revents & (POLLHUP | POLLRDHUP)) != 0) {
        return -ESHUTDOWN;
    }
    if ((polled.revents & POLLERR) != 0) {
        drain_errors(udp, fd);
    }
    return 1;
}

/* With IP_RECVERR a socket stays readable, for every event loop, until its error queue is empty. */
static void drain_errors(struct gcookie_udp *udp, int fd) {
#ifdef MSG_ERRQUEUE
    for (unsigned int taken = 0; taken < MAX_DRAINED; taken++) {
        struct msghdr nothing;
        memset(&nothing, 0, sizeof nothing);
        if (recvmsg(fd, &nothing, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            return;
        }
        gcookie_add(&udp->counters.receive_errors, 1);
    }
#else
    (void)udp;
    (void)fd;
#endif
}

/* Errors of the descriptor, or of this program: they do not pass. */
static int is_fatal(int error) {
    return error == EBADF || error == ENOTSOCK || error == EINVAL || error == EFAULT ||
           error == ENOSYS;
}

static void add_all(struct gcookie_counters *counters, const struct gcookie_counters *seen) {
    for (unsigned int reason = 0; reason <= GCOOKIE_INTERNAL; reason++) {
        if (seen->discarded[reason] > 0) {
            gcookie_add(&counters->discarded[reason], seen->discarded[reason]);
        }
    }
    gcookie_add(&counters->challenged, seen->challenged);
    gcookie_add(&counters->presented, seen->presented);
    gcookie_add(&counters->verified[0], seen->verified[0]);
    gcookie_add(&counters->verified[1], seen->verified[1]);
}

/* recvmmsg and sendmmsg: the number of messages that went well, from the first on; -1 with errno if
 * that is none. */
static int receive_messages(int fd, struct message *messages, unsigned int count) {
#if GCOOKIE_UDP_PORTABLE
    for (unsigned int at = 0; at < count; at++) {
        const ssize_t size = recvmsg(fd, &messages[at].msg_hdr, MSG_DONTWAIT);
        if (size < 0) {
            return at > 0 ? (int)at : -1;
        }
        messages[at].msg_len = (unsigned int)size;
    }
    return (int)count;
#else
    return recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL);
#endif
}

static int send_messages(int fd, struct message *messages, unsigned int count) {
#if GCOOKIE_UDP_PORTABLE
    for (unsigned int at = 0; at < count; at++) {
        if (sendmsg(fd, &messages[at].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            return at > 0 ? (int)at : -1;
        }
    }
    return (int)count;
#else
    return sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
#endif
}

enum { SENT_AT_ONCE = 64 }; /* messages in one system call */

/* The messages of one batch, all of them: what the kernel refuses is passed over. */
static unsigned int send_or_lose(int fd, struct message *messages, unsigned int count) {
    unsigned int lost = 0;
    for (unsigned int at = 0; at < count;) {
        const int sent = send_messages(fd, messages + at, count - at);
        if (sent > 0) {
            at += (unsigned int)sent;
        } else if (sent == 0 || errno != EINTR) {
            at++;
            lost++;
        }
    }
    return lost;
}

unsigned int gcookie_udp_send(int fd, const void *names, size_t names_size, size_t name_size,
                              const void *data, size_t data_size, const unsigned int *sizes,
                              const struct gcookie_source *sources, unsigned int count) {
    struct message messages[SENT_AT_ONCE];
    struct iovec vectors[SENT_AT_ONCE];
    union gcookie_control_out controls[SENT_AT_ONCE];
    const unsigned char *name = names, *datagram = data;
    unsigned int lost = 0, batch = 0, at = 0;

    memset(messages, 0, sizeof messages);
    while (at < count && name_size > 0 && name_size <= names_size && sizes[at] <= data_size) {
        if (sources != NULL) {
            gcookie_source_write(&messages[batch].msg_hdr, &controls[batch], &sources[at]);
        }
        /* sendmsg reads through these pointers to non-const. */
        vectors[batch].iov_base = (void *)datagram;
        vectors[batch].iov_len = sizes[at];
        messages[batch].msg_hdr.msg_iov = &vectors[batch];
        messages[batch].msg_hdr.msg_iovlen = 1;
        messages[batch].msg_hdr.msg_name = (void *)name;
        messages[batch].msg_hdr.msg_namelen = (socklen_t)name_size;
        datagram += sizes[at];
        data_size -= sizes[at];
        name += name_size;
        names_size -= name_size;
        at++;
        if (++batch == SENT_AT_ONCE) {
            lost += send_or_lose(fd, messages, batch);
            batch = 0;
        }
    }
    return lost + send_or_lose(fd, messages, batch) + (count - at);
}

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * NS_PER_MS + (int64_t)now.tv_nsec;
}

void gcookie_udp_admit_all(struct gcookie_udp *udp) {
    udp->admits_all = 1;
}

void gcookie_udp_count_arrival(struct gcookie_udp *udp) {
    gcookie_add(&udp->counters.arrivals, 1);
}

void gcookie_udp_path(const struct gcookie_udp *udp, const struct gcookie_arrival *arrival,
                      struct gcookie_path *out) {
    memset(out, 0, sizeof *out);
    out->address = udp->slots[arrival->slot].address;
    out->source = udp->slots[arrival->slot].source;
}

/* --- the set of peers ------------------------------------------------------------------------ */

void gcookie_udp_begin(struct gcookie_udp *udp) {
    gcookie_peers_begin(udp->peers);
}

int gcookie_udp_admit(struct gcookie_udp *udp, const void *address, size_t size) {
    return gcookie_peers_admit(udp->peers, address, size);
}

int gcookie_udp_forget(struct gcookie_udp *udp, const void *address, size_t size) {
    return gcookie_peers_forget(udp->peers, address, size);
}

size_t gcookie_udp_peers(struct gcookie_udp *udp) {
    return gcookie_peers_count(udp->peers);
}
