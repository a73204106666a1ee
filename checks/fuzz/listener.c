/* The listener's loop with any datagrams and any order of calls, on a socket that is made up here:
 * udp.c, peers.c and table.c are compiled to call fuzz_recvmmsg() and so on (see SYSTEM in
 * fuzz.py). A model of the set of peers says what each run must answer and hand over; what the gate
 * says is judged in gate.c.
 *
 * Input: batch, capacity, most peers, memory; then calls, each a byte and its arguments. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fuzz.h"
#include "transport.h"
#include "udp.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

enum {
    ADDRESSES = 12,
    QUEUE = 64,               /* datagrams and errors that wait in the socket */
    FAULTS = 16,              /* of the system, that wait for their call */
    MOST_BATCH = 8,           /* of a listener */
    MOST_SENT = 100,          /* by one call */
    MOST_CALLS = 64,          /* of one input */
    MOST_SYSTEM_CALLS = 1000, /* of one run */
    THE_SOCKET = 77,
    LOOK_US = 300, /* that a look at the clock takes */
    HELLO_SIZE = 96,
};

union address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
};

/* What the kernel has for the next receiving call. */
struct waiting {
    int error; /* in place of a datagram */
    unsigned int from;
    unsigned int name_size;
    size_t size;
    uint8_t *bytes;
};

/* What the listener must know of an address. */
struct peer {
    int admitted;
    int verified;
    int listed; /* verified since gcookie_udp_begin, if forgotten since, too */
};

/* What must be sent, and what must be handed over, in this order. */
struct outgoing {
    const void *name;
    size_t name_size;
    size_t size;
    unsigned char bytes[64];        /* no more of them are compared */
    const struct waiting *answered; /* a reply leaves from where this was sent to */
    const struct gcookie_source *source;
};
struct arriving {
    unsigned int from;
    const struct waiting *datagram;
    struct gcookie_verdict verdict;
};

/* A queue of bytes, each a fault of the next calls of its kind. */
struct faults {
    uint8_t kinds[FAULTS];
    unsigned int left;
};

static union address addresses[ADDRESSES];
static struct peer peers[ADDRESSES];
static struct gcookie_udp *udp;
static struct gcookie_keys keys;
static size_t capacity, max_peers;
static unsigned int batch;

static struct waiting queue[QUEUE];
static unsigned int queued, taken;
static struct outgoing out[MOST_SENT];
static unsigned int out_due, out_seen, out_lost;
static const void *refused; /* the message that the last sending call did not take */
static int refused_for, running, out_ended;
static struct arriving in[MOST_BATCH];
static unsigned int in_due;

static uint8_t *poisoned[MOST_BATCH];
static size_t poisoned_size[MOST_BATCH];
static const void *first_header;
static unsigned int in_batch, system_calls;
static int64_t clock_us;
static struct faults send_faults, poll_faults;
static int memory_is_out, has_buckets;
static unsigned int wildcard;     /* what the socket is bound to; 0: to one address */
static unsigned int callocs_left; /* that succeed while a listener is made */
static struct gcookie_udp_counters model;
static struct gcookie_counters judged, counters;

/* What udp.c, source.c, peers.c and table.c call in place of the system. */
int fuzz_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                  struct timespec *timeout);
int fuzz_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t fuzz_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags);
int fuzz_poll(struct pollfd *polled, nfds_t count, int milliseconds);
int fuzz_clock_gettime(clockid_t id, struct timespec *now);
void *fuzz_calloc(size_t count, size_t size);
void *fuzz_realloc(void *memory, size_t size);
int fuzz_getsockname(int fd, struct sockaddr *address, socklen_t *size);
int fuzz_setsockopt(int fd, int level, int option, const void *value, socklen_t size);

/* --- addresses ------------------------------------------------------------------------------- */

static unsigned int address_size(unsigned int at) {
    return addresses[at].any.sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                  : sizeof(struct sockaddr_in6);
}

/* Half of them of either family: pairs with the same ip, with the same port, and, among the second
 * half, such as differ in scope or in nothing but the flowinfo. */
