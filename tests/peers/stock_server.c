/* stock_server CERT KEY CHANGES: a DTLS echo server in the shape of the GnuTLS manual's example:
 * peek, verify, else send and drop, one client at a time. It makes a new cookie key after each of
 * its first CHANGES replies. Prints its port, and a line for each reply, verified client,
 * handshake, echo. */
#include <arpa/inet.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fd;
static struct sockaddr_in client;
static socklen_t client_size;

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    (void)ptr;
    return sendto(fd, data, size, 0, (struct sockaddr *)&client, client_size);
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t size) {
    struct sockaddr_in from;
    socklen_t from_size = sizeof from;
    ssize_t got;
    (void)ptr;
    got = recvfrom(fd, data, size, 0, (struct sockaddr *)&from, &from_size);
    return got >= 0 && memcmp(&from, &client, sizeof from) == 0 ? got : -1;
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    struct pollfd polled = {fd, POLLIN, 0};
    (void)ptr;
    return poll(&polled, 1, (int)milliseconds);
}

static void serve(gnutls_certificate_credentials_t credentials, gnutls_dtls_prestate_st *prestate) {
    gnutls_session_t session;
    char message[4096];
    ssize_t size;
    int result;

    gnutls_init(&session, GNUTLS_SERVER | GNUTLS_DATAGRAM);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_dtls_prestate_set(session, prestate);
    gnutls_transport_set_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
    gnutls_dtls_set_timeouts(session, 1000, 20000);
    gnutls_record_set_timeout(session, 10000);
    do
        result = gnutls_handshake(session);
    while (result == GNUTLS_E_INTERRUPTED || result == GNUTLS_E_AGAIN);
    printf(result == 0 ? "handshake\n" : "failed %d\n", result);
    while (result == 0 && (size = gnutls_record_recv(session, message, sizeof message)) > 0) {
        gnutls_record_send(session, message, (size_t)size);
        puts("echo");
    }
    gnutls_bye(session, GNUTLS_SHUT_WR);
    gnutls_deinit(session);
}

int main(int argc, char **argv) {
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t key;
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t own_size = sizeof own;
    int changes;

    if (argc != 4)
        return 2;
    changes = atoi(argv[3]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM) <
        0)
        return 3;
    gnutls_key_generate(&key, GNUTLS_COOKIE_KEY_SIZE);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &own_size) != 0)
        return 4;
    printf("port %d\n", ntohs(own.sin_port));
    for (;;) {
        gnutls_dtls_prestate_st prestate;
        unsigned char datagram[4096];
        ssize_t size;
        int result;

        memset(&client, 0, sizeof client);
        client_size = sizeof client;
        size = recvfrom(fd, datagram, sizeof datagram, MSG_PEEK, (struct sockaddr *)&client,
                        &client_size);
        if (size < 0)
            return 5;
        memset(&prestate, 0, sizeof prestate);
        result = gnutls_dtls_cookie_verify(&key, &client, sizeof client, datagram, (size_t)size,
                                           &prestate);
        if (result < 0) {
            result = gnutls_dtls_cookie_send(&key, &client, sizeof client, &prestate, NULL, push);
            printf("reply %d\n", result);
            (void)!recvfrom(fd, datagram, sizeof datagram, 0, NULL, NULL);
            if (result > 0 && changes > 0) {
                changes--;
                gnutls_free(key.data);
                gnutls_key_generate(&key, GNUTLS_COOKIE_KEY_SIZE);
            }
            continue;
        }
        puts("verified");
        serve(credentials, &prestate);
    }
}
