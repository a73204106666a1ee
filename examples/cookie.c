/* libgnutls' two cookie functions from a C program, as a target of the differential bench:
 *
 *     cc -o cookie examples/cookie.c $(pkg-config --cflags --libs gnutls)
 *     gnutls-cookie diff --exec ./cookie
 *
 * With --wrong one fault is planted: the prestate is cleared where verify fails. The reader of JSON
 * knows what the bench writes, and nothing else. */
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_CAPACITY 400000

struct bytes {
    unsigned char *data;
    size_t size;
};

static char line[LINE_CAPACITY];
static struct bytes key, client_data, message;
static unsigned char pushed[LINE_CAPACITY / 2];
static size_t pushed_size;
static long long push_result;
static int push_all;

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    (void)ptr;
    if (size > sizeof pushed)
        return -1;
    memcpy(pushed, data, size);
    pushed_size = size;
    return push_all ? (ssize_t)size : (ssize_t)push_result;
}

/* What stands behind a name, or NULL. */
static const char *member(const char *name) {
    char quoted[32];
    const char *found;
    snprintf(quoted, sizeof quoted, "\"%s\": ", name);
    found = strstr(line, quoted);
    return found == NULL ? NULL : found + strlen(quoted);
}

static int nibble(char digit) {
    return digit <= '9' ? digit - '0' : digit - 'a' + 10;
}

/* Each in a buffer of its own size: with -fsanitize=address a read beyond its end is seen. */
static void read_bytes(const char *name, struct bytes *out) {
    const char *at = member(name);
    free(out->data);
    out->data = NULL;
    out->size = 0;
    if (at == NULL || *at++ != '"')
        return;
    out->size = strspn(at, "0123456789abcdef") / 2;
    out->data = malloc(out->size);
    if (out->data == NULL && out->size > 0)
        exit(3);
    for (size_t n = 0; n < out->size; n++)
        out->data[n] = (unsigned char)(nibble(at[2 * n]) * 16 + nibble(at[2 * n + 1]));
}

static void answer(int wrong) {
    gnutls_dtls_prestate_st prestate = {0, 0, 0};
    gnutls_datum_t datum;
    const char *operation = member("operation"), *numbers, *result_of_push;
    int result;

    if (operation == NULL || strncmp(operation, "\"hello\"", 7) == 0) {
        puts("{\"operations\": [\"verify\", \"send\"]}");
        return;
    }
    read_bytes("key", &key);
    read_bytes("client_data", &client_data);
    read_bytes("message", &message);
    datum.data = key.data;
    datum.size = (unsigned int)key.size;
    numbers = member("prestate");
    if (numbers != NULL && sscanf(numbers, "[%u, %u, %u]", &prestate.record_seq,
                                  &prestate.hsk_read_seq, &prestate.hsk_write_seq) != 3)
        exit(3);
    pushed_size = 0;
    if (strncmp(operation, "\"verify\"", 8) == 0) {
        result = gnutls_dtls_cookie_verify(&datum, client_data.data, client_data.size, message.data,
                                           message.size, &prestate);
        if (result < 0 && wrong)
            memset(&prestate, 0, sizeof prestate);
    } else {
        result_of_push = member("pushed");
        push_all = result_of_push == NULL || *result_of_push == 'n';
        push_result = push_all ? 0 : strtoll(result_of_push, NULL, 10);
        result = gnutls_dtls_cookie_send(&datum, client_data.data, client_data.size, &prestate,
                                         NULL, push);
    }
    printf("{\"result\": %d, \"prestate\": [%u, %u, %u], \"pushed\": \"", result,
           prestate.record_seq, prestate.hsk_read_seq, prestate.hsk_write_seq);
    for (size_t at = 0; at < pushed_size; at++)
        printf("%02x", pushed[at]);
    puts("\"}");
}

int main(int argc, char **argv) {
    int wrong = argc == 2 && strcmp(argv[1], "--wrong") == 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        answer(wrong);
        fflush(stdout);
    }
    return 0;
}