static void make_addresses(void) {
    memset(addresses, 0, sizeof addresses);
    for (unsigned int at = 0; at < ADDRESSES; at++) {
        union address *address = &addresses[at];
        if (at < ADDRESSES / 2) {
            address->ipv4.sin_family = AF_INET;
            address->ipv4.sin_addr.s_addr = htonl(0x7f000001u + at / 2);
            address->ipv4.sin_port = htons(at % 2 == 0 ? 5684 : (uint16_t)(256 + at));
        } else {
            address->ipv6.sin6_family = AF_INET6;
            address->ipv6.sin6_addr.s6_addr[15] = (uint8_t)(at / 4);
            address->ipv6.sin6_port = htons(5684);
            address->ipv6.sin6_scope_id = at % 2;
            address->ipv6.sin6_flowinfo = htonl(at);
        }
    }
}

static int is_same_peer(const union address *one, const union address *other) {
    if (one->any.sa_family != other->any.sa_family) {
        return 0;
    }
    if (one->any.sa_family == AF_INET) {
        return one->ipv4.sin_addr.s_addr == other->ipv4.sin_addr.s_addr &&
               one->ipv4.sin_port == other->ipv4.sin_port;
    }
    return memcmp(&one->ipv6.sin6_addr, &other->ipv6.sin6_addr, 16) == 0 &&
           one->ipv6.sin6_port == other->ipv6.sin6_port &&
           one->ipv6.sin6_scope_id == other->ipv6.sin6_scope_id;
}

/* The first of those that are the same to the listener. */
static struct peer *peer_of(unsigned int at) {
    for (unsigned int first = 0; first < at; first++) {
        if (is_same_peer(&addresses[first], &addresses[at])) {
            return &peers[first];
        }
    }
    return &peers[at];
}

static size_t admitted_peers(void) {
    size_t count = 0;
    for (unsigned int at = 0; at < ADDRESSES; at++) {
        count += peers[at].admitted != 0;
    }
    return count;
}

/* --- the system, made up: time, waiting and memory -------------------------------------------- */

static unsigned int next_fault(struct faults *faults) {
    return faults->left > 0 ? faults->kinds[--faults->left] : 0;
}

int fuzz_clock_gettime(clockid_t id, struct timespec *now) {
    MUST(id == CLOCK_MONOTONIC);
    clock_us += LOOK_US;
    now->tv_sec = (time_t)(clock_us / 1000000);
    now->tv_nsec = (long)(clock_us % 1000000 * 1000);
    return 0;
}

int fuzz_poll(struct pollfd *polled, nfds_t count, int milliseconds) {
    MUST(count == 1 && polled->fd == THE_SOCKET && milliseconds >= 0);
    MUST(++system_calls < MOST_SYSTEM_CALLS);
    polled->revents = 0;
    clock_us += 1000;
    switch (next_fault(&poll_faults) % 8) {
    case 1:
        polled->revents = POLLERR;
        return 1;
    case 2:
        polled->revents = POLLNVAL;
        return 1;
    case 3:
        polled->revents = POLLIN | POLLRDHUP;
        return 1;
    case 4:
        errno = EINTR;
        return -1;
    case 5:
        errno = ENOMEM;
        return -1;
    case 6: /* and the datagram turns out to have a wrong checksum */
        polled->revents = POLLIN;
        return 1;
    default:
        if (taken < queued) {
            polled->revents = POLLIN;
            return 1;
        }
        clock_us += milliseconds * INT64_C(1000);
        return 0;
    }
}

void *fuzz_calloc(size_t count, size_t size) {
    if (callocs_left > 0 && --callocs_left == 0) {
        return NULL;
    }
    return memory_is_out == 1 ? NULL : calloc(count, size);
}

void *fuzz_realloc(void *memory, size_t size) {
    return memory_is_out == 2 ? NULL : realloc(memory, size);
}

/* Whether no peer can be added. The buckets stay from the first one on. */
static int no_memory(void) {
    return memory_is_out == 1 || (memory_is_out == 2 && !has_buckets);
}

/* --- the system: which address a datagram was sent to -------------------------------------------
 */

int fuzz_getsockname(int fd, struct sockaddr *address, socklen_t *size) {
    MUST(fd == THE_SOCKET && *size >= sizeof(struct sockaddr_in6));
    *size = wildcard % 2 == 0 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    memset(address, 0, *size);
    address->sa_family = wildcard % 2 == 0 ? AF_INET6 : AF_INET;
    if (wildcard == 0) {
        ((struct sockaddr_in6 *)address)->sin6_addr.s6_addr[15] = 1;
    }
    return 0;
}

