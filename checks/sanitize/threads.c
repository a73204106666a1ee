/* The C half under ThreadSanitizer: threads over one gate, one server, one lock, and sockets of
 * their own. Runs for SECONDS and prints what was done. With GCOOKIE_PLANTED_RACE there is one. */
#include "lock.h"
#include "serve.h"
#include "transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SOCKETS = 2,
    WORKERS = 2, /* of each kind */
    HELLO_SIZE = 67,
    RANDOM_AT = 27, /* of a ClientHello, in its datagram */
    COOKIE_AT = 60,
    WAIT_MS = 5,
};

static struct gcookie_keys keys;         /* shared by all sockets, as by a CookieGate */
static struct gcookie_counters counters; /* likewise */
static struct gcookie_udp *loops[SOCKETS];
static struct sockaddr_in names[SOCKETS];
static int sockets[SOCKETS];
static struct gcookie_server *server;
static struct gcookie_lock *lock;
static int is_over;
static uint64_t locked, served, busy, polled; /* what was done */
#ifdef GCOOKIE_PLANTED_RACE
static uint64_t planted;
#endif

int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key);

int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                   gnutls_datum_t *key) {
    (void)handle, (void)username, (void)size, (void)key;
    abort(); /* no client comes so far */
}

static void must(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "threads: %s\n", what);
        exit(3);
    }
}

