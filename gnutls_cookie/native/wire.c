/* The wire of a session in C: push into a buffer, pull from the one datagram of the call. */
#include "wire.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Defined by the generated module: extern "Python+C" in ffi.cdef. */
extern int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                          gnutls_datum_t *key);

enum { STEPS = 1024 };     /* of libgnutls in one call: many alerts in one datagram end somewhere */
enum { NO_SUCH_USER = 1 }; /* lib/auth/psk_passwd.c: libgnutls then goes on with a random key */

/* --- what libgnutls calls --------------------------------------------------------------------- */

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct gcookie_wire *wire = ptr;
    size_t most = 0; /* a message of the application is a datagram; records of a flight may share
                        one (RFC 6347 4.1.1) */

    /* Without a seat somebody called libgnutls on the session past this file. */
    if (wire->seat == NULL || size > UINT16_MAX) {
        errno = EIO;
        return -1;
    }
    if (wire->in_flight) {
        most = gnutls_dtls_get_mtu(wire->session);
        gcookie_flight_measure(wire, data, size);
    }
    if (!gcookie_seat_put(wire->seat, data, size, most)) {
        errno = EIO;
        return -1;
    }
    wire->ever_sent = 1;
    wire->due = 0;
    wire->resent |= wire->resending;
    return (ssize_t)size;
}

enum { NS_A_MS = 1000000 };

static int64_t realtime(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 * NS_A_MS + now.tv_nsec;
}

/* libgnutls would end a handshake and send flights again by CLOCK_REALTIME. Neither happens: its
 * total time is for ever, the time to the next retransmission is none, and pull_timeout says when
 * that is wanted. The first gnutls_handshake takes 0 for no deadline, and what comes after it takes
 * 0 for the shortest time and UINT_MAX for the longest. So that is set within this call: as a
 * client's first message is made, or as a server reads. Before a server reads, a millisecond that
 * passes is the end of its time (lib/handshake.c, lib/dtls.h): gcookie_wire_begin tells. */
static void turn_timers_off(struct gcookie_wire *wire) {
    if (wire->timers_off)
        return;
    gnutls_dtls_set_timeouts(wire->session, 0, UINT_MAX);
    if (wire->handshake != NULL)
        wire->handshake->began[1] = realtime();
    wire->timers_off = 1;
}

/* The longest time is over for libgnutls in one case: when it is to send a flight in the very
 * millisecond before the handshake began (a difference of -1 ms, as unsigned int). Where the clock
 * was set back to just before that, let it pass. */
static void wait_for_another_time(const struct gcookie_wire *wire) {
    const int64_t *const began = wire->handshake->began;
    const int64_t left = began[1] - realtime();
    const struct timespec rest = {0, (long)left};
    if (left > 0 && left < began[1] - began[0] + 20 * NS_A_MS && left < 1000 * NS_A_MS)
        nanosleep(&rest, NULL);
}

/* gnutls_handshake_hook_func: a client's first message, before it is sent. */
static int before_message(gnutls_session_t session, unsigned int type, unsigned int when,
                          unsigned int incoming, const gnutls_datum_t *message) {
    (void)type, (void)when, (void)incoming, (void)message;
    turn_timers_off(gnutls_transport_get_ptr(session));
    return 0;
}

/* The next record for an established session. Epoch 0 is over: libgnutls would drop such records,
 * and some versions what stands behind them in the datagram, too. No ChangeCipherSpec follows one
 * under keys: libgnutls would keep each, in 16 KiB, for a handshake that never comes. */
static size_t next_record(struct gcookie_wire *wire, unsigned char *out, size_t capacity) {
    struct gcookie_input *input = &wire->seat->input;
    while (input->left > 0) {
        const unsigned char *record = input->at;
        const size_t size = gcookie_record_size(record, input->left);
        if (size == 0) {
            input->left = 0;
            wire->dropped++;
            break;
        }
        input->at += size;
        input->left -= size;
        if ((record[3] == 0 && record[4] == 0) || record[0] == GCOOKIE_CHANGE_CIPHER_SPEC)
            continue;
        if (size <= capacity) {
            memcpy(out, record, size);
            return size;
        }
        wire->dropped++; /* no record of DTLS is that long (RFC 6347 4.1) */
    }
    return 0;
}

