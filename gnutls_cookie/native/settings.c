/* Settings of sessions, and what of libgnutls several of them share. */
#include "settings.h"

#include <gnutls/crypto.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A libgnutls that is built without anonymous key exchange has none of these. */
#pragma weak gnutls_anon_allocate_client_credentials
#pragma weak gnutls_anon_allocate_server_credentials
#pragma weak gnutls_anon_free_client_credentials
#pragma weak gnutls_anon_free_server_credentials
#pragma weak gnutls_anon_set_server_known_dh_params

static void hold(size_t *holders) {
    __atomic_add_fetch(holders, 1, __ATOMIC_RELAXED);
}

/* 1: that was the last. */
static int let_go(size_t *holders) {
    return __atomic_sub_fetch(holders, 1, __ATOMIC_ACQ_REL) == 0;
}

/* --- credentials and priorities --------------------------------------------------------------- */

static int allocate_anonymous(struct gcookie_shared *shared) {
    gnutls_anon_server_credentials_t server;
    gnutls_anon_client_credentials_t client;
    int code;
    if (gnutls_anon_allocate_server_credentials == NULL ||
        gnutls_anon_allocate_client_credentials == NULL)
        return GNUTLS_E_UNIMPLEMENTED_FEATURE;
    if (shared->kind == GCOOKIE_ANON_CLIENT) {
        code = gnutls_anon_allocate_client_credentials(&client);
        if (code >= 0)
            shared->pointer = client;
        return code;
    }
    code = gnutls_anon_allocate_server_credentials(&server);
    if (code >= 0) {
        gnutls_anon_set_server_known_dh_params(server, GNUTLS_SEC_PARAM_MEDIUM);
        shared->pointer = server;
    }
    return code;
}

static int allocate(struct gcookie_shared *shared) {
    gnutls_certificate_credentials_t certificates;
    gnutls_psk_server_credentials_t keys;
    gnutls_psk_client_credentials_t key;
    int code = GNUTLS_E_INVALID_REQUEST;

    switch (shared->kind) {
    case GCOOKIE_CERTIFICATES:
        code = gnutls_certificate_allocate_credentials(&certificates);
        if (code >= 0) {
            /* Clients that name no group of RFC 7919 would get no DHE without them. With shared
             * keys they have ECDHE and plain PSK, which OpenSSL's would take after DHE. */
            gnutls_certificate_set_known_dh_params(certificates, GNUTLS_SEC_PARAM_MEDIUM);
            shared->pointer = certificates;
        }
        break;
    case GCOOKIE_PSK_SERVER:
        code = gnutls_psk_allocate_server_credentials(&keys);
        if (code >= 0) {
            gnutls_psk_set_server_credentials_function2(keys, gcookie_psk_lookup);
            shared->pointer = keys;
        }
        break;
    case GCOOKIE_PSK_CLIENT:
        code = gnutls_psk_allocate_client_credentials(&key);
        if (code >= 0)
            shared->pointer = key;
        break;
    case GCOOKIE_ANON_SERVER:
    case GCOOKIE_ANON_CLIENT:
        code = allocate_anonymous(shared);
        break;
    default:
        break;
    }
    return code;
}

static struct gcookie_shared *new_shared(int kind) {
    struct gcookie_shared *shared = calloc(1, sizeof *shared);
    if (shared != NULL) {
        shared->kind = kind;
        shared->holders = 1;
    }
    return shared;
}

