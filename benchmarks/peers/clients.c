/* clients PORT SESSIONS ECHOES WINDOW x509|psk IDENTITY HEXKEY PRIORITY MTU sleep|spin: SESSIONS
 * clients over libgnutls at once, each with a port of its own, in one thread with epoll. At most
 * WINDOW shake hands at a time; then each sends ECHOES messages of 100 bytes, one outstanding, and
 * sends again what did not come back within a second. Where nothing has come it sleeps, or asks
 * again at once: who sends to a process that sleeps pays for waking it, on this machine.
 *
 * A phase begins with a line on stdin and ends with a line on stdout: ready; handshakes SECONDS CPU
 * FAILED RETRANSMITTED; echoes SECONDS CPU RESENT LOST; closed GOODBYES. CPU is that of this
 * process, in seconds, without what it asked in vain: where it equals the time, the clients are the
 * bottleneck. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 100, EVENTS = 256, TICK = 20, RESEND = 1000, PATIENCE = 60000, TRIES = 20 };

enum state { NEW, SHAKING, OPEN, DONE, FAILED };

struct client {
    gnutls_session_t session;
    int fd;
    enum state state;
    int left; /* echoes to come */
    int tries;
    double sent_at;
    unsigned char message[MESSAGE];
};

static struct client *clients;
static int sessions, echoes, window, poller;
static int started, shaking, finished, failed, resent, lost, goodbyes;
static unsigned long retransmitted;
static int is_psk, spins;
static double in_vain; /* ms */
static unsigned int mtu;
static gnutls_priority_t priority;
static gnutls_certificate_credentials_t certificate;
static gnutls_psk_client_credentials_t psk;

static double clock_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1000 + (double)time.tv_nsec / 1e6;
}

static double now(void) {
    return clock_of(CLOCK_MONOTONIC);
}

static double used_so_far(void) {
    return clock_of(CLOCK_PROCESS_CPUTIME_ID) - in_vain;
}

static void must(int code, const char *what) {
    if (code < 0) {
        fprintf(stderr, "clients: %s: %s\n", what, gnutls_strerror(code));
        exit(3);
    }
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    (void)ptr;
    (void)milliseconds;
    return 1; /* the socket does not block: pull says what is there */
}

/* --- one client ------------------------------------------------------------------------------- */

static void open_socket(struct client *client, const struct sockaddr_in *server) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    client->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (client->fd < 0 ||
        connect(client->fd, (const struct sockaddr *)server, sizeof *server) != 0 ||
        epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) != 0) {
        perror("clients");
        exit(4);
    }
}

static void begin(struct client *client) {
    must(gnutls_init(&client->session, GNUTLS_CLIENT | GNUTLS_DATAGRAM | GNUTLS_NONBLOCK), "init");
    gnutls_priority_set(client->session, priority);
    if (is_psk)
        gnutls_credentials_set(client->session, GNUTLS_CRD_PSK, psk);
    else
        gnutls_credentials_set(client->session, GNUTLS_CRD_CERTIFICATE, certificate);
    gnutls_dtls_set_mtu(client->session, mtu);
    gnutls_dtls_set_timeouts(client->session, 1000, 60000);
    gnutls_transport_set_int(client->session, client->fd);
    gnutls_transport_set_pull_timeout_function(client->session, pull_timeout);
    client->state = SHAKING;
    shaking++;
}

static void shake(struct client *client) {
    int code = gnutls_handshake(client->session);
    if (code == 0) {
        client->state = OPEN;
        shaking--;
        finished++;
    } else if (gnutls_error_is_fatal(code)) {
        if (failed == 0) /* the others will have failed too */
            fprintf(stderr, "clients: handshake: %s\n", gnutls_strerror(code));
        client->state = FAILED;
        shaking--;
        failed++;
        finished++;
    }
}

static void send_message(struct client *client) {
    ssize_t code = gnutls_record_send(client->session, client->message, MESSAGE);
    client->sent_at = now();
    if (code < 0 && gnutls_error_is_fatal((int)code)) {
        fprintf(stderr, "clients: send: %s\n", gnutls_strerror((int)code));
        client->state = FAILED;
        lost += client->left;
        finished++;
    }
}

static void next_message(struct client *client) {
    if (client->left == 0) {
        client->state = DONE;
        finished++;
        return;
    }
    memcpy(client->message, &client->left, sizeof client->left);
    client->tries = 0;
    send_message(client);
}

static void receive(struct client *client) {
    unsigned char message[16384];
    for (;;) {
        ssize_t size = gnutls_record_recv(client->session, message, sizeof message);
        if (size == MESSAGE && memcmp(message, client->message, MESSAGE) == 0) {
            if (client->state == OPEN && client->left > 0) {
                client->left--;
                next_message(client);
            }
        } else if (size == GNUTLS_E_AGAIN) {
            return;
        } else if (size == 0 || (size < 0 && gnutls_error_is_fatal((int)size))) {
            if (size == 0)
                goodbyes++;
            if (client->state == OPEN) {
                client->state = FAILED;
                lost += client->left;
                finished++;
            }
            epoll_ctl(poller, EPOLL_CTL_DEL, client->fd, NULL);
            return;
        } /* else an echo that came twice, or a record that was dropped: go on */
    }
}