/* One record at a time, so that libgnutls keeps none that it has not looked at. */
static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t size) {
    struct gcookie_wire *wire = ptr;
    size_t record = 0;

    turn_timers_off(wire);
    if (wire->seat != NULL) {
        if (wire->handshake != NULL)
            record = gcookie_guard_next(&wire->handshake->guard, wire->session, &wire->seat->input,
                                        data, size);
        else
            record = next_record(wire, data, size);
    }
    if (record > 0) {
        wire->pulled = *(unsigned char *)data;
        return (ssize_t)record;
    }
    wire->starved = 1;
    errno = EAGAIN;
    return -1;
}

static int has_more(const struct gcookie_wire *wire) {
    const struct gcookie_input *const input = &wire->seat->input;
    return input->left > 0 || input->messages_left > 0 ||
           (wire->handshake != NULL && gcookie_guard_has_more(&wire->handshake->guard));
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    struct gcookie_wire *wire = ptr;
    (void)milliseconds;
    if (wire->seat == NULL || has_more(wire) || !wire->due)
        return 1; /* "there may be something": pull says whether */
    wire->resending = 1;
    return 0;
}

int gcookie_psk_lookup(gnutls_session_t session, const gnutls_datum_t *username,
                       gnutls_datum_t *key) {
    struct gcookie_wire *wire = gnutls_transport_get_ptr(session);
    const gnutls_datum_t *const known = &wire->settings->psk_identity;
    int code;
    /* Before 3.8.13 what comes with RSA-PSK ends at its first zero byte (CVE-2026-42010): one
     * client would be looked up, and another one be named later. */
    gnutls_datum_t whole;
    if (gnutls_psk_server_get_username2(session, &whole) < 0 || whole.size < username->size)
        whole = *username;
    if (known->data != NULL &&
        (whole.size != known->size || gnutls_memcmp(whole.data, known->data, known->size) != 0))
        return NO_SUCH_USER;
    if (known->data != NULL)
        return gcookie_datum_copy(key, wire->settings->psk_key.data, wire->settings->psk_key.size);
    code = gcookie_py_psk(wire->seat == NULL ? 0 : wire->seat->handle, whole.data, whole.size, key);
    if (code < 0)
        wire->lookup_failed = 1;
    return code;
}

size_t gcookie_whole_records(const unsigned char *datagram, size_t size, size_t limit) {
    size_t whole = 0, record;
    if (limit > size)
        limit = size;
    while (whole < limit && (record = gcookie_record_size(datagram + whole, limit - whole)) > 0)
        whole += record;
    return whole;
}

/* --- a session -------------------------------------------------------------------------------- */

void gcookie_wire_attach(struct gcookie_wire *wire) {
    gnutls_transport_set_ptr(wire->session, wire);
    gnutls_transport_set_push_function(wire->session, push);
    gnutls_transport_set_pull_function(wire->session, pull);
    gnutls_transport_set_pull_timeout_function(wire->session, pull_timeout);
    gnutls_handshake_set_hook_function(wire->session, GNUTLS_HANDSHAKE_ANY, GNUTLS_HOOK_PRE,
                                       before_message);
    gnutls_dtls_set_timeouts(wire->session, 0, 0);
}

int gcookie_wire_begin(struct gcookie_wire *wire) {
    int code;
    if (!wire->is_server)
        return 0;
    wire->handshake->began[0] = realtime();
    code = gnutls_handshake(wire->session);
    return code == GNUTLS_E_AGAIN ? 0 : code;
}

int gcookie_wire_lacks_alpn(gnutls_session_t session) {
    gnutls_datum_t name;
    return gnutls_alpn_get_selected_protocol(session, &name) < 0 ? GNUTLS_E_NO_APPLICATION_PROTOCOL
                                                                 : 0;
}

void gcookie_wire_begin_at(struct gcookie_wire *wire, unsigned int hsk_read_seq) {
    if (wire->handshake != NULL)
        wire->handshake->guard.next = hsk_read_seq;
}

/* The handshake is over. */
static void end_handshake(struct gcookie_wire *wire) {
    if (wire->handshake == NULL)
        return;
    wire->refused += wire->handshake->guard.refused;
    gcookie_guard_clear(&wire->handshake->guard);
    free(wire->handshake);
    wire->handshake = NULL;
}