int fuzz_setsockopt(int fd, int level, int option, const void *value, socklen_t size) {
    MUST(fd == THE_SOCKET && wildcard != 0 && size == sizeof(int) && *(const int *)value == 1);
    MUST((level == IPPROTO_IP && option == IP_PKTINFO) ||
         (wildcard % 2 == 0 && level == IPPROTO_IPV6 && option == IPV6_RECVPKTINFO));
    return 0;
}

static size_t add_control(uint8_t *at, int level, int type, const void *data, size_t size) {
    struct cmsghdr *one = (struct cmsghdr *)at;
    memset(at, 0, CMSG_SPACE(size));
    one->cmsg_level = level;
    one->cmsg_type = type;
    one->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(one), data, size);
    return CMSG_SPACE(size);
}

/* What the kernel puts beside a datagram, by its number: nothing; an address of either kind; one
 * behind something else; one that is cut off; a group's; both; a link-local one. Gives its size,
 * and where an answer must leave from: the bytes of the address are its number. */
static size_t control_of(const struct waiting *one, uint8_t *at, struct gcookie_source *from) {
    const unsigned int number = (unsigned int)(one - queue);
    const unsigned int kind = wildcard == 0 ? 0 : (number + wildcard) % 8;
    size_t size = 0;
    const int tos = 4;
    struct in_pktinfo four;
    struct in6_pktinfo six;
    memset(&four, (int)number, sizeof four);
    memset(&six, (int)number, sizeof six);
    four.ipi_addr.s_addr = INADDR_BROADCAST;
    six.ipi6_addr.s6_addr[0] = kind == 5 ? 0xff : kind == 7 ? 0xfe : 0x20;
    six.ipi6_addr.s6_addr[1] = kind == 7 ? 0x80 : six.ipi6_addr.s6_addr[1];
    memset(from, 0, sizeof *from);
    from->size = kind == 1 ? 4 : kind == 2 || kind == 3 || kind > 5 ? 16 : 0;
    memset(from->ip, (int)number, from->size);
    if (from->size == 16) {
        memcpy(from->ip, &six.ipi6_addr, 2);
    }
    from->zone = kind == 7 ? (unsigned int)six.ipi6_ifindex : 0;
    if (kind == 6) {
        memset(six.ipi6_addr.s6_addr + 12, 0xff, 4); /* broadcast, where it is a mapped one */
    }
    if (kind == 3) {
        size = add_control(at, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
    }
    if (kind == 1) {
        size += add_control(at, IPPROTO_IP, IP_PKTINFO, &four, sizeof four);
    } else if (kind > 1) {
        size += add_control(at + size, IPPROTO_IPV6, IPV6_PKTINFO, &six, sizeof six);
    }
    if (kind == 6) {
        size += add_control(at + size, IPPROTO_IP, IP_PKTINFO, &four, sizeof four);
    }
    if (kind == 4) {
        ((struct cmsghdr *)at)->cmsg_len -= 5;
        size -= 5;
    }
    return size;
}

static void check_source(const struct outgoing *due, const struct msghdr *header) {
    union gcookie_control_in given;
    struct gcookie_source expected;
    memset(&expected, 0, sizeof expected);
    if (due->answered != NULL) {
        (void)control_of(due->answered, given.bytes, &expected);
    } else if (due->source != NULL) {
        expected = *due->source;
    }
    const unsigned int size = expected.size;
    if (size != 4 && size != 16) {
        MUST(header->msg_control == NULL && header->msg_controllen == 0);
        return;
    }
    const struct cmsghdr *one = CMSG_FIRSTHDR(header);
    MUST(one != NULL &&
         header->msg_controllen ==
             CMSG_SPACE(size == 4 ? sizeof(struct in_pktinfo) : sizeof(struct in6_pktinfo)));
    if (size == 4) {
        struct in_pktinfo info;
        MUST(one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO);
        memcpy(&info, CMSG_DATA(one), sizeof info);
        MUST(memcmp(&info.ipi_spec_dst, expected.ip, 4) == 0 && info.ipi_ifindex == 0);
    } else {
        struct in6_pktinfo info;
        MUST(one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_PKTINFO);
        memcpy(&info, CMSG_DATA(one), sizeof info);
        MUST(memcmp(&info.ipi6_addr, expected.ip, 16) == 0 && info.ipi6_ifindex == expected.zone);
    }
}

/* --- the system: receiving -------------------------------------------------------------------- */

static void unpoison(void) {
    for (unsigned int at = 0; at < MOST_BATCH; at++) {
        if (poisoned[at] != NULL) {
            ASAN_UNPOISON_MEMORY_REGION(poisoned[at], poisoned_size[at]);
            poisoned[at] = NULL;
        }
    }
}

static void expect(const struct waiting *one) {
    struct arriving arriving = {one->from, one, {0}};
    struct peer *const peer = peer_of(one->from);
    gcookie_gate(&keys, &addresses[one->from], one->name_size, one->bytes, one->size,
                 &arriving.verdict);
    if (arriving.verdict.kind == GCOOKIE_CHALLENGE) {
        struct outgoing *const reply = &out[out_due++];
        reply->name = &addresses[one->from];
        reply->name_size = one->name_size;
        reply->size = GCOOKIE_REPLY_SIZE;
        reply->answered = one;
        reply->source = NULL;
        memcpy(reply->bytes, arriving.verdict.reply, GCOOKIE_REPLY_SIZE);
        judged.challenged++;
        judged.presented += (uint64_t)arriving.verdict.presented;
        return;
    }
    if (arriving.verdict.kind == GCOOKIE_VERIFIED) {
        judged.verified[arriving.verdict.key_age]++;
        if (peer->admitted || peer->listed || !no_memory()) {
            peer->verified = peer->listed = has_buckets = 1;
        }
    } else if (!peer->admitted && !peer->verified) {
        judged.discarded[arriving.verdict.reason]++;
        return;
    }
    in[in_due++] = arriving;
}

/* Writes a datagram where the kernel would, and notes what must become of it. What lies behind it
 * in the buffer must not be read. */
static void deliver(struct msghdr *header, const struct waiting *one) {
    uint8_t *const buffer = header->msg_iov->iov_base;
    const size_t size = one->size < capacity ? one->size : capacity;
    if (size > 0) {
        memcpy(buffer, one->bytes, size);
    }
    memcpy(header->msg_name, &addresses[one->from], sizeof(union address));
    if (addresses[one->from].any.sa_family == AF_INET) {
        /* Not every kernel clears the padding. */
        memset(((struct sockaddr_in *)header->msg_name)->sin_zero, 0x55, 8);
    }
    header->msg_namelen = one->name_size;
    header->msg_flags = one->size > capacity ? MSG_TRUNC : 0;
    if (wildcard != 0) {
        struct gcookie_source from;
        header->msg_controllen = control_of(one, header->msg_control, &from);
    }
    poisoned[in_batch] = buffer + size;
    poisoned_size[in_batch] = capacity - size;
    ASAN_POISON_MEMORY_REGION(poisoned[in_batch], poisoned_size[in_batch]);
    in_batch++;

    model.received++;
    if (one->size > capacity) {
        model.truncated++;
    } else if (one->name_size != address_size(one->from)) {
        model.receive_errors++;
    } else {
        expect(one);
    }
}

/* The next datagram, or an error, of which the first is always the caller's to hear. */
static ssize_t receive(struct msghdr *header) {
    MUST(header->msg_namelen == sizeof(union address));
    MUST(header->msg_iovlen == 1 && header->msg_iov->iov_len == capacity);
    MUST(wildcard != 0 ? header->msg_control != NULL && header->msg_controllen == GCOOKIE_CONTROL_IN
                       : header->msg_control == NULL && header->msg_controllen == 0);
    if (taken == queued) {
        errno = EAGAIN;
        return -1;
    }
    const struct waiting *one = &queue[taken++];
    if (one->error != 0) {
        errno = one->error;
        return -1;
    }
    deliver(header, one);
    return (ssize_t)(one->size < capacity ? one->size : capacity);
}

/* The last message that was refused is lost, unless it comes again at once. */
static void settle(const void *next) {
    if (refused != NULL && next != refused && refused_for != EINTR) {
        out_seen++;
        out_lost++;
    }
    refused = NULL;
}

/* A new batch: of the last one all was answered, and nothing was to be handed over. */
static void begin_batch(void) {
    settle(NULL);
    MUST(out_seen == out_due && !out_ended && in_due == 0);
    model.replies += out_due - out_lost;
    model.reply_errors += out_lost;
    out_due = out_seen = out_lost = 0;
    in_batch = 0;
    unpoison();
}

static void count_error(void) {
    model.receive_errors += errno != EINTR && errno != EAGAIN;
}

int fuzz_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                  struct timespec *timeout) {
    MUST(fd == THE_SOCKET && flags == MSG_DONTWAIT && timeout == NULL);
    MUST(count > 0 && count <= batch);
    MUST(++system_calls < MOST_SYSTEM_CALLS);
    begin_batch();
    for (unsigned int at = 0; at < count; at++) {
        if (at > 0 && (taken == queued || queue[taken].error != 0)) {
            return (int)at; /* Linux keeps an error behind datagrams for the next call */
        }
        const ssize_t size = receive(&messages[at].msg_hdr);
        if (size < 0) {
            count_error();
            return -1;
        }
        messages[at].msg_len = (unsigned int)size;
    }
    return (int)count;
}

