/* echo x509 CERT KEY PRIORITY MTU | echo psk IDENTITY HEXKEY PRIORITY MTU: a DTLS echo server over
 * libgnutls as one would write it in C. One thread, epoll over one UDP socket, the cookie exchange
 * of GnuTLS' manual, sessions by address in a hash table. Prints its port; ends at SIGTERM. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, CAPACITY = 2048, BUCKETS = 1 << 14, RECEIVE_BUFFER = 8 << 20, TICK = 50 };
enum { HANDSHAKE_TIMEOUT = 30000 }; /* ms */

struct peer {
    gnutls_session_t session;
    struct sockaddr_in address;
    const unsigned char *datagram; /* what the session may read now, or NULL */
    size_t size;
    int established;
    struct peer *next;           /* in the bucket */
    struct peer *before, *after; /* among those that are shaking hands */
};

static volatile sig_atomic_t stopped;
static int fd;
static unsigned int mtu;
static int is_psk;
static gnutls_priority_t priority;
static gnutls_certificate_credentials_t certificate;
static gnutls_psk_server_credentials_t psk;
static const char *psk_identity;
static gnutls_datum_t psk_key, cookie_key;
static struct peer *buckets[BUCKETS];
static struct peer shaking = {.before = &shaking, .after = &shaking};

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void must(int code, const char *what) {
    if (code < 0) {
        fprintf(stderr, "echo: %s: %s\n", what, gnutls_strerror(code));
        exit(3);
    }
}

/* --- what a session calls --------------------------------------------------------------------- */

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct peer *peer = ptr;
    return sendto(fd, data, size, 0, (struct sockaddr *)&peer->address, sizeof peer->address);
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t size) {
    struct peer *peer = ptr;
    if (peer->datagram == NULL) {
        errno = EAGAIN;
        return -1;
    }
    if (size > peer->size)
        size = peer->size;
    memcpy(data, peer->datagram, size);
    peer->datagram = NULL;
    return (ssize_t)size;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    (void)milliseconds;
    return ((struct peer *)ptr)->datagram != NULL;
}

static ssize_t push_reply(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    return sendto(fd, data, size, 0, ptr, sizeof(struct sockaddr_in));
}

static int psk_lookup(gnutls_session_t session, const char *identity, gnutls_datum_t *key) {
    (void)session;
    if (strcmp(identity, psk_identity) != 0)
        return 1; /* no such user */
    key->data = gnutls_malloc(psk_key.size);
    if (key->data == NULL)
        return -1;
    memcpy(key->data, psk_key.data, psk_key.size);
    key->size = psk_key.size;
    return 0;
}

/* --- sessions by address ---------------------------------------------------------------------- */

static struct peer **bucket_of(const struct sockaddr_in *address) {
    uint64_t key = (uint64_t)address->sin_addr.s_addr << 16 | address->sin_port;
    return &buckets[key * 0x9e3779b97f4a7c15u >> 50];
}

static struct peer *find(const struct sockaddr_in *address) {
    struct peer *peer = *bucket_of(address);
    while (peer != NULL && (peer->address.sin_addr.s_addr != address->sin_addr.s_addr ||
                            peer->address.sin_port != address->sin_port))
        peer = peer->next;
    return peer;
}

static void unlist(struct peer *peer) {
    peer->before->after = peer->after;
    peer->after->before = peer->before;
    peer->before = peer->after = peer;
}

static void drop(struct peer *peer) {
    struct peer **link = bucket_of(&peer->address);
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    unlist(peer);
    gnutls_deinit(peer->session);
    free(peer);
}

static struct peer *admit(const struct sockaddr_in *address, gnutls_dtls_prestate_st *prestate) {
    struct peer *peer = calloc(1, sizeof *peer), **bucket = bucket_of(address);
    if (peer == NULL)
        return NULL;
    if (gnutls_init(&peer->session, GNUTLS_SERVER | GNUTLS_DATAGRAM | GNUTLS_NONBLOCK) < 0) {
        free(peer);
        return NULL;
    }
    peer->address = *address;
    peer->next = *bucket;
    *bucket = peer;
    peer->before = &shaking;
    peer->after = shaking.after;
    shaking.after->before = peer;
    shaking.after = peer;
    gnutls_priority_set(peer->session, priority);
    if (is_psk)
        gnutls_credentials_set(peer->session, GNUTLS_CRD_PSK, psk);
    else
        gnutls_credentials_set(peer->session, GNUTLS_CRD_CERTIFICATE, certificate);
    gnutls_dtls_prestate_set(peer->session, prestate);
    gnutls_dtls_set_mtu(peer->session, mtu);
    gnutls_dtls_set_timeouts(peer->session, 1000, HANDSHAKE_TIMEOUT);
    gnutls_transport_set_ptr(peer->session, peer);
    gnutls_transport_set_push_function(peer->session, push);
    gnutls_transport_set_pull_function(peer->session, pull);
    gnutls_transport_set_pull_timeout_function(peer->session, pull_timeout);
    return peer;
}