void gcookie_wire_clear(struct gcookie_wire *wire) {
    end_handshake(wire);
    gcookie_flight_drop(wire);
}

uint32_t gcookie_wire_kept(const struct gcookie_wire *wire) {
    return wire->handshake == NULL ? 0 : wire->handshake->guard.kept;
}

uint64_t gcookie_wire_refused(const struct gcookie_wire *wire) {
    return wire->refused + (wire->handshake == NULL ? 0 : wire->handshake->guard.refused);
}

/* --- calls ------------------------------------------------------------------------------------ */

/* 0: the call has the session to itself. Else it does nothing but return what this gives. */
static int enter(struct gcookie_wire *wire, struct gcookie_seat *seat) {
    gcookie_seat_begin(seat);
    if (__atomic_exchange_n(&wire->busy, 1, __ATOMIC_ACQUIRE) != 0)
        return GCOOKIE_BUSY;
    wire->seat = seat;
    return 0;
}

static void feed(struct gcookie_seat *seat, const unsigned char *in, size_t in_size) {
    seat->input = (struct gcookie_input){in, in_size, NULL, 0};
}

static void leave(struct gcookie_wire *wire) {
    wire->left = wire->seat->input.left;
    feed(wire->seat, NULL, 0);
    wire->seat->handle = 0;
    wire->seat = NULL;
    wire->due = wire->resending = wire->in_flight = 0;
    __atomic_store_n(&wire->busy, 0, __ATOMIC_RELEASE);
}

