/* Addresses of peers. */
#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gcookie_address_key(unsigned char key[GCOOKIE_ADDRESS_KEY_SIZE],
                        const union gcookie_address *address) {
    memset(key, 0, GCOOKIE_ADDRESS_KEY_SIZE);
    if (address->any.sa_family == AF_INET) {
        memcpy(key, &address->ipv4.sin_addr, 4);
        memcpy(key + 20, &address->ipv4.sin_port, 2);
        key[22] = 4;
        return 1;
    }
    if (address->any.sa_family == AF_INET6) {
        memcpy(key, &address->ipv6.sin6_addr, 16);
        memcpy(key + 16, &address->ipv6.sin6_scope_id, 4);
        memcpy(key + 20, &address->ipv6.sin6_port, 2);
        key[22] = 6;
        return 1;
    }
    return 0;
}

int gcookie_address_copy(union gcookie_address *out, const void *address, size_t size) {
    memset(out, 0, sizeof *out);
    if (size != sizeof out->ipv4 && size != sizeof out->ipv6) {
        return 0;
    }
    memcpy(out, address, size);
    return size == gcookie_address_size(out);
}

socklen_t gcookie_address_size(const union gcookie_address *address) {
    return address->any.sa_family == AF_INET    ? sizeof address->ipv4
           : address->any.sa_family == AF_INET6 ? sizeof address->ipv6
                                                : 0;
}

int gcookie_address_parse(union gcookie_address *out, const char *host, unsigned int port,
                          uint32_t flowinfo, uint32_t scope_id, int is_long) {
    memset(out, 0, sizeof *out);
    if (!is_long && inet_pton(AF_INET, host, &out->ipv4.sin_addr) == 1) {
        out->ipv4.sin_family = AF_INET;
        out->ipv4.sin_port = htons((uint16_t)port);
        return 1;
    }
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET6, host, &out->ipv6.sin6_addr) != 1) {
        return 0;
    }
    out->ipv6.sin6_family = AF_INET6;
    out->ipv6.sin6_port = htons((uint16_t)port);
    out->ipv6.sin6_flowinfo = htonl(flowinfo);
    out->ipv6.sin6_scope_id = scope_id;
    return 1;
}

void gcookie_address_write(const union gcookie_address *address, struct gcookie_address_text *out) {
    memset(out, 0, sizeof *out);
    if (address->any.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &address->ipv4.sin_addr, out->host, sizeof out->host);
        out->port = ntohs(address->ipv4.sin_port);
    } else {
        (void)inet_ntop(AF_INET6, &address->ipv6.sin6_addr, out->host, sizeof out->host);
        out->port = ntohs(address->ipv6.sin6_port);
        out->flowinfo = ntohl(address->ipv6.sin6_flowinfo);
        out->scope_id = address->ipv6.sin6_scope_id;
        out->is_long = 1;
    }
}

void gcookie_address_show(const union gcookie_address *address, char out[GCOOKIE_ADDRESS_SHOWN]) {
    struct gcookie_address_text text;
    gcookie_address_write(address, &text);
    if (text.is_long) {
        (void)snprintf(out, GCOOKIE_ADDRESS_SHOWN, "('%s', %u, %u, %u)", text.host, text.port,
                       (unsigned int)text.flowinfo, (unsigned int)text.scope_id);
    } else {
        (void)snprintf(out, GCOOKIE_ADDRESS_SHOWN, "('%s', %u)", text.host, text.port);
    }
}

void gcookie_source_parse(struct gcookie_source *out, const char *host) {
    char ip[INET6_ADDRSTRLEN];
    memset(out, 0, sizeof *out);
    const size_t size = host == NULL ? 0 : strcspn(host, "%");
    if (size == 0 || size >= sizeof ip) {
        return;
    }
    memcpy(ip, host, size);
    ip[size] = '\0';
    if (inet_pton(AF_INET, ip, out->ip) == 1) {
        out->size = sizeof(struct in_addr);
    } else if (inet_pton(AF_INET6, ip, out->ip) == 1) {
        out->size = sizeof(struct in6_addr);
        out->zone = host[size] == '\0' ? 0 : (unsigned int)strtoul(host + size + 1, NULL, 10);
    }
}

void gcookie_source_text(const struct gcookie_source *source, struct gcookie_address_text *out) {
    memset(out, 0, sizeof *out);
    if (source->size > 0) {
        (void)inet_ntop(source->size == sizeof(struct in_addr) ? AF_INET : AF_INET6, source->ip,
                        out->host, sizeof out->host);
    }
    if (source->zone > 0) {
        const size_t size = strlen(out->host);
        (void)snprintf(out->host + size, sizeof out->host - size, "%%%u", source->zone);
    }
}
