/* What servers of the manual's recipe share: one client at a time, its transport, its session. */
#ifndef GNUTLS_COOKIE_TESTS_RECIPE_H
#define GNUTLS_COOKIE_TESTS_RECIPE_H

#include <arpa/inet.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Where a session sends, and from whom it takes. */
struct peer {
    int fd;
    struct sockaddr_in address;
    socklen_t size;
};

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    const struct peer *peer = ptr;
    return sendto(peer->fd, data, size, 0, (const struct sockaddr *)&peer->address, peer->size);
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t size) {
    const struct peer *peer = ptr;
    struct sockaddr_in from;
    socklen_t from_size = sizeof from;
    ssize_t got;
    memset(&from, 0, sizeof from);
    got = recvfrom(peer->fd, data, size, 0, (struct sockaddr *)&from, &from_size);
    if (got >= 0 && from.sin_port == peer->address.sin_port &&
        from.sin_addr.s_addr == peer->address.sin_addr.s_addr)
        return got;
    return -1; /* of another client: it has to try again when this one is done */
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    struct pollfd polled = {((const struct peer *)ptr)->fd, POLLIN, 0};
    return poll(&polled, 1, milliseconds > 20000 ? 20000 : (int)milliseconds);
}

/* A socket on loopback, at the environment's PORT where it has one; its port, or -1. */
static int listen_on_loopback(struct peer *peer) {
    const char *port = getenv("PORT");
    memset(peer, 0, sizeof *peer);
    peer->fd = socket(AF_INET, SOCK_DGRAM, 0);
    peer->size = sizeof peer->address;
    peer->address.sin_family = AF_INET;
    peer->address.sin_port = htons((uint16_t)(port == NULL ? 0 : atoi(port)));
    peer->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (peer->fd < 0 || bind(peer->fd, (struct sockaddr *)&peer->address, peer->size) != 0 ||
        getsockname(peer->fd, (struct sockaddr *)&peer->address, &peer->size) != 0)
        return -1;
    return ntohs(peer->address.sin_port);
}

/* Peeks at the next datagram, and notes whose it is; its size, or -1. */
static ssize_t peek(struct peer *peer, void *datagram, size_t capacity) {
    peer->size = sizeof peer->address;
    memset(&peer->address, 0, sizeof peer->address);
    return recvfrom(peer->fd, datagram, capacity, MSG_PEEK, (struct sockaddr *)&peer->address,
                    &peer->size);
}

/* Serves a verified client by an echo until it goes. Prints a line for the handshake and each echo.
 */
static void serve(struct peer *peer, gnutls_certificate_credentials_t credentials,
                  gnutls_dtls_prestate_st *prestate) {
    gnutls_session_t session;
    char message[4096];
    ssize_t size;
    int code;
    gnutls_init(&session, GNUTLS_SERVER | GNUTLS_DATAGRAM);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_dtls_prestate_set(session, prestate);
    gnutls_dtls_set_mtu(session, 1200);
    gnutls_handshake_set_timeout(session, 20000);
    gnutls_transport_set_ptr(session, peer);
    gnutls_transport_set_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
    do
        code = gnutls_handshake(session);
    while (code < 0 && gnutls_error_is_fatal(code) == 0);
    puts(code == 0 ? "connected" : gnutls_strerror(code));
    gnutls_record_set_timeout(session, 10000);
    while (code == 0 && (size = gnutls_record_recv(session, message, sizeof message)) > 0) {
        gnutls_record_send(session, message, (size_t)size);
        puts("echo");
    }
    if (code == 0)
        gnutls_bye(session, GNUTLS_SHUT_WR);
    gnutls_deinit(session);
}

#endif