static int waits(int code) {
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

/* Who has another PSK cannot read the peer's Finished, and drops it as anybody's (RFC
 * 6347 4.1.2.7): a server has such a record, a client hears nothing more after its own. */
int gcookie_wire_clues(const struct gcookie_wire *wire) {
    int clues = 0;
    if (wire->handshake == NULL)
        return 0;
    if (wire->pulled == GCOOKIE_ALERT && wire->error == GNUTLS_E_UNEXPECTED_PACKET)
        clues |= GCOOKIE_CLUE_GOODBYE;
    if (gnutls_auth_get_type(wire->session) == GNUTLS_CRD_PSK &&
        (wire->handshake->guard.unread ||
         (!wire->is_server && gnutls_handshake_get_last_out(wire->session) ==
                                  (gnutls_handshake_description_t)GNUTLS_HANDSHAKE_FINISHED)))
        clues |= GCOOKIE_CLUE_KEY;
    return clues;
}

/* Something has ended the session. The peer hears why, unless it said so itself, or is silent. */
static int fail(struct gcookie_wire *wire, int code) {
    wire->failed = 1;
    wire->error = code;
    wire->seat->input.left = 0; /* nobody reads it any more */
    wire->in_flight = 0;
    wire->starved = 1;
    if (code == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        wire->error_detail = (int)gnutls_alert_get(wire->session);
    } else if (code == GNUTLS_E_TIMEDOUT) {
        wire->error_detail = gcookie_wire_clues(wire);
    } else {
        if (code == GNUTLS_E_UNEXPECTED_PACKET)
            wire->error_detail = gcookie_wire_clues(wire);
        if (wire->lookup_failed)
            (void)gnutls_alert_send(wire->session, GNUTLS_AL_FATAL, GNUTLS_A_INTERNAL_ERROR);
        else
            (void)gnutls_alert_send_appropriate(wire->session, code);
    }
    end_handshake(wire);
    gcookie_flight_drop(wire);
    return code;
}

/* gnutls_handshake as far as the input goes. */
static int shake(struct gcookie_wire *wire) {
    int code = GNUTLS_E_AGAIN;

    for (int step = 0; step < STEPS; step++) {
        const int was_due = wire->due, had_input = has_more(wire);
        wire->starved = 0;
        if (!wire->timers_off)
            wire->handshake->began[0] = realtime();
        else
            wait_for_another_time(wire);
        code = gnutls_handshake(wire->session);
        if (code == 0 || gnutls_error_is_fatal(code)) {
            wire->starved |= wire->seat->input.left == 0;
            return code;
        }
        /* Where nothing was at hand, that was the time to send again what is due. */
        if (waits(code) && wire->starved && !(wire->due && was_due && had_input))
            break; /* else a record was dropped, and the next one is to be read */
    }
    return GNUTLS_E_AGAIN;
}

int gcookie_wire_handshake(struct gcookie_wire *wire, struct gcookie_seat *seat, uintptr_t handle,
                           const unsigned char *in, size_t in_size, double now) {
    int code, was_due;

    if ((code = enter(wire, seat)) != 0)
        return code;
    was_due = wire->handshake != NULL && now >= wire->handshake->due_at;
    feed(seat, in, in_size);
    seat->handle = handle;
    wire->in_flight = 1;
    wire->due = was_due != 0;
    wire->resent = 0;
    if (wire->established)
        wire->starved = seat->input.left == 0;
    else if (wire->handshake == NULL)
        code = GNUTLS_E_INVALID_SESSION;
    else if (now >= wire->handshake->deadline)
        code = fail(wire, GNUTLS_E_TIMEDOUT);
    else {
        if (isinf(wire->handshake->deadline))
            wire->handshake->deadline = now + wire->settings->handshake_seconds;
        if (was_due)
            gcookie_flight_shrink(wire);
        code = shake(wire);
        if (code == 0 && wire->settings->alpn_required == GCOOKIE_ALPN_ALWAYS)
            code = gcookie_wire_lacks_alpn(wire->session);
        if (code == 0) {
            wire->established = 1;
            gcookie_flight_keep(wire, seat->out + seat->begun, seat->out_size - seat->begun);
            end_handshake(wire);
        } else if (code == GNUTLS_E_AGAIN) {
            gcookie_flight_order(wire);
            gcookie_flight_set_timer(wire, now, was_due, seat->out_size > seat->begun);
        } else {
            (void)fail(wire, code);
        }
    }
    leave(wire);
    return code;
}

double gcookie_wire_timeout(const struct gcookie_wire *wire, double now) {
    const struct gcookie_handshake *const handshake = wire->handshake;
    if (handshake == NULL || isinf(handshake->deadline))
        return -1;
    return fmax(0, fmin(handshake->deadline, handshake->due_at) - now);
}

/* A ClientHello of an established peer is left in libgnutls' record buffer, where the next
 * gnutls_record_recv_packet would lose its 16 KiB (lib/buffers.c). gnutls_record_recv frees it. */
static void drop_rehandshake(struct gcookie_wire *wire) {
    const struct gcookie_input input = wire->seat->input;
    feed(wire->seat, NULL, 0); /* it reads no more than what is there */
    if (gnutls_record_check_pending(wire->session) > 0)
        (void)gnutls_record_recv(wire->session, wire->seat->message, sizeof wire->seat->message);
    wire->seat->written = sizeof wire->seat->message;
    wire->seat->input = input;
    wire->starved = input.left == 0;
}

static ssize_t take(gnutls_packet_t packet, struct gcookie_seat *seat) {
    gnutls_datum_t datum;
    ssize_t size = GNUTLS_E_LARGE_PACKET;

    gnutls_packet_get(packet, &datum, NULL);
    if (datum.size <= sizeof seat->message) {
        if (datum.size > 0)
            memcpy(seat->message, datum.data, datum.size);
        if (datum.size > seat->written)
            seat->written = datum.size;
        size = (ssize_t)datum.size;
    }
    gnutls_packet_deinit(packet);
    return size;
}

static void say_goodbye(struct gcookie_wire *wire) {
    if (wire->closed || wire->failed)
        return;
    wire->closed = 1;
    wire->in_flight = 0;
    if (wire->established) {
        (void)gnutls_bye(wire->session, GNUTLS_SHUT_WR);
    } else if (wire->ever_sent) {
        (void)gnutls_alert_send(wire->session, GNUTLS_AL_WARNING, GNUTLS_A_USER_CANCELED);
        (void)gnutls_alert_send(wire->session, GNUTLS_AL_WARNING, GNUTLS_A_CLOSE_NOTIFY);
    }
    end_handshake(wire);
}

/* What gcookie_wire_receive gives, before anything is done about it. */
static ssize_t listen_once(struct gcookie_wire *wire) {
    struct gcookie_seat *seat = wire->seat;
    size_t sent_before = seat->out_size;
    int wants_flight = 0;

    for (int step = 0; step < STEPS; step++) {
        const unsigned int discarded = gnutls_record_get_discarded(wire->session);
        gnutls_packet_t packet = NULL;
        ssize_t code;
        wire->starved = 0;
        wire->pulled = 0;
        code = gnutls_record_recv_packet(wire->session, &packet);
        if (packet != NULL) { /* an empty message too: its code is 0 as that of a goodbye */
            wire->starved = wire->seat->input.left == 0;
            return take(packet, seat);
        }
        if (code == 0)
            return GCOOKIE_GOODBYE;
        if (code == GNUTLS_E_REHANDSHAKE) {
            drop_rehandshake(wire);
            if (!wire->closed)
                (void)gnutls_alert_send(wire->session, GNUTLS_AL_WARNING,
                                        GNUTLS_A_NO_RENEGOTIATION);
            sent_before = seat->out_size;
            if (wire->starved)
                break;
            continue;
        }
        if (code < 0 && gnutls_error_is_fatal((int)code))
            return code;
        if (wire->pulled == GCOOKIE_HANDSHAKE && seat->out_size == sent_before &&
            gnutls_record_get_discarded(wire->session) == discarded)
            wants_flight = 1;
        if (waits((int)code) && wire->starved)
            break; /* else a record was dropped, and the next one is to be read */
    }
    if (wants_flight)
        gcookie_flight_again(wire);
    return GNUTLS_E_AGAIN;
}

ssize_t gcookie_wire_receive(struct gcookie_wire *wire, struct gcookie_seat *seat,
                             const unsigned char *in, size_t in_size) {
    ssize_t code;
    int entered;

    if ((entered = enter(wire, seat)) != 0)
        return entered;
    feed(seat, in, in_size);
    if (wire->failed || wire->peer_closed || !wire->established) {
        leave(wire);
        return GNUTLS_E_INVALID_SESSION;
    }
    wire->in_flight = 1; /* libgnutls answers a repeated Finished with its own */
    code = listen_once(wire);
    if (code >= 0) {
        gcookie_flight_drop(wire);
    } else if (code == GCOOKIE_GOODBYE) {
        wire->peer_closed = 1;
        say_goodbye(wire); /* RFC 5246 7.2.1: a close_notify is answered with one */
    } else if (code != GNUTLS_E_AGAIN) {
        (void)fail(wire, (int)code);
    }
    leave(wire);
    return code;
}

/* libgnutls knows three limits, each in one place: the MTU; record_size_limit, which
 * gnutls_range_split tells as it cuts by it; max_fragment_length, which it sends beyond where it
 * negotiated nothing else (RFC 6066 4, RFC 8449). */
size_t gcookie_wire_data_mtu(gnutls_session_t session) {
    const gnutls_range_st all = {UINT16_MAX, UINT16_MAX};
    gnutls_range_st first, rest;
    size_t limit = gnutls_dtls_get_data_mtu(session);
    const size_t max_size = gnutls_record_get_max_size(session);

    if (max_size < limit)
        limit = max_size;
    if (gnutls_range_split(session, &all, &first, &rest) >= 0 && first.high < limit)
        limit = first.high;
    return limit;
}

/* The same, asked again only where the MTU is another. */
static size_t most_to_send(struct gcookie_wire *wire) {
    const unsigned int mtu = gnutls_dtls_get_mtu(wire->session);
    if (wire->fits_mtu != mtu) {
        wire->fits = (uint32_t)gcookie_wire_data_mtu(wire->session);
        wire->fits_mtu = mtu;
    }
    return wire->fits;
}

ssize_t gcookie_wire_send(struct gcookie_wire *wire, struct gcookie_seat *seat, const void *data,
                          size_t size) {
    ssize_t code;
    int entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    if (!wire->established || wire->failed || wire->closed)
        code = GNUTLS_E_INVALID_SESSION;
    else if (size > most_to_send(wire))
        code = GNUTLS_E_LARGE_PACKET;
    else
        code = gnutls_record_send(wire->session, data, size);
    leave(wire);
    return code;
}

int gcookie_wire_close(struct gcookie_wire *wire, struct gcookie_seat *seat) {
    int entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    say_goodbye(wire);
    leave(wire);
    return 0;
}

int gcookie_wire_alert(struct gcookie_wire *wire, struct gcookie_seat *seat, int level,
                       int description) {
    int code, entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    code = gnutls_alert_send(wire->session, (gnutls_alert_level_t)level,
                             (gnutls_alert_description_t)description);
    leave(wire);
    return code;
}
