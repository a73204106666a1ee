/* Servers in C to measure beside: `servers loop` is the recipe of GnuTLS' manual (one recvfrom,
 * verify, send, sendto a datagram), `servers reflect` answers every datagram with 44 fixed bytes by
 * recvmmsg and sendmmsg: what the kernel alone costs.
 *
 * Prints its port, serves until SIGTERM, then prints: answers, and nanoseconds of CPU. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, REPLY = 44, BUFFER = 2048 };

static volatile sig_atomic_t stopped;
static unsigned long answers;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

struct peer {
    int fd;
    struct sockaddr_in address;
    socklen_t size;
};

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct peer *peer = ptr;
    ssize_t sent = sendto(peer->fd, data, size, 0, (struct sockaddr *)&peer->address, peer->size);
    if (sent > 0)
        answers++;
    return sent;
}

static void loop(int fd) {
    unsigned char buffer[BUFFER];
    gnutls_datum_t key;
    gnutls_dtls_prestate_st prestate;
    struct peer peer = {.fd = fd};

    if (gnutls_key_generate(&key, GNUTLS_COOKIE_KEY_SIZE) < 0)
        exit(3);
    while (!stopped) {
        ssize_t size;
        peer.size = sizeof peer.address;
        size = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer.address, &peer.size);
        if (size <= 0)
            continue;
        memset(&prestate, 0, sizeof prestate);
        if (gnutls_dtls_cookie_verify(&key, &peer.address, sizeof peer.address, buffer,
                                      (size_t)size, &prestate) < 0)
            gnutls_dtls_cookie_send(&key, &peer.address, sizeof peer.address, &prestate, &peer,
                                    push);
    }
}

static void reflect(int fd) {
    static unsigned char buffers[BATCH][BUFFER], reply[REPLY];
    static struct sockaddr_in addresses[BATCH];
    static struct iovec in[BATCH], out;
    static struct mmsghdr received[BATCH], replies[BATCH];

    out.iov_base = reply;
    out.iov_len = sizeof reply;
    for (int i = 0; i < BATCH; i++) {
        in[i].iov_base = buffers[i];
        in[i].iov_len = BUFFER;
        received[i].msg_hdr.msg_iov = &in[i];
        received[i].msg_hdr.msg_iovlen = 1;
        received[i].msg_hdr.msg_name = &addresses[i];
        replies[i].msg_hdr.msg_iov = &out;
        replies[i].msg_hdr.msg_iovlen = 1;
        replies[i].msg_hdr.msg_name = &addresses[i];
        replies[i].msg_hdr.msg_namelen = sizeof addresses[i];
    }
    while (!stopped) {
        int count, sent;
        for (int i = 0; i < BATCH; i++)
            received[i].msg_hdr.msg_namelen = sizeof addresses[i];
        count = recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL);
        if (count <= 0)
            continue;
        sent = sendmmsg(fd, replies, (unsigned int)count, 0);
        if (sent > 0)
            answers += (unsigned long)sent;
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in own = {.sin_family = AF_INET};
    socklen_t size = sizeof own;
    struct sigaction action = {.sa_handler = stop};
    struct timespec before, after;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (argc != 2 || fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &size) != 0)
        return 2;
    sigaction(SIGTERM, &action, NULL);
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    if (strcmp(argv[1], "loop") == 0)
        loop(fd);
    else
        reflect(fd);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    printf("%lu %lld\n", answers,
           (long long)(after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec);
    return 0;
}