/* --- what comes in ---------------------------------------------------------------------------- */

/* Go on with the handshake; 0 where the peer was dropped. */
static int shake(struct peer *peer) {
    int code;
    do {
        code = gnutls_handshake(peer->session);
        if (code == 0) {
            peer->established = 1;
            unlist(peer);
            return 1;
        }
        if (gnutls_error_is_fatal(code)) {
            drop(peer);
            return 0;
        }
    } while (peer->datagram != NULL);
    return 1;
}

static void echo(struct peer *peer) {
    unsigned char message[16384];
    for (;;) {
        ssize_t size = gnutls_record_recv(peer->session, message, sizeof message);
        if (size > 0) {
            gnutls_record_send(peer->session, message, (size_t)size);
        } else if (size == 0) {
            gnutls_bye(peer->session, GNUTLS_SHUT_WR);
            drop(peer);
            return;
        } else if (gnutls_error_is_fatal((int)size)) {
            drop(peer);
            return;
        } else if (peer->datagram == NULL) {
            return;
        }
    }
}

static void receive(unsigned char *datagram, size_t size, struct sockaddr_in *address) {
    struct peer *peer = find(address);
    if (peer == NULL) {
        gnutls_dtls_prestate_st prestate;
        if (size < 14 || datagram[0] != 22 || datagram[13] != 1)
            return; /* no ClientHello */
        memset(&prestate, 0, sizeof prestate);
        if (gnutls_dtls_cookie_verify(&cookie_key, address, sizeof *address, datagram, size,
                                      &prestate) < 0) {
            gnutls_dtls_cookie_send(&cookie_key, address, sizeof *address, &prestate, address,
                                    push_reply);
            return;
        }
        peer = admit(address, &prestate);
        if (peer == NULL)
            return;
    }
    peer->datagram = datagram;
    peer->size = size;
    if (peer->established || (shake(peer) && peer->established))
        echo(peer);
}

static void retransmit(void) {
    for (struct peer *peer = shaking.after, *next; peer != &shaking; peer = next) {
        next = peer->after;
        if (gnutls_dtls_get_timeout(peer->session) == 0)
            shake(peer);
    }
}

/* --- the loop --------------------------------------------------------------------------------- */

static void serve(void) {
    static unsigned char buffers[BATCH][CAPACITY];
    static struct sockaddr_in addresses[BATCH];
    static struct iovec vectors[BATCH];
    static struct mmsghdr batch[BATCH];
    struct epoll_event event = {.events = EPOLLIN};
    struct timespec now;
    long long ticked = 0;
    int poller = epoll_create1(0);

    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        exit(4);
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){buffers[i], CAPACITY};
        batch[i].msg_hdr =
            (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1, .msg_name = &addresses[i]};
    }
    while (!stopped) {
        long long milliseconds;
        epoll_wait(poller, &event, 1, shaking.after == &shaking ? -1 : TICK);
        for (int count = BATCH; count == BATCH && !stopped;) {
            for (int i = 0; i < BATCH; i++)
                batch[i].msg_hdr.msg_namelen = sizeof addresses[i];
            count = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT, NULL);
            for (int i = 0; i < count; i++)
                receive(buffers[i], batch[i].msg_len, &addresses[i]);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        milliseconds = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
        if (milliseconds - ticked >= TICK) {
            ticked = milliseconds;
            retransmit();
        }
    }
}

static void read_psk(const char *hex) {
    size_t size = strlen(hex) / 2;
    psk_key.data = malloc(size);
    psk_key.size = (unsigned int)size;
    for (size_t i = 0; i < size; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        psk_key.data[i] = (unsigned char)strtoul(two, NULL, 16);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in own = {.sin_family = AF_INET};
    socklen_t size = sizeof own;
    struct sigaction action = {.sa_handler = stop};
    int buffer = RECEIVE_BUFFER;

    if (argc != 6)
        return 2;
    is_psk = strcmp(argv[1], "psk") == 0;
    mtu = (unsigned int)atoi(argv[5]);
    must(gnutls_priority_init(&priority, argv[4], NULL), "priority");
    must(gnutls_key_generate(&cookie_key, GNUTLS_COOKIE_KEY_SIZE), "key");
    if (is_psk) {
        psk_identity = argv[2];
        read_psk(argv[3]);
        must(gnutls_psk_allocate_server_credentials(&psk), "psk");
        gnutls_psk_set_server_credentials_function(psk, psk_lookup);
    } else {
        must(gnutls_certificate_allocate_credentials(&certificate), "certificate");
        must(gnutls_certificate_set_x509_key_file(certificate, argv[2], argv[3],
                                                  GNUTLS_X509_FMT_PEM),
             "certificate");
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &size) != 0)
        return 4;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    sigaction(SIGTERM, &action, NULL);
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    serve();
    return 0;
}