ssize_t fuzz_recvmsg(int fd, struct msghdr *message, int flags) {
    MUST(fd == THE_SOCKET && ++system_calls < MOST_SYSTEM_CALLS);
    if (flags & MSG_ERRQUEUE) {
        MUST((flags & MSG_DONTWAIT) != 0);
        if (taken < queued && queue[taken].error != 0) {
            taken++;
            model.receive_errors++;
            return 0;
        }
        errno = EAGAIN;
        return -1;
    }
    MUST(flags == MSG_DONTWAIT);
    if (first_header == NULL) {
        first_header = message;
    }
    if (message == first_header) {
        begin_batch();
    }
    const ssize_t size = receive(message);
    if (size < 0 && in_batch == 0) {
        count_error(); /* behind datagrams it is passed over */
    }
    return size;
}

/* --- the system: sending ---------------------------------------------------------------------- */

static void check_sent(const struct msghdr *header) {
    MUST(out_seen < out_due);
    const struct outgoing *due = &out[out_seen++];
    MUST(header->msg_namelen == due->name_size && header->msg_iovlen == 1);
    MUST(memcmp(header->msg_name, due->name, due->name_size) == 0);
    MUST(header->msg_iov->iov_len == due->size);
    const size_t size = due->size < sizeof due->bytes ? due->size : sizeof due->bytes;
    MUST(size == 0 || memcmp(header->msg_iov->iov_base, due->bytes, size) == 0);
    check_source(due, header);
}

