/* The loop of a listener: datagrams from a UDP socket through the gate, replies back to the socket,
 * and to the caller only what verified clients and admitted peers sent. For one thread at a time,
 * except where it says otherwise. */
#ifndef GNUTLS_COOKIE_UDP_H
#define GNUTLS_COOKIE_UDP_H

#include "counters.h"
#include "source.h"

/* One system call a batch (recvmmsg, sendmmsg), or one a datagram (recvmsg, sendmsg), which every
 * POSIX system has. */
#if !defined(GCOOKIE_PORTABLE_LOOP) && !defined(__linux__) && !defined(__FreeBSD__)
#define GCOOKIE_PORTABLE_LOOP
#endif
#ifdef GCOOKIE_PORTABLE_LOOP
#define GCOOKIE_UDP_PORTABLE 1
#else
#define GCOOKIE_UDP_PORTABLE 0
#endif

/* What a caller is to see. The pointers lead into the buffers of the struct gcookie_udp, and are
 * good until the next gcookie_udp_run. Numbers are in the byte order of the machine. */
struct gcookie_arrival {
    const unsigned char *datagram;
    size_t size;
    int verified; /* 1: a ClientHello with a good cookie, and `prestate` is its hand-over */
    gnutls_dtls_prestate_st prestate;
    const unsigned char *ip;
    unsigned int ip_size; /* 4 or 16 */
    unsigned int port;
    uint32_t flowinfo; /* this and scope_id: 0 with IPv4 */
    uint32_t scope_id;
    int reason;                         /* enum gcookie_reason: why it is no verified ClientHello */
    unsigned int slot;                  /* for gcookie_udp_path */
    const struct gcookie_source *local; /* the address that it was sent to */
};

struct gcookie_udp_counters {
    uint64_t received;       /* datagrams, all of them */
    uint64_t replies;        /* HelloVerifyRequests that the kernel took */
    uint64_t reply_errors;   /* and those that it did not */
    uint64_t receive_errors; /* ICMP errors and the like, reported in place of a datagram */
    uint64_t truncated;      /* datagrams longer than a buffer: dropped, not judged */
    uint64_t arrivals;       /* handed to the caller */
};

struct gcookie_udp;

/* Everything that a loop ever needs: `batch` buffers of `capacity` bytes each, touched at once, so
 * that no traffic makes the process grow. NULL where there is no memory. */
struct gcookie_udp *gcookie_udp_new(unsigned int batch, size_t capacity, size_t max_peers);

/* Wipes and frees it all. NULL is fine. */
void gcookie_udp_free(struct gcookie_udp *udp);

/* Frees what stands in the box, and empties it: a finalizer of Python that no signal interrupts. */
void gcookie_udp_release(struct gcookie_udp **box);

/* Tell it the socket, once that is bound. On the wildcard address the kernel is asked to say which
 * address each datagram was sent to; replies come from there. */
void gcookie_udp_watch(struct gcookie_udp *udp, int fd);

/* Drops the addresses that were verified in earlier runs and not admitted since. Until then a
 * verified address counts as admitted: the rest of a fragmented ClientHello comes at its heels. */
void gcookie_udp_begin(struct gcookie_udp *udp);

/* Receives, judges and replies until there are arrivals (at most `want` of them), until the socket
 * has been empty for what is left of `wait_ms`, until `work_ms` of work are over, or until a signal
 * comes. `fd` need not be non-blocking, and keeps its flags. Returns the number of arrivals, or
 * -errno where the socket is of no use any more. Never for longer than the longer of the two times
 * and one batch. */
int gcookie_udp_run(struct gcookie_udp *udp, int fd, const struct gcookie_keys *keys,
                    struct gcookie_counters *counters, unsigned int want, unsigned int wait_ms,
                    unsigned int work_ms);

/* From now on everything that is no challenge arrives, and who takes it knows the peers: it counts
 * what came from nobody by its `reason`. */
void gcookie_udp_admit_all(struct gcookie_udp *udp);

/* One arrival is somebody's. */
void gcookie_udp_count_arrival(struct gcookie_udp *udp);

/* Both ends of the way that an arrival came. */
struct gcookie_path;
void gcookie_udp_path(const struct gcookie_udp *udp, const struct gcookie_arrival *arrival,
                      struct gcookie_path *out);

/* The arrivals of the last gcookie_udp_run. */
const struct gcookie_arrival *gcookie_udp_arrivals(const struct gcookie_udp *udp);

/* The set of admitted peers, by struct sockaddr_in or sockaddr_in6. From any thread, also during
 * gcookie_udp_run, and in a forked child whose parent was in it. Admitting gives 0, or -ENOSPC
 * (max_peers are there), -ENOMEM, -EAFNOSUPPORT. */
int gcookie_udp_admit(struct gcookie_udp *udp, const void *address, size_t size);
int gcookie_udp_forget(struct gcookie_udp *udp, const void *address, size_t size);
size_t gcookie_udp_peers(struct gcookie_udp *udp);

/* Send `count` datagrams that stand one after the other in `data`, sizes[i] bytes each, to the
 * sockaddrs that stand one after the other in `names`, name_size bytes each, from sources[i]
 * (NULL: the kernel chooses). Needs no struct gcookie_udp. Returns how many were not sent: those
 * that the kernel did not take, and those that `data` or `names` has no bytes for. */
unsigned int gcookie_udp_send(int fd, const void *names, size_t names_size, size_t name_size,
                              const void *data, size_t data_size, const unsigned int *sizes,
                              const struct gcookie_source *sources, unsigned int count);

/* A copy; from any thread. */
void gcookie_udp_count(struct gcookie_udp *udp, struct gcookie_udp_counters *out);

#endif