/* --- phases ----------------------------------------------------------------------------------- */

static void wait_for_line(void) {
    int c;
    do
        c = getchar();
    while (c != '\n' && c != EOF);
    if (c == EOF)
        exit(0);
}

static void begin_more(void) {
    while (started < sessions && shaking < window) {
        begin(&clients[started]);
        shake(&clients[started++]);
    }
}

static void timers(int is_shaking) {
    double time = now();
    for (int i = 0; i < started; i++) {
        struct client *client = &clients[i];
        if (is_shaking) {
            if (client->state == SHAKING && gnutls_dtls_get_timeout(client->session) == 0) {
                retransmitted++;
                shake(client);
            }
        } else if (client->state == OPEN && time - client->sent_at >= RESEND) {
            if (++client->tries > TRIES) {
                client->state = FAILED;
                lost += client->left;
                finished++;
            } else {
                resent++;
                send_message(client);
            }
        }
    }
}

/* Until `finished` is `wanted`. */
static void run(int wanted, int is_shaking, double patience) {
    struct epoll_event events[EVENTS];
    double ticked = now(), end = ticked + patience;
    while (finished < wanted && now() < end) {
        double asked;
        int count;
        if (is_shaking)
            begin_more();
        asked = now();
        count = epoll_wait(poller, events, EVENTS, spins ? 0 : TICK);
        if (spins && count == 0)
            in_vain += now() - asked;
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (client->state == SHAKING)
                shake(client);
            else
                receive(client);
        }
        if (now() - ticked >= TICK) {
            ticked = now();
            timers(is_shaking);
        }
    }
}

static gnutls_datum_t from_hex(const char *hex) {
    gnutls_datum_t key = {malloc(strlen(hex) / 2 + 1), (unsigned int)strlen(hex) / 2};
    for (unsigned int i = 0; i < key.size; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        key.data[i] = (unsigned char)strtoul(two, NULL, 16);
    }
    return key;
}

int main(int argc, char **argv) {
    struct sockaddr_in server = {.sin_family = AF_INET};
    struct rlimit limit;
    double start, used;

    if (argc != 11)
        return 2;
    sessions = atoi(argv[2]);
    echoes = atoi(argv[3]);
    window = atoi(argv[4]);
    is_psk = strcmp(argv[5], "psk") == 0;
    mtu = (unsigned int)atoi(argv[9]);
    spins = strcmp(argv[10], "spin") == 0;
    must(gnutls_priority_init(&priority, argv[8], NULL), "priority");
    if (is_psk) {
        gnutls_datum_t key = from_hex(argv[7]);
        must(gnutls_psk_allocate_client_credentials(&psk), "psk");
        must(gnutls_psk_set_client_credentials(psk, argv[6], &key, GNUTLS_PSK_KEY_RAW), "psk");
    } else {
        must(gnutls_certificate_allocate_credentials(&certificate), "certificate");
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(0);
    clients = calloc((size_t)sessions, sizeof *clients);
    if (poller < 0 || clients == NULL)
        return 4;
    server.sin_port = htons((unsigned short)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < sessions; i++)
        open_socket(&clients[i], &server);
    printf("ready\n");
    fflush(stdout);

    wait_for_line();
    start = now(), used = used_so_far();
    run(sessions, 1, PATIENCE);
    printf("handshakes %.6f %.6f %d %lu\n", (now() - start) / 1000, (used_so_far() - used) / 1000,
           failed + sessions - finished, retransmitted);
    fflush(stdout);

    wait_for_line();
    start = now(), used = used_so_far();
    finished = failed + sessions - finished;
    for (int i = 0; i < sessions; i++) {
        if (clients[i].state != OPEN)
            continue;
        memset(clients[i].message, i & 0xff, MESSAGE);
        clients[i].left = echoes;
        next_message(&clients[i]);
    }
    run(sessions, 0, 10 * PATIENCE);
    printf("echoes %.6f %.6f %d %d\n", (now() - start) / 1000, (used_so_far() - used) / 1000,
           resent, lost);
    fflush(stdout);

    wait_for_line();
    for (int i = 0; i < sessions; i++)
        if (clients[i].state == DONE)
            gnutls_bye(clients[i].session, GNUTLS_SHUT_WR);
    finished = 0;
    for (double end = now() + 10000; goodbyes < sessions - failed && now() < end;)
        run(1, 0, TICK);
    printf("closed %d\n", goodbyes);
    for (int i = 0; i < sessions; i++) {
        if (clients[i].session != NULL)
            gnutls_deinit(clients[i].session);
        close(clients[i].fd);
    }
    return 0;
}