static int refuse(const void *message, int error) {
    refused = message;
    refused_for = errno = error;
    return -1;
}

/* How many of `count` the kernel takes; -1 with errno. */
static int send_some(const void *message, unsigned int count) {
    MUST(++system_calls < MOST_SYSTEM_CALLS);
    if (out_ended) {
        return refuse(message, EBADF);
    }
    switch (next_fault(&send_faults) % 8) {
    case 1:
        return refuse(message, ENOBUFS);
    case 2:
        return refuse(message, EINTR);
    case 3:
        return refuse(message, EPERM);
    case 4:
        out_ended = running;
        return refuse(message, EBADF);
    case 5:
        return (int)(count + 1) / 2;
    default:
        return (int)count;
    }
}

int fuzz_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    MUST(fd == THE_SOCKET && flags == (MSG_DONTWAIT | MSG_NOSIGNAL));
    MUST(count > 0 && !out_ended && (refused != messages || refused_for == EINTR));
    settle(messages);
    const int sent = send_some(messages, count);
    for (int at = 0; at < sent; at++) {
        check_sent(&messages[at].msg_hdr);
    }
    return sent;
}

/* One refused behind others of its call is tried again: where it stands first, it is lost. */
ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags) {
    MUST(fd == THE_SOCKET && flags == (MSG_DONTWAIT | MSG_NOSIGNAL));
    MUST(!out_ended || refused == message);
    settle(message);
    if (send_some(message, 1) < 0) {
        return -1;
    }
    check_sent(message);
    return (ssize_t)message->msg_iov->iov_len;
}

/* --- calls ------------------------------------------------------------------------------------ */

