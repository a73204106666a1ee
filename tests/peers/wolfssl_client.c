/* A DTLS 1.2 client of wolfSSL: wolfssl_client HOST PORT x509 TRUST | psk IDENTITY HEX.
 * (Without arguments it tells its version.)
 * Sends each line of stdin once the handshake is done, writes what comes back to stdout, and says
 * goodbye when stdin ends. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <wolfssl/options.h>

#include <wolfssl/ssl.h>

enum { MAX_MESSAGE = 1024, HANDSHAKE_SECONDS = 10 };

static const char *identity;
static unsigned char key[64];
static unsigned int key_size;

static int open_socket(const char *host, const char *port, WOLFSSL *ssl);
static unsigned int psk(WOLFSSL *ssl, const char *hint, char *who, unsigned int most,
                        unsigned char *what, unsigned int longest);
static int read_key(const char *hex);
static int failed(const char *what, WOLFSSL *ssl, int code);

int main(int argc, char **argv) {
    if (argc < 5) {
        printf("wolfSSL %s\n", wolfSSL_lib_version());
        return 2;
    }
    wolfSSL_Init();
    WOLFSSL_CTX *context = wolfSSL_CTX_new(wolfDTLSv1_2_client_method());
    if (context == NULL)
        return failed("context", NULL, 0);
    if (strcmp(argv[3], "x509") == 0) {
        if (wolfSSL_CTX_load_verify_locations(context, argv[4], NULL) != WOLFSSL_SUCCESS)
            return failed("trust", NULL, 0);
        // A build for compatibility with OpenSSL does not verify unasked.
        wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
    } else {
        identity = argv[4];
        if (argc < 6 || read_key(argv[5]) < 0)
            return failed("key", NULL, 0);
        wolfSSL_CTX_set_psk_client_callback(context, psk);
    }
    WOLFSSL *ssl = wolfSSL_new(context);
    int fd = ssl == NULL ? -1 : open_socket(argv[1], argv[2], ssl);
    if (fd < 0)
        return failed("socket", ssl, 0);
    alarm(HANDSHAKE_SECONDS);
    int code = wolfSSL_connect(ssl);
    if (code != WOLFSSL_SUCCESS)
        return failed("handshake", ssl, code);
    alarm(0);

    char message[MAX_MESSAGE];
    while (fgets(message, sizeof(message), stdin) != NULL) {
        int size = (int)strlen(message);
        if (wolfSSL_write(ssl, message, size) != size)
            return failed("write", ssl, -1);
        size = wolfSSL_read(ssl, message, sizeof(message));
        if (size <= 0)
            return failed("read", ssl, size);
        fwrite(message, 1, (size_t)size, stdout);
        fflush(stdout);
    }
    wolfSSL_shutdown(ssl);
    wolfSSL_free(ssl);
    wolfSSL_CTX_free(context);
    close(fd);
    return 0;
}

static int open_socket(const char *host, const char *port, WOLFSSL *ssl) {
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -1;
    int fd = socket(found->ai_family, SOCK_DGRAM, 0);
    // wolfSSL_dtls_set_peer() would not do: SOCKADDR_S of wolfio.h may be too short for IPv6.
    if (fd >= 0 && (connect(fd, found->ai_addr, found->ai_addrlen) != 0 ||
                    wolfSSL_set_dtls_fd_connected(ssl, fd) != WOLFSSL_SUCCESS)) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static unsigned int psk(WOLFSSL *ssl, const char *hint, char *who, unsigned int most,
                        unsigned char *what, unsigned int longest) {
    (void)ssl;
    (void)hint;
    if (strlen(identity) >= most || key_size > longest)
        return 0;
    strcpy(who, identity);
    memcpy(what, key, key_size);
    return key_size;
}

static int read_key(const char *hex) {
    for (key_size = 0; hex[0] != '\0' && hex[1] != '\0' && key_size < sizeof(key); hex += 2) {
        const char digits[3] = {hex[0], hex[1], '\0'};
        char *end;
        key[key_size++] = (unsigned char)strtoul(digits, &end, 16);
        if (*end != '\0')
            return -1;
    }
    return hex[0] == '\0' && key_size > 0 ? 0 : -1;
}

static int failed(const char *what, WOLFSSL *ssl, int code) {
    int error = ssl == NULL ? 0 : wolfSSL_get_error(ssl, code);
    char text[WOLFSSL_MAX_ERROR_SZ] = "";
    wolfSSL_ERR_error_string((unsigned long)error, text);
    printf("error: %s: %d %s\n", what, error, text);
    return 1;
}
