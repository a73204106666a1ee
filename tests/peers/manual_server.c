/* manual_server CERTIFICATE PRIVATE_KEY COOKIE_KEY LAYOUT: a DTLS echo server after the recipe of
 * GnuTLS' manual, one client at a time, its cookie key given in hex. LAYOUT is what it takes for
 * client_data: sockaddr, storage, text or none. Prints its port, then a line for each cookie sent,
 * each cookie verified, each handshake, each echo. */
#include "recipe.h"

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

int main(int argc, char **argv) {
    gnutls_certificate_credentials_t credentials;
    unsigned char key_bytes[64], who[sizeof(struct sockaddr_storage)], hello[2048];
    gnutls_datum_t key = {key_bytes, 0}, hex;
    size_t key_size = sizeof key_bytes;
    struct peer peer;
    int port;

    if (argc != 5 || gnutls_certificate_allocate_credentials(&credentials) < 0 ||
        gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM) <
            0)
        return 2;
    hex.data = (unsigned char *)argv[3];
    hex.size = (unsigned int)strlen(argv[3]);
    if (gnutls_hex_decode(&hex, key_bytes, &key_size) < 0)
        return 2;
    key.size = (unsigned int)key_size;

    port = listen_on_loopback(&peer);
    if (port < 0)
        return 3;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%d\n", port);

    for (;;) {
        gnutls_dtls_prestate_st prestate;
        size_t who_size;
        ssize_t size;
        size = peek(&peer, hello, sizeof hello);
        if (size < 0)
            return 4;
        memset(&prestate, 0, sizeof prestate);
        who_size = client_data(argv[4], &peer, who);
        if (gnutls_dtls_cookie_verify(&key, who_size > 0 ? who : NULL, who_size, hello,
                                      (size_t)size, &prestate) >= 0) {
            puts("verified");
            serve(&peer, credentials, &prestate);
            continue;
        }
        if (gnutls_dtls_cookie_send(&key, who_size > 0 ? who : NULL, who_size, &prestate, &peer,
                                    push) >= 0)
            puts("challenged");
        recv(peer.fd, hello, sizeof hello, 0);
    }
}
