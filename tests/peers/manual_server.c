/* manual_server CERTIFICATE PRIVATE_KEY COOKIE_KEY LAYOUT: a DTLS echo server after the recipe of
 * GnuTLS' manual, one client at a time, its cookie key given in hex. LAYOUT is what it takes for
 * client_data: sockaddr, storage, text or none. Prints its port, then a line for each cookie sent,
 * each cookie verified, each handshake. */
#include <arpa/inet.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Where a session sends, and from whom it takes. */
struct peer {
    int fd;
    struct sockaddr_in address;
    socklen_t size;
};

static void say(const char *what) {
    puts(what);
    fflush(stdout);
}

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

/* client_data of a peer into a buffer of a sockaddr_storage's size; its length. */
static size_t client_data(const char *layout, const struct peer *peer, void *out) {
    char ip[INET_ADDRSTRLEN];
    memset(out, 0, sizeof(struct sockaddr_storage));
    if (strcmp(layout, "none") == 0)
        return 0;
    if (strcmp(layout, "text") == 0) {
        inet_ntop(AF_INET, &peer->address.sin_addr, ip, sizeof ip);
        return (size_t)snprintf(out, sizeof(struct sockaddr_storage), "%s:%u", ip,
                                ntohs(peer->address.sin_port));
    }
    memcpy(out, &peer->address, sizeof peer->address);
    return strcmp(layout, "storage") == 0 ? sizeof(struct sockaddr_storage)
                                          : sizeof(struct sockaddr_in);
}

static void serve(struct peer *peer, gnutls_certificate_credentials_t credentials,
                  gnutls_dtls_prestate_st *prestate) {
    gnutls_session_t session;
    char message[2048];
    ssize_t size;
    int code;
    gnutls_init(&session, GNUTLS_SERVER | GNUTLS_DATAGRAM);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_dtls_prestate_set(session, prestate);
    gnutls_dtls_set_mtu(session, 1200);
    gnutls_handshake_set_timeout(session, 10000);
    gnutls_transport_set_ptr(session, peer);
    gnutls_transport_set_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
    do
        code = gnutls_handshake(session);
    while (code < 0 && gnutls_error_is_fatal(code) == 0);
    if (code == 0) {
        say("connected");
        gnutls_record_set_timeout(session, 10000);
        while ((size = gnutls_record_recv(session, message, sizeof message)) > 0)
            gnutls_record_send(session, message, (size_t)size);
        gnutls_bye(session, GNUTLS_SHUT_WR);
    } else {
        say(gnutls_strerror(code));
    }
    gnutls_deinit(session);
}

int main(int argc, char **argv) {
    gnutls_certificate_credentials_t credentials;
    unsigned char key_bytes[64], who[sizeof(struct sockaddr_storage)], hello[2048];
    gnutls_datum_t key = {key_bytes, 0}, hex;
    size_t key_size = sizeof key_bytes;
    struct peer peer;

    memset(&peer, 0, sizeof peer);
    if (argc != 5 || gnutls_certificate_allocate_credentials(&credentials) < 0 ||
        gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM) <
            0)
        return 2;
    hex.data = (unsigned char *)argv[3];
    hex.size = (unsigned int)strlen(argv[3]);
    if (gnutls_hex_decode(&hex, key_bytes, &key_size) < 0)
        return 2;
    key.size = (unsigned int)key_size;

    peer.fd = socket(AF_INET, SOCK_DGRAM, 0);
    peer.size = sizeof peer.address;
    peer.address.sin_family = AF_INET;
    peer.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (peer.fd < 0 || bind(peer.fd, (struct sockaddr *)&peer.address, peer.size) != 0 ||
        getsockname(peer.fd, (struct sockaddr *)&peer.address, &peer.size) != 0)
        return 3;
    printf("%d\n", ntohs(peer.address.sin_port));
    fflush(stdout);

    for (;;) {
        gnutls_dtls_prestate_st prestate;
        size_t who_size;
        ssize_t size;
        peer.size = sizeof peer.address;
        memset(&peer.address, 0, sizeof peer.address);
        size = recvfrom(peer.fd, hello, sizeof hello, MSG_PEEK, (struct sockaddr *)&peer.address,
                        &peer.size);
        if (size < 0)
            return 4;
        memset(&prestate, 0, sizeof prestate);
        who_size = client_data(argv[4], &peer, who);
        if (gnutls_dtls_cookie_verify(&key, who_size > 0 ? who : NULL, who_size, hello,
                                      (size_t)size, &prestate) >= 0) {
            say("verified");
            serve(&peer, credentials, &prestate);
            continue;
        }
        if (gnutls_dtls_cookie_send(&key, who_size > 0 ? who : NULL, who_size, &prestate, &peer,
                                    push) >= 0)
            say("challenged");
        recv(peer.fd, hello, sizeof hello, 0);
    }
}
