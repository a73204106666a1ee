/* Makes and judges cookies with libgnutls alone, for the tests of byte-for-byte equality.
 *
 *   cookies send KEY CLIENT_DATA RECORD_SEQ HSK_WRITE_SEQ   prints the HelloVerifyRequest in hex
 *   cookies verify KEY CLIENT_DATA DATAGRAM                 prints: result record_seq read write
 *   cookies sockaddr LAYOUT                                 waits for one datagram on loopback,
 *       prints its own port first, then client_data as a server in C would pass it
 *       (LAYOUT: in, in6, storage, storage6, text, text6)
 * Hex arguments; "-" is NULL, 0. */
#include <arpa/inet.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char *unhex(const char *text, size_t *size) {
    unsigned char *bytes;
    size_t count = strlen(text) / 2;
    *size = 0;
    if (strcmp(text, "-") == 0)
        return NULL;
    bytes = malloc(count + 1);
    if (bytes == NULL)
        exit(3);
    for (size_t i = 0; i < count; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], 0};
        bytes[i] = (unsigned char)strtoul(pair, NULL, 16);
    }
    *size = count;
    return bytes;
}

static void hex(const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    printf("\n");
    fflush(stdout);
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    (void)ptr;
    hex(data, size);
    return (ssize_t)size;
}

static int address(const char *layout) {
    int six = strchr(layout, '6') != NULL;
    struct sockaddr_storage own, peer;
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    char byte, ip[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 10];
    int fd = socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
    struct timeval limit = {20, 0};

    memset(&own, 0, sizeof own);
    memset(&peer, 0, sizeof peer);
    own.ss_family = six ? AF_INET6 : AF_INET;
    if (six)
        ((struct sockaddr_in6 *)&own)->sin6_addr = in6addr_loopback;
    else
        ((struct sockaddr_in *)&own)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
        bind(fd, (struct sockaddr *)&own,
             six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &own_size) != 0)
        return 4;
    printf("%d\n", ntohs(six ? ((struct sockaddr_in6 *)&own)->sin6_port
                             : ((struct sockaddr_in *)&own)->sin_port));
    fflush(stdout);
    if (recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&peer, &peer_size) < 0)
        return 5;
    if (strncmp(layout, "storage", 7) == 0) {
        hex(&peer, sizeof peer);
    } else if (strcmp(layout, "text") == 0) {
        struct sockaddr_in *in = (struct sockaddr_in *)&peer;
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "%s:%d", ip, ntohs(in->sin_port));
        hex(text, strlen(text));
    } else if (strcmp(layout, "text6") == 0) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&peer;
        inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "[%s]:%d", ip, ntohs(in6->sin6_port));
        hex(text, strlen(text));
    } else {
        hex(&peer, peer_size);
    }
    close(fd);
    return 0;
}

int main(int argc, char **argv) {
    gnutls_dtls_prestate_st prestate;
    gnutls_datum_t key;
    unsigned char *client_data;
    size_t size, client_data_size;
    int result;

    memset(&prestate, 0, sizeof prestate);
    if (argc == 3 && strcmp(argv[1], "sockaddr") == 0)
        return address(argv[2]);
    if (argc < 5)
        return 2;
    key.data = unhex(argv[2], &size);
    key.size = (unsigned int)size;
    client_data = unhex(argv[3], &client_data_size);
    if (strcmp(argv[1], "send") == 0 && argc == 6) {
        prestate.record_seq = (unsigned int)strtoul(argv[4], NULL, 10);
        prestate.hsk_write_seq = (unsigned int)strtoul(argv[5], NULL, 10);
        result =
            gnutls_dtls_cookie_send(&key, client_data, client_data_size, &prestate, NULL, push);
        return result == 44 ? 0 : 1;
    }
    if (strcmp(argv[1], "verify") == 0) {
        unsigned char *message = unhex(argv[4], &size);
        result = gnutls_dtls_cookie_verify(&key, client_data, client_data_size, message, size,
                                           &prestate);
        printf("%d %u %u %u\n", result, prestate.record_seq, prestate.hsk_read_seq,
               prestate.hsk_write_seq);
        return 0;
    }
    return 2;
}
