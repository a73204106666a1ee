/* How a session begins, by its settings, and how it ends with its last holder. */
#include "costs.h"
#include "wire.h"

#include <gnutls/x509.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A libgnutls that is built without DTLS-SRTP has none of these. */
#pragma weak gnutls_srtp_set_profile_direct
#pragma weak gnutls_srtp_get_selected_profile
#pragma weak gnutls_srtp_get_profile_name

enum { TRIES = 100 }; /* to make a session; each fails where it is interrupted at one moment */
enum { NAMES = 16, NAME_SIZE = 257 }; /* lib/ext/server_name.h has fewer; bytes, with the NUL */

/* A raw public key (RFC 7250) is trusted where it is one of those that were given. */
static int is_known(const struct gcookie_settings *settings, const gnutls_datum_t *key) {
    for (size_t at = 0; at < settings->peer_keys_count; at++)
        if (settings->peer_keys[at].size == key->size &&
            memcmp(settings->peer_keys[at].data, key->data, key->size) == 0)
            return 1;
    return 0;
}

/* gnutls_certificate_verify_function: called before a signature of the peer is checked. A client
 * that is only asked for a certificate may send none; where it must, libgnutls has looked already.
 */
static int verify(gnutls_session_t session) {
    struct gcookie_wire *wire = gnutls_transport_get_ptr(session);
    const struct gcookie_settings *settings = wire->settings;
    const struct gcookie_text *name = &settings->texts[GCOOKIE_NAME];
    gnutls_typed_vdata_st data[2] = {
        {GNUTLS_DT_KEY_PURPOSE_OID, NULL, 0},
        {GNUTLS_DT_DNS_HOSTNAME, (unsigned char *)name->data, 0},
    };
    unsigned int size = 0, status = 0;
    const gnutls_datum_t *const peers = gnutls_certificate_get_peers(session, &size);
    int code;

    if (gcookie_costs_key(session)) {
        wire->error_detail = GCOOKIE_KEY_COSTLY;
        return GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
    }
    if (!settings->verify_peer || (settings->is_server && peers == NULL))
        return 0;
    if (gnutls_certificate_type_get2(session, GNUTLS_CTYPE_PEERS) == GNUTLS_CRT_RAWPK) {
        if (peers != NULL && size == 1 && is_known(settings, peers))
            return 0;
        wire->error_detail = GCOOKIE_RAW_KEY_UNKNOWN;
        return GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
    }
    /* RFC 5280 4.2.1.12: what the certificate may be used for, if it says so. */
    data[0].data = (unsigned char *)(settings->is_server ? GNUTLS_KP_TLS_WWW_CLIENT
                                                         : GNUTLS_KP_TLS_WWW_SERVER);
    code = gnutls_certificate_verify_peers(session, data, name->data == NULL ? 1 : 2, &status);
    if (code < 0)
        return GNUTLS_E_CERTIFICATE_ERROR;
    wire->error_detail = (int)status;
    return status == 0 ? 0 : GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
}

/* Whether a name is one of those that a server goes by (RFC 6066 3: as DNS compares them). */
static int is_served(const struct gcookie_text *served, const char *name, size_t size) {
    for (size_t at = 0; at < served->size; at += strlen(served->data + at) + 1)
        if (strlen(served->data + at) == size && strncasecmp(served->data + at, name, size) == 0)
            return 1;
    return 0;
}