static void enqueue(struct waiting one) {
    if (queued < QUEUE) {
        queue[queued++] = one;
    } else {
        free(one.bytes);
    }
}

static void enqueue_datagram(struct input *input) {
    struct waiting one = {0, next_byte(input) % ADDRESSES, 0, next_16(input) % 2048, NULL};
    one.name_size = address_size(one.from);
    one.bytes = next_bytes(input, &one.size);
    enqueue(one);
}

/* A ClientHello with the right cookie for its address, and any sequences. */
static void enqueue_hello(struct input *input) {
    struct waiting one = {0, next_byte(input) % ADDRESSES, 0, HELLO_SIZE, NULL};
    const unsigned int flags = next_byte(input);
    const struct gcookie_key *key = (flags & 1) ? &keys.previous : &keys.current;
    unsigned char mac[20];
    one.name_size = address_size(one.from);
    one.bytes = calloc(1, HELLO_SIZE);
    MUST(one.bytes != NULL);
    uint8_t *const hello = one.bytes;
    hello[0] = 22, hello[1] = 0xfe, hello[2] = 0xff;
    hello[10] = next_byte(input);
    hello[12] = HELLO_SIZE - 13;
    hello[13] = 1;
    hello[16] = (flags & 2) ? HELLO_SIZE : HELLO_SIZE - 25; /* a first fragment, or all of it */
    hello[18] = next_byte(input);
    hello[24] = HELLO_SIZE - 25;
    hello[60] = GCOOKIE_SIZE;
    if (key->size > 0) {
        MUST(gnutls_hmac_fast(GNUTLS_MAC_SHA1, key->data, key->size, &addresses[one.from],
                              one.name_size, mac) == 0);
        memcpy(hello + 61, mac, GCOOKIE_SIZE);
    }
    enqueue(one);
}

/* An address of a length that its family does not have. */
static void enqueue_odd(struct input *input) {
    struct waiting one = {0, next_byte(input) % ADDRESSES, next_byte(input) % 33, 80, NULL};
    one.bytes = next_bytes(input, &one.size);
    enqueue(one);
}

static void enqueue_error(struct input *input) {
    static const int errors[] = {ECONNREFUSED, EINTR, EAGAIN, EHOSTUNREACH, ENOMEM, EBADF};
    struct waiting one = {errors[next_byte(input) % (sizeof errors / sizeof *errors)], 0, 0, 0,
                          NULL};
    enqueue(one);
}

static void check_arrivals(int result) {
    const struct gcookie_arrival *arrivals = gcookie_udp_arrivals(udp);
    MUST(result == (int)in_due || (in_due == 0 && result < 0));
    for (unsigned int at = 0; at < in_due; at++) {
        const struct gcookie_arrival *arrival = &arrivals[at];
        const union address *from = &addresses[in[at].from];
        const struct waiting *datagram = in[at].datagram;
        const int is_ipv4 = from->any.sa_family == AF_INET;
        MUST(arrival->size == datagram->size);
        MUST(arrival->size == 0 || memcmp(arrival->datagram, datagram->bytes, arrival->size) == 0);
        MUST(arrival->verified == (in[at].verdict.kind == GCOOKIE_VERIFIED));
        MUST(memcmp(&arrival->prestate, &in[at].verdict.prestate, sizeof arrival->prestate) == 0);
        union gcookie_control_in given;
        struct gcookie_source asked;
        (void)control_of(datagram, given.bytes, &asked);
        MUST(memcmp(arrival->local, &asked, sizeof asked) == 0);
        MUST(arrival->ip_size == (is_ipv4 ? 4u : 16u));
        MUST(memcmp(arrival->ip,
                    is_ipv4 ? (const void *)&from->ipv4.sin_addr : &from->ipv6.sin6_addr,
                    arrival->ip_size) == 0);
        MUST(arrival->port == ntohs(is_ipv4 ? from->ipv4.sin_port : from->ipv6.sin6_port));
        MUST(arrival->flowinfo == (is_ipv4 ? 0 : ntohl(from->ipv6.sin6_flowinfo)));
        MUST(arrival->scope_id == (is_ipv4 ? 0 : from->ipv6.sin6_scope_id));
    }
}