static int goes_on(void) {
    return !__atomic_load_n(&is_over, __ATOMIC_ACQUIRE);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A ClientHello without a cookie that offers one cipher suite. */
static void make_hello(unsigned char hello[HELLO_SIZE], uint64_t number) {
    static const unsigned char head[] = {0x16,
                                         0xfe,
                                         0xff,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         HELLO_SIZE - 13, /* record */
                                         1,
                                         0,
                                         0,
                                         HELLO_SIZE - 25,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         0,
                                         HELLO_SIZE - 25, /* message */
                                         0xfe,
                                         0xfd};
    static const unsigned char tail[] = {0, 2, 0x00, 0xa8, 1, 0}; /* PSK with AES-GCM */

    memset(hello, 0, HELLO_SIZE);
    memcpy(hello, head, sizeof head);
    memcpy(hello + RANDOM_AT, &number, sizeof number);
    memcpy(hello + COOKIE_AT + 1, tail, sizeof tail);
}

/* --- what threads do -------------------------------------------------------------------------- */

static void *poll_socket(void *argument) {
    const size_t at = (size_t)(uintptr_t)argument;
    while (goes_on()) {
        gcookie_udp_begin(loops[at]);
        must(gcookie_udp_run(loops[at], sockets[at], &keys, &counters, 64, WAIT_MS, WAIT_MS) >= 0,
             "a socket failed");
        __atomic_add_fetch(&polled, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void *admit_and_forget(void *argument) {
    struct sockaddr_in peer = {.sin_family = AF_INET};
    for (uint32_t number = (uint32_t)(uintptr_t)argument; goes_on(); number += 2) {
        peer.sin_port = htons((uint16_t)(number % 1000 + 1));
        (void)gcookie_udp_admit(loops[number % SOCKETS], &peer, sizeof peer);
        (void)gcookie_udp_peers(loops[number % SOCKETS]);
        (void)gcookie_udp_forget(loops[(number + 1) % SOCKETS], &peer, sizeof peer);
    }
    return NULL;
}

static void *send_hellos(void *argument) {
    unsigned char hello[HELLO_SIZE], answer[64];
    const int sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    must(sock >= 0, "no socket");
    for (uint64_t number = (uintptr_t)argument; goes_on(); number += 2) {
        make_hello(hello, number);
        (void)sendto(sock, hello, number % 3 == 0 ? 20 : HELLO_SIZE, 0,
                     (struct sockaddr *)&names[number % SOCKETS], sizeof names[0]);
        while (recv(sock, answer, sizeof answer, 0) > 0)
            ;
        if (number % 64 < 2)
            usleep(1000);
    }
    close(sock);
    return NULL;
}

static void use_server(struct gcookie_turn *turn, uint64_t number) {
    unsigned char hello[HELLO_SIZE];
    gnutls_dtls_prestate_st prestate = {.record_seq = 1, .hsk_read_seq = 1};
    struct gcookie_path path;
    int code;

    memset(&path, 0, sizeof path);
    path.address.ipv4.sin_family = AF_INET;
    path.address.ipv4.sin_port = htons((uint16_t)(number % 300 + 1));
    make_hello(hello, number);
    switch (number % 5) {
    case 0:
        code = gcookie_server_handle_timeout(server, turn, now(), 0);
        break;
    case 1:
        code = (int)gcookie_server_send(server, turn, number, "x", 1, now());
        break;
    case 2:
        code = gcookie_server_has(server, &path.address);
        break;
    default:
        code =
            gcookie_server_receive(server, turn, &path, hello, sizeof hello, &prestate, now(), 0);
    }
    __atomic_add_fetch(code == GCOOKIE_BUSY ? &busy : &served, 1, __ATOMIC_RELAXED);
}

static struct gcookie_turn *given; /* another thread's; read once it is done */

static void *call_server(void *argument) {
    for (uint64_t number = (uintptr_t)argument; goes_on(); number += 7) {
        struct gcookie_turn *turn = malloc(sizeof *turn), *former;
        must(turn != NULL, "no memory");
        gcookie_turn_init(turn);
        use_server(turn, number);
        former = __atomic_exchange_n(&given, turn, __ATOMIC_ACQ_REL);
        if (former == NULL)
            continue;
        if (gcookie_turn_state(former) == GCOOKIE_TURN_DONE)
            for (size_t at = 0; at < former->outgoing_count; at++)
                must(former->outgoing[at].size > 0, "an empty datagram");
        gcookie_turn_clear(former);
        free(former);
    }
    return NULL;
}

static void *take_lock(void *argument) {
    static uint64_t count; /* by the lock's owner alone */
    (void)argument;
    while (goes_on()) {
        const uint64_t token = gcookie_lock_token(), news = gcookie_lock_news(&lock);
        if (gcookie_lock_take(&lock, token, WAIT_MS) != 1)
            continue;
        locked = ++count;
        if (count % 16 == 0)
            gcookie_lock_notify(&lock);
        gcookie_lock_give(&lock, token);
#ifdef GCOOKIE_PLANTED_RACE
        planted++;
#endif
        if (token % 16 == 0)
            (void)gcookie_lock_await(&lock, news, WAIT_MS);
    }
    return NULL;
}

/* --- the program ------------------------------------------------------------------------------ */

static void open_sockets(void) {
    for (size_t at = 0; at < SOCKETS; at++) {
        socklen_t size = sizeof names[at];
        names[at] = (struct sockaddr_in){.sin_family = AF_INET};
        names[at].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        sockets[at] = socket(AF_INET, SOCK_DGRAM, 0);
        must(sockets[at] >= 0 && bind(sockets[at], (struct sockaddr *)&names[at], size) == 0 &&
                 getsockname(sockets[at], (struct sockaddr *)&names[at], &size) == 0,
             "no socket");
        loops[at] = gcookie_udp_new(64, 2048, 1000);
        must(loops[at] != NULL, "no memory");
        gcookie_udp_watch(loops[at], sockets[at]);
    }
}

static struct gcookie_settings *make_settings(void) {
    struct gcookie_settings *settings;
    struct gcookie_shared *credentials = NULL, *priority = NULL;
    const char *position;

    must(gcookie_settings_new(&settings) == 0 &&
             gcookie_shared_credentials(&credentials, GCOOKIE_PSK_SERVER) == 0 &&
             gcookie_shared_priority(&priority, "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK",
                                     &position) == 0,
         "no settings");
    gcookie_settings_add(settings, credentials);
    gcookie_settings_add(settings, priority);
    gcookie_shared_release(&credentials);
    gcookie_shared_release(&priority);
    settings->is_server = 1;
    settings->retransmit_seconds = 0.05;
    settings->handshake_seconds = 0.2;
    return settings;
}

int main(int argc, char **argv) {
    static void *(*const work[])(void *) = {poll_socket, admit_and_forget, send_hellos, call_server,
                                            take_lock};
    enum { KINDS = sizeof work / sizeof *work };
    pthread_t threads[KINDS * WORKERS];
    struct gcookie_settings *settings;

    must(argc == 2, "usage: threads SECONDS");
    memset(keys.current.data, 'k', 16);
    keys.current.size = 16;
    open_sockets();
    settings = make_settings();
    must(gcookie_lock_new(&lock) == 0 && gcookie_server_new(&server) == 0 &&
             gcookie_server_set(server, settings) == 0,
         "no memory");
    for (size_t at = 0; at < KINDS * WORKERS; at++)
        must(pthread_create(&threads[at], NULL, work[at / WORKERS],
                            (void *)(uintptr_t)(at % WORKERS)) == 0,
             "no thread");
    sleep((unsigned int)atoi(argv[1]));
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    for (size_t at = 0; at < KINDS * WORKERS; at++)
        pthread_join(threads[at], NULL);
    printf("%llu polls, %llu challenges, %llu calls of the server, %llu refused, %llu locks\n",
           (unsigned long long)polled, (unsigned long long)counters.challenged,
           (unsigned long long)served, (unsigned long long)busy, (unsigned long long)locked);
    must(polled > 0 && counters.challenged > 0 && served > 0 && locked > 0, "something hangs");
    must(server->counters.connected == 0 && server->counters.session_errors == 0, "odd counters");
    if (given != NULL) {
        gcookie_turn_clear(given);
        free(given);
    }
    gcookie_server_free(&server);
    gcookie_settings_release(&settings);
    gcookie_lock_free(&lock);
    for (size_t at = 0; at < SOCKETS; at++) {
        gcookie_udp_free(loops[at]);
        close(sockets[at]);
    }
    return 0;
}
