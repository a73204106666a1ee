/* stock_server CERT KEY CHANGES: a DTLS echo server in the shape of the GnuTLS manual's example:
 * peek, verify, else send and drop, one client at a time. It makes a new cookie key after each of
 * its first CHANGES replies. Prints its port, and a line for each reply, verified client,
 * handshake, echo. */
#include "recipe.h"

int main(int argc, char **argv) {
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t key;
    struct peer peer;
    int changes, port;

    if (argc != 4)
        return 2;
    changes = atoi(argv[3]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM) <
        0)
        return 3;
    gnutls_key_generate(&key, GNUTLS_COOKIE_KEY_SIZE);
    port = listen_on_loopback(&peer);
    if (port < 0)
        return 4;
    printf("port %d\n", port);
    for (;;) {
        gnutls_dtls_prestate_st prestate;
        unsigned char datagram[4096];
        ssize_t size;
        int result;

        size = peek(&peer, datagram, sizeof datagram);
        if (size < 0)
            return 5;
        memset(&prestate, 0, sizeof prestate);
        result = gnutls_dtls_cookie_verify(&key, &peer.address, sizeof peer.address, datagram,
                                           (size_t)size, &prestate);
        if (result < 0) {
            result = gnutls_dtls_cookie_send(&key, &peer.address, sizeof peer.address, &prestate,
                                             &peer, push);
            printf("reply %d\n", result);
            (void)!recv(peer.fd, datagram, sizeof datagram, 0);
            if (result > 0 && changes > 0) {
                changes--;
                gnutls_free(key.data);
                gnutls_key_generate(&key, GNUTLS_COOKIE_KEY_SIZE);
            }
            continue;
        }
        puts("verified");
        serve(&peer, credentials, &prestate);
    }
}