static void run(struct input *input) {
    const unsigned int want = next_byte(input) % (MOST_BATCH + 2);
    const unsigned int wait_ms = next_byte(input), work_ms = next_byte(input);
    system_calls = 0;
    in_due = 0;
    running = 1;
    const int result = gcookie_udp_run(udp, THE_SOCKET, &keys, &counters, want, wait_ms, work_ms);
    running = 0;
    settle(NULL);
    MUST(out_seen == out_due || (out_ended && (result < 0 || in_due > 0)));
    model.replies += out_seen - out_lost;
    model.reply_errors += out_lost;
    out_due = out_seen = out_lost = 0;
    out_ended = 0;
    check_arrivals(result);
    model.arrivals += in_due;
    in_due = 0;
}

static void admit(struct input *input) {
    const unsigned int at = next_byte(input) % ADDRESSES;
    struct peer *const peer = peer_of(at);
    const int result = gcookie_udp_admit(udp, &addresses[at], address_size(at));
    if (peer->admitted) {
        MUST(result == 0);
    } else if (admitted_peers() >= max_peers) {
        MUST(result == -ENOSPC);
    } else if (!peer->listed && no_memory()) {
        MUST(result == -ENOMEM);
    } else {
        MUST(result == 0);
        peer->admitted = has_buckets = 1;
    }
}

static void forget(struct input *input) {
    const unsigned int at = next_byte(input) % ADDRESSES;
    struct peer *const peer = peer_of(at);
    MUST(gcookie_udp_forget(udp, &addresses[at], address_size(at)) == 0);
    peer->admitted = peer->verified = 0;
}

/* Bytes that are not an address, as the caller may have them. */
static void admit_bytes(struct input *input) {
    size_t size = next_byte(input) % 40;
    uint8_t *bytes = next_bytes(input, &size);
    const sa_family_t family =
        size >= sizeof(sa_family_t) ? ((struct sockaddr *)bytes)->sa_family : AF_UNSPEC;
    const int is_address = (family == AF_INET && size == sizeof(struct sockaddr_in)) ||
                           (family == AF_INET6 && size == sizeof(struct sockaddr_in6));
    if (!is_address) { /* else it might be one of ours */
        MUST(gcookie_udp_admit(udp, bytes, size) == -EAFNOSUPPORT);
        MUST(gcookie_udp_forget(udp, bytes, size) == -EAFNOSUPPORT);
    }
    free(bytes);
}

static void begin(void) {
    gcookie_udp_begin(udp);
    for (unsigned int at = 0; at < ADDRESSES; at++) {
        peers[at].verified = peers[at].listed = 0;
    }
}

/* Datagrams of sessions: what the arguments have room for is sent or counted. */
static void send_all(struct input *input) {
    unsigned int sizes[MOST_SENT];
    const unsigned int count = next_byte(input) % (MOST_SENT + 1);
    const size_t name_size = next_byte(input) % 32;
    size_t names_size = next_16(input) % (MOST_SENT * 32);
    size_t data_size = next_16(input) % 4096;
    const unsigned int step = next_byte(input);
    struct gcookie_source sources[MOST_SENT];
    const int with_sources = step % 2 != 0;
    uint8_t *const exact_names = malloc(names_size), *const exact_data = malloc(data_size);
    MUST((exact_names != NULL || names_size == 0) && (exact_data != NULL || data_size == 0));
    for (size_t at = 0; at < names_size; at++) {
        exact_names[at] = (uint8_t)(at * 7);
    }
    for (size_t at = 0; at < data_size; at++) {
        exact_data[at] = (uint8_t)(at * 13);
    }
    size_t name_at = 0, data_at = 0;
    system_calls = 0;
    for (unsigned int at = 0; at < count; at++) {
        sizes[at] = (at * step) % 97;
        memset(&sources[at], (int)at, sizeof sources[at]);
        sources[at].size = (at + step) % 3 == 0 ? 0 : (at + step) % 3 == 1 ? 4 : 16;
    }
    for (unsigned int at = 0; at < count; at++) {
        if (name_size == 0 || name_size > names_size - name_at || sizes[at] > data_size - data_at) {
            break;
        }
        struct outgoing *one = &out[out_due++];
        one->name = exact_names + name_at;
        one->name_size = name_size;
        one->size = sizes[at];
        one->answered = NULL;
        one->source = with_sources ? &sources[at] : NULL;
        const size_t compared = one->size < sizeof one->bytes ? one->size : sizeof one->bytes;
        memcpy(one->bytes, exact_data + data_at, compared);
        name_at += name_size;
        data_at += sizes[at];
    }
    const unsigned int unsent =
        gcookie_udp_send(THE_SOCKET, exact_names, names_size, name_size, exact_data, data_size,
                         sizes, with_sources ? sources : NULL, count);
    settle(NULL);
    MUST(out_seen == out_due);
    MUST(unsent == out_lost + (count - out_due));
    out_due = out_seen = out_lost = 0;
    free(exact_names);
    free(exact_data);
}

