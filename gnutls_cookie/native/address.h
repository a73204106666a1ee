/* Addresses of peers: as the kernel writes them, as keys of tables, and as text. */
#ifndef GNUTLS_COOKIE_ADDRESS_H
#define GNUTLS_COOKIE_ADDRESS_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "source.h"

union gcookie_address {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
};

/* What identifies a peer, compared as bytes: ip, scope_id and port, as the kernel writes them, and
 * the family. No padding and no flowinfo. */
enum { GCOOKIE_ADDRESS_KEY_SIZE = 24 };

/* 0: of another family. */
int gcookie_address_key(unsigned char key[GCOOKIE_ADDRESS_KEY_SIZE],
                        const union gcookie_address *address);

/* A sockaddr_in or sockaddr_in6 of its own size. 0 where it is none. */
int gcookie_address_copy(union gcookie_address *out, const void *address, size_t size);

/* Bytes that the kernel takes. */
socklen_t gcookie_address_size(const union gcookie_address *address);

/* A host and numbers as Python's socket module has them: `is_long` says that there are flowinfo and
 * scope_id, and so that it is IPv6. 0 where the host is not numeric. */
int gcookie_address_parse(union gcookie_address *out, const char *host, unsigned int port,
                          uint32_t flowinfo, uint32_t scope_id, int is_long);

/* An IP address alone, that answers come from; with its zone as a number, fe80::1%2. NULL or "":
 * not known, and size is 0 then; so it is where the text is not numeric. */
void gcookie_source_parse(struct gcookie_source *out, const char *host);

struct gcookie_address_text {
    char host[64];
    unsigned int port;
    uint32_t flowinfo;
    uint32_t scope_id;
    int is_long;
};
void gcookie_address_write(const union gcookie_address *address, struct gcookie_address_text *out);

/* The same as one text, as Python shows the tuple of its socket module: ('127.0.0.1', 9). */
enum { GCOOKIE_ADDRESS_SHOWN = 96 }; /* bytes, with the NUL */
void gcookie_address_show(const union gcookie_address *address, char out[GCOOKIE_ADDRESS_SHOWN]);

/* The host alone; "" where it is not known. */
void gcookie_source_text(const struct gcookie_source *source, struct gcookie_address_text *out);

#endif