int gcookie_shared_credentials(struct gcookie_shared **box, int kind) {
    struct gcookie_shared *shared = new_shared(kind);
    int code;
    if (shared == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    code = allocate(shared);
    if (code < 0) {
        free(shared);
        return code;
    }
    *box = shared;
    return 0;
}

int gcookie_shared_priority(struct gcookie_shared **box, const char *text, const char **position) {
    struct gcookie_shared *shared = new_shared(GCOOKIE_PRIORITY);
    gnutls_priority_t priority;
    int code;
    if (shared == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    code = gnutls_priority_init(&priority, text, position);
    if (code < 0) {
        free(shared);
        return code;
    }
    shared->pointer = priority;
    *box = shared;
    return 0;
}

void gcookie_shared_release(struct gcookie_shared **box) {
    struct gcookie_shared *shared = *box;
    *box = NULL;
    if (shared == NULL || !let_go(&shared->holders))
        return;
    switch (shared->kind) {
    case GCOOKIE_CERTIFICATES:
        gnutls_certificate_free_credentials(shared->pointer);
        break;
    case GCOOKIE_PSK_SERVER:
        gnutls_psk_free_server_credentials(shared->pointer);
        break;
    case GCOOKIE_PSK_CLIENT:
        gnutls_psk_free_client_credentials(shared->pointer);
        break;
    case GCOOKIE_ANON_SERVER:
        gnutls_anon_free_server_credentials(shared->pointer);
        break;
    case GCOOKIE_ANON_CLIENT:
        gnutls_anon_free_client_credentials(shared->pointer);
        break;
    default:
        gnutls_priority_deinit(shared->pointer);
        break;
    }
    free(shared);
}

/* --- settings --------------------------------------------------------------------------------- */

int gcookie_settings_new(struct gcookie_settings **box) {
    struct gcookie_settings *settings = calloc(1, sizeof *settings);
    if (settings == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    settings->holders = 1;
    settings->number = gcookie_next_handle();
    *box = settings;
    return 0;
}

int gcookie_settings_set_text(struct gcookie_settings *settings, unsigned int kind,
                              const char *text, size_t size) {
    char *copy;
    if (kind >= GCOOKIE_TEXTS || size == SIZE_MAX)
        return GNUTLS_E_INVALID_REQUEST;
    copy = malloc(size + 1);
    if (copy == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    memcpy(copy, text, size);
    copy[size] = 0;
    free(settings->texts[kind].data);
    settings->texts[kind].data = copy;
    settings->texts[kind].size = size;
    return 0;
}

int gcookie_settings_add_alpn(struct gcookie_settings *settings, const unsigned char *name,
                              size_t size) {
    int code;
    if (size == 0 || size > GCOOKIE_ALPN_NAME_MOST || settings->alpn_count == GCOOKIE_ALPN_MOST)
        return GNUTLS_E_INVALID_REQUEST;
    code = gcookie_datum_copy(&settings->alpn[settings->alpn_count], name, (unsigned int)size);
    if (code >= 0)
        settings->alpn_count++;
    return code;
}

int gcookie_settings_add_peer_key(struct gcookie_settings *settings, const unsigned char *key,
                                  size_t size) {
    const size_t count = settings->peer_keys_count;
    gnutls_datum_t *keys;
    int code;
    if (size == 0 || size > UINT16_MAX || count >= UINT16_MAX)
        return GNUTLS_E_INVALID_REQUEST;
    keys = realloc(settings->peer_keys, (count + 1) * sizeof *keys);
    if (keys == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    settings->peer_keys = keys;
    code = gcookie_datum_copy(&keys[count], key, (unsigned int)size);
    if (code >= 0)
        settings->peer_keys_count++;
    return code;
}

int gcookie_settings_set_resume(struct gcookie_settings *settings, const unsigned char *data,
                                size_t size) {
    if (size == 0 || size > INT_MAX || settings->resume.data != NULL)
        return GNUTLS_E_INVALID_REQUEST;
    return gcookie_datum_copy(&settings->resume, data, (unsigned int)size);
}

int gcookie_settings_set_psk(struct gcookie_settings *settings, const unsigned char *identity,
                             size_t identity_size, const unsigned char *key, size_t key_size) {
    int code;
    if (identity_size == 0 || identity_size > UINT16_MAX || key_size == 0 ||
        key_size > UINT16_MAX || settings->psk_identity.data != NULL)
        return GNUTLS_E_INVALID_REQUEST;
    code = gcookie_datum_copy(&settings->psk_identity, identity, (unsigned int)identity_size);
    if (code >= 0)
        code = gcookie_datum_copy(&settings->psk_key, key, (unsigned int)key_size);
    return code;
}

void gcookie_settings_renew_ticket_key(struct gcookie_settings *settings, double now) {
    if (!settings->has_ticket_key || settings->ticket_seconds <= 0 || now < settings->ticket_until)
        return;
    if (settings->ticket_until != 0 &&
        gnutls_rnd(GNUTLS_RND_KEY, settings->ticket_key, sizeof settings->ticket_key) < 0)
        settings->has_ticket_key = 0;
    settings->ticket_until = now + settings->ticket_seconds;
}

void gcookie_settings_add(struct gcookie_settings *settings, struct gcookie_shared *shared) {
    struct gcookie_shared **place = &settings->priority;
    unsigned int at = 0;
    if (shared->kind != GCOOKIE_PRIORITY) {
        while (at < GCOOKIE_CREDENTIALS - 1 && settings->credentials[at] != NULL)
            at++;
        place = &settings->credentials[at];
    }
    gcookie_shared_release(place);
    hold(&shared->holders);
    *place = shared;
}

void gcookie_settings_hold(struct gcookie_settings *settings) {
    hold(&settings->holders);
}

static void wipe(gnutls_datum_t *secret) {
    if (secret->data != NULL)
        gnutls_memset(secret->data, 0, secret->size);
    gcookie_free(secret->data);
}

void gcookie_settings_release(struct gcookie_settings **box) {
    struct gcookie_settings *settings = *box;
    *box = NULL;
    if (settings == NULL || !let_go(&settings->holders))
        return;
    for (unsigned int at = 0; at < GCOOKIE_CREDENTIALS; at++)
        gcookie_shared_release(&settings->credentials[at]);
    gcookie_shared_release(&settings->priority);
    for (unsigned int at = 0; at < settings->alpn_count; at++)
        gcookie_free(settings->alpn[at].data);
    for (size_t at = 0; at < settings->peer_keys_count; at++)
        gcookie_free(settings->peer_keys[at].data);
    free(settings->peer_keys);
    wipe(&settings->resume);
    wipe(&settings->psk_key);
    gcookie_free(settings->psk_identity.data);
    gnutls_memset(settings->ticket_key, 0, sizeof settings->ticket_key);
    for (unsigned int at = 0; at < GCOOKIE_TEXTS; at++)
        free(settings->texts[at].data);
    free(settings);
}