static void rotate(struct input *input) {
    keys.previous = keys.current;
    memset(keys.current.data, next_byte(input), sizeof keys.current.data);
}

static void add_fault(struct faults *faults, uint8_t kind) {
    if (faults->left < FAULTS) {
        faults->kinds[faults->left++] = kind;
    }
}

static void call(struct input *input) {
    switch (next_byte(input) % 16) {
    case 0:
    case 1:
    case 2:
        run(input);
        break;
    case 3:
    case 4:
        enqueue_datagram(input);
        break;
    case 5:
    case 6:
        enqueue_hello(input);
        break;
    case 7:
        enqueue_odd(input);
        break;
    case 8:
        enqueue_error(input);
        break;
    case 9:
        admit(input);
        break;
    case 10:
        forget(input);
        break;
    case 11:
        begin();
        break;
    case 12:
        memory_is_out = next_byte(input) % 3;
        admit_bytes(input);
        break;
    case 13:
        add_fault(&send_faults, next_byte(input));
        break;
    case 14:
        add_fault(&poll_faults, next_byte(input));
        break;
    default:
        if (next_byte(input) % 2 == 0) {
            rotate(input);
        } else {
            send_all(input);
        }
    }
    MUST(gcookie_udp_peers(udp) == admitted_peers());
}

static void check_counters(void) {
    struct gcookie_udp_counters seen;
    gcookie_udp_count(udp, &seen);
    MUST(seen.received == model.received);
    MUST(seen.replies == model.replies && seen.reply_errors == model.reply_errors);
    MUST(seen.receive_errors == model.receive_errors);
    MUST(seen.truncated == model.truncated && seen.arrivals == model.arrivals);
    MUST(memcmp(&counters, &judged, sizeof counters) == 0);
}

static void reset(struct input *input) {
    static const size_t capacities[] = {1, 61, 256, 2048};
    make_addresses();
    memset(peers, 0, sizeof peers);
    memset(&model, 0, sizeof model);
    memset(&judged, 0, sizeof judged);
    memset(&counters, 0, sizeof counters);
    memset(&keys, 'k', sizeof keys);
    send_faults.left = poll_faults.left = 0;
    queued = taken = out_due = out_seen = out_lost = in_due = in_batch = 0;
    memory_is_out = has_buckets = out_ended = 0;
    refused = first_header = NULL;
    clock_us = 0;
    batch = 1 + next_byte(input) % MOST_BATCH;
    capacity = capacities[next_byte(input) % 4];
    max_peers = next_byte(input);
    wildcard = max_peers / 8 % 8;
    max_peers %= 8;
    keys.current.size = 16;
    keys.previous.size = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    reset(&input);
    MUST(gcookie_udp_new(0, capacity, max_peers) == NULL &&
         gcookie_udp_new(batch, 0, max_peers) == NULL);
    gcookie_udp_free(NULL);
    const unsigned int failing = next_byte(&input) % 8;
    callocs_left = failing;
    udp = gcookie_udp_new(batch, capacity, max_peers);
    if (failing > 0 && callocs_left == 0) {
        MUST(udp == NULL);
        return 0;
    }
    callocs_left = 0;
    MUST(udp != NULL);
    gcookie_udp_watch(udp, THE_SOCKET);
    for (unsigned int calls = 0; calls < MOST_CALLS && input.size > 0; calls++) {
        call(&input);
    }
    check_counters();
    unpoison();
    gcookie_udp_free(udp);
    for (unsigned int at = 0; at < queued; at++) {
        free(queue[at].bytes);
    }
    return 0;
}