/* GNUTLS_E_UNRECOGNIZED_NAME where the client asks for names, and none is served; or 0. */
static int judge_names(gnutls_session_t session, const struct gcookie_text *served) {
    char name[NAME_SIZE];
    unsigned int type, asked = 0;

    for (unsigned int at = 0; at < NAMES; at++) {
        size_t size = sizeof name;
        const int code = gnutls_server_name_get(session, name, &size, &type, at);
        if (code == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
            break;
        if (code >= 0 && type != GNUTLS_NAME_DNS)
            continue;
        if (code >= 0 && is_served(served, name, size))
            return 0;
        asked = 1;
    }
    return asked ? GNUTLS_E_UNRECOGNIZED_NAME : 0;
}

/* gnutls_handshake_post_client_hello_func. */
static int after_hello(gnutls_session_t session) {
    const struct gcookie_wire *wire = gnutls_transport_get_ptr(session);
    const struct gcookie_settings *settings = wire->settings;
    int code = 0;
    if (settings->texts[GCOOKIE_SERVED].size > 0)
        code = judge_names(session, &settings->texts[GCOOKIE_SERVED]);
    if (code >= 0 && settings->alpn_required == GCOOKIE_ALPN_ALWAYS)
        code = gcookie_wire_lacks_alpn(session);
    return code;
}

static int configure(const struct gcookie_wire *wire, const char **what) {
    static const gnutls_credentials_type_t kinds[] = {
        [GCOOKIE_CERTIFICATES] = GNUTLS_CRD_CERTIFICATE, [GCOOKIE_PSK_SERVER] = GNUTLS_CRD_PSK,
        [GCOOKIE_PSK_CLIENT] = GNUTLS_CRD_PSK,           [GCOOKIE_ANON_SERVER] = GNUTLS_CRD_ANON,
        [GCOOKIE_ANON_CLIENT] = GNUTLS_CRD_ANON,
    };
    const struct gcookie_settings *settings = wire->settings;
    int code = 0;

    for (unsigned int at = 0; at < GCOOKIE_CREDENTIALS && code >= 0; at++) {
        const struct gcookie_shared *shared = settings->credentials[at];
        if (shared != NULL)
            code = gnutls_credentials_set(wire->session, kinds[shared->kind], shared->pointer);
    }
    if (code >= 0 && settings->priority != NULL) {
        *what = "priority";
        code = gnutls_priority_set(wire->session, settings->priority->pointer);
    }
    if (code >= 0 && settings->texts[GCOOKIE_SNI].size > 0) {
        *what = "server_name";
        code = gnutls_server_name_set(wire->session, GNUTLS_NAME_DNS,
                                      settings->texts[GCOOKIE_SNI].data,
                                      settings->texts[GCOOKIE_SNI].size);
    }
    if (code >= 0 && settings->texts[GCOOKIE_SRTP].size > 0) {
        const char *position;
        *what = "srtp_profiles";
        code = GNUTLS_E_UNIMPLEMENTED_FEATURE;
        if (gnutls_srtp_set_profile_direct != NULL)
            code = gnutls_srtp_set_profile_direct(wire->session, settings->texts[GCOOKIE_SRTP].data,
                                                  &position);
    }
    if (code >= 0 && settings->record_size > 0) {
        *what = "record_size";
        code = (int)gnutls_record_set_max_recv_size(wire->session, settings->record_size);
    }
    if (code >= 0 && settings->alpn_count > 0) {
        *what = "alpn";
        code = gnutls_alpn_set_protocols(wire->session, settings->alpn, settings->alpn_count,
                                         settings->alpn_required ? GNUTLS_ALPN_MANDATORY : 0);
    }
    if (code >= 0 && settings->has_ticket_key) {
        const gnutls_datum_t key = {(unsigned char *)settings->ticket_key,
                                    sizeof settings->ticket_key};
        *what = "tickets";
        code = gnutls_session_ticket_enable_server(wire->session, &key);
    }
    if (code >= 0 && settings->resume.data != NULL) {
        *what = "resume";
        code = gnutls_session_set_data(wire->session, settings->resume.data, settings->resume.size);
    }
    if (code < 0)
        return code;
    *what = "";
    if (settings->is_server)
        gnutls_certificate_server_set_request(wire->session,
                                              (gnutls_certificate_request_t)settings->request);
    if (settings->is_server)
        gnutls_handshake_set_post_client_hello_function(wire->session, after_hello);
    gnutls_session_set_verify_function(wire->session, verify);
    return 0;
}

const char *gcookie_srtp_profile(gnutls_session_t session) {
    gnutls_srtp_profile_t profile;
    if (gnutls_srtp_get_selected_profile == NULL || gnutls_srtp_get_profile_name == NULL ||
        gnutls_srtp_get_selected_profile(session, &profile) < 0)
        return NULL;
    return gnutls_srtp_get_profile_name(profile);
}

static int open_session(struct gcookie_wire *wire, const char **what) {
    /* A client's only certificate goes to a server that names other authorities, too, as
     * gnutls-cli and openssl do it: then both sides say what is wrong with it. */
    const unsigned int flags =
        (wire->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT) |
        GNUTLS_DATAGRAM | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL |
        (wire->settings->raw_keys ? GNUTLS_ENABLE_RAWPK : 0);
    int code = GNUTLS_E_TIMEDOUT;

    for (unsigned int tries = 0; tries < TRIES && code == GNUTLS_E_TIMEDOUT; tries++) {
        wire->timers_off = 0;
        code = gnutls_init(&wire->session, flags);
        if (code < 0) {
            wire->session = NULL;
            break;
        }
        gcookie_wire_attach(wire);
        code = configure(wire, what);
        if (code >= 0)
            code = gcookie_wire_begin(wire);
        if (code < 0) {
            gnutls_deinit(wire->session);
            wire->session = NULL;
        }
    }
    if (code >= 0 && wire->settings->mtu > 0)
        gnutls_dtls_set_mtu(wire->session, wire->settings->mtu);
    return code < 0 ? code : 0;
}

int gcookie_wire_new(struct gcookie_wire **box, size_t size, struct gcookie_settings *settings,
                     const char **what) {
    struct gcookie_wire *wire = size < sizeof *wire ? NULL : calloc(1, size);
    struct gcookie_handshake *handshake;
    int code;

    *what = "";
    if (wire == NULL)
        return GNUTLS_E_MEMORY_ERROR;
    wire->holders = 1;
    wire->settings = settings;
    gcookie_settings_hold(settings);
    wire->is_server = settings->is_server != 0;
    handshake = wire->handshake = calloc(1, sizeof *handshake);
    if (handshake == NULL) {
        gcookie_wire_release(&wire);
        return GNUTLS_E_MEMORY_ERROR;
    }
    handshake->guard.is_server = wire->is_server;
    handshake->interval = settings->retransmit_seconds;
    handshake->deadline = handshake->due_at = INFINITY;
    handshake->sent_at = -INFINITY;
    code = open_session(wire, what);
    if (code < 0)
        gcookie_wire_release(&wire);
    else
        *box = wire;
    return code;
}

void gcookie_wire_hold(struct gcookie_wire *wire) {
    __atomic_add_fetch(&wire->holders, 1, __ATOMIC_RELAXED);
}

void gcookie_wire_hold_at(uintptr_t address, struct gcookie_wire **box) {
    *box = (struct gcookie_wire *)address;
    gcookie_wire_hold(*box);
}

void gcookie_wire_release(struct gcookie_wire **box) {
    struct gcookie_wire *wire = *box;
    *box = NULL;
    if (wire == NULL || __atomic_sub_fetch(&wire->holders, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (wire->session != NULL)
        gnutls_deinit(wire->session);
    gcookie_wire_clear(wire);
    gcookie_settings_release(&wire->settings);
    free(wire);
}
