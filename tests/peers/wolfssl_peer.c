/* A DTLS 1.2 client or server of wolfSSL:
 * wolfssl_peer client HOST PORT x509 TRUST | psk IDENTITY HEX
 * wolfssl_peer server HOST PORT x509 CERTIFICATE KEY | psk IDENTITY HEX
 * (Without arguments it tells its version.)
 * The client sends each line of stdin once the handshake is done, writes what comes back to stdout,
 * and says goodbye when stdin ends. The server challenges, echoes, and serves one client after
 * another. */
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <wolfssl/options.h>

#include <wolfssl/ssl.h>

enum { MAX_MESSAGE = 1024, HANDSHAKE_SECONDS = 30 };

static const char *identity;
static unsigned char key[64];
static unsigned int key_size;

static WOLFSSL_CTX *new_context(int is_server, char **secret);
static int talk(WOLFSSL_CTX *context, const struct addrinfo *there);
static int serve(WOLFSSL_CTX *context, const struct addrinfo *here);
static int serve_one(WOLFSSL_CTX *context, int fd);
static unsigned int psk(WOLFSSL *ssl, const char *hint, char *who, unsigned int most,
                        unsigned char *what, unsigned int longest);
static unsigned int psk_of(WOLFSSL *ssl, const char *who, unsigned char *what,
                           unsigned int longest);
static int read_key(const char *hex);
static int failed(const char *what, WOLFSSL *ssl, int code);

int main(int argc, char **argv) {
    if (argc < 6) {
        printf("wolfSSL %s\n", wolfSSL_lib_version());
        return 2;
    }
    wolfSSL_Init();
    int is_server = strcmp(argv[1], "server") == 0;
    WOLFSSL_CTX *context = new_context(is_server, argv + 4);
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *address = NULL;
    if (context == NULL || getaddrinfo(argv[2], argv[3], &hints, &address) != 0)
        return failed("arguments", NULL, 0);
    int code = is_server ? serve(context, address) : talk(context, address);
    freeaddrinfo(address);
    wolfSSL_CTX_free(context);
    return code;
}

/* What the arguments from x509 or psk on ask for; two of them are there, a third may be. */
static WOLFSSL_CTX *new_context(int is_server, char **secret) {
    WOLFSSL_CTX *context =
        wolfSSL_CTX_new(is_server ? wolfDTLSv1_2_server_method() : wolfDTLSv1_2_client_method());
    if (context == NULL)
        return NULL;
    int good = 0;
    if (strcmp(secret[0], "psk") == 0) {
        identity = secret[1];
        good = secret[2] != NULL && read_key(secret[2]) == 0;
        if (is_server)
            wolfSSL_CTX_set_psk_server_callback(context, psk_of);
        else
            wolfSSL_CTX_set_psk_client_callback(context, psk);
    } else if (is_server) {
        int pem = WOLFSSL_FILETYPE_PEM;
        good = secret[2] != NULL &&
               wolfSSL_CTX_use_certificate_file(context, secret[1], pem) == WOLFSSL_SUCCESS &&
               wolfSSL_CTX_use_PrivateKey_file(context, secret[2], pem) == WOLFSSL_SUCCESS;
    } else {
        good = wolfSSL_CTX_load_verify_locations(context, secret[1], NULL) == WOLFSSL_SUCCESS;
        // A build for compatibility with OpenSSL does not verify unasked.
        wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
    }
    if (good)
        return context;
    wolfSSL_CTX_free(context);
    return NULL;
}

static int talk(WOLFSSL_CTX *context, const struct addrinfo *there) {
    WOLFSSL *ssl = wolfSSL_new(context);
    int fd = socket(there->ai_family, SOCK_DGRAM, 0);
    // wolfSSL_dtls_set_peer() would not do: SOCKADDR_S of wolfio.h may be too short for IPv6.
    if (ssl == NULL || fd < 0 || connect(fd, there->ai_addr, there->ai_addrlen) != 0 ||
        wolfSSL_set_dtls_fd_connected(ssl, fd) != WOLFSSL_SUCCESS)
        return failed("socket", ssl, 0);
    alarm(HANDSHAKE_SECONDS);
    int code = wolfSSL_connect(ssl);
    if (code != WOLFSSL_SUCCESS)
        return failed("handshake", ssl, code);
    alarm(0);

    char message[MAX_MESSAGE];
    setvbuf(stdin, NULL, _IONBF, 0); // poll() sees what fgets() has not taken
    while (fgets(message, sizeof(message), stdin) != NULL) {
        int size = (int)strlen(message);
        if (wolfSSL_write(ssl, message, size) != size)
            return failed("write", ssl, -1);
        struct pollfd either[] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        // The answer, or the next line, if that comes first.
        if (poll(either, 2, -1) < 0 || (either[0].revents & POLLIN) == 0)
            continue;
        size = wolfSSL_read(ssl, message, sizeof(message));
        if (size <= 0)
            return failed("read", ssl, size);
        fwrite(message, 1, (size_t)size, stdout);
        fflush(stdout);
    }
    wolfSSL_shutdown(ssl);
    wolfSSL_free(ssl);
    close(fd);
    return 0;
}

static int serve(WOLFSSL_CTX *context, const struct addrinfo *here) {
    for (int first = 1;; first = 0) {
        int fd = socket(here->ai_family, SOCK_DGRAM, 0);
        if (fd < 0 || bind(fd, here->ai_addr, here->ai_addrlen) != 0)
            return failed("bind", NULL, 0);
        if (first) {
            puts("serving");
            fflush(stdout);
        }
        serve_one(context, fd);
        fflush(stdout);
        close(fd);
    }
}

/* The client that comes first, from its hello to its goodbye. */
static int serve_one(WOLFSSL_CTX *context, int fd) {
    struct sockaddr_storage client;
    socklen_t size = sizeof(client);
    WOLFSSL *ssl = wolfSSL_new(context);
    if (ssl == NULL || recvfrom(fd, NULL, 0, MSG_PEEK, (struct sockaddr *)&client, &size) < 0 ||
        connect(fd, (struct sockaddr *)&client, size) != 0 ||
        wolfSSL_set_dtls_fd_connected(ssl, fd) != WOLFSSL_SUCCESS)
        return failed("socket", ssl, 0);
    char message[MAX_MESSAGE];
    int code = wolfSSL_accept(ssl);
    if (code != WOLFSSL_SUCCESS)
        failed("handshake", ssl, code);
    for (int more = code == WOLFSSL_SUCCESS; more;) {
        int got = wolfSSL_read(ssl, message, sizeof(message));
        more = got > 0 ? wolfSSL_write(ssl, message, got) == got
                       : wolfSSL_get_error(ssl, got) == WOLFSSL_ERROR_WANT_READ;
    }
    wolfSSL_shutdown(ssl);
    wolfSSL_free(ssl);
    return 0;
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

static unsigned int psk_of(WOLFSSL *ssl, const char *who, unsigned char *what,
                           unsigned int longest) {
    (void)ssl;
    if (strcmp(who, identity) != 0 || key_size > longest)
        return 0;
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
