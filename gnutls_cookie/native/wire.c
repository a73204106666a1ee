/* The wire of a session in C: push into a buffer, pull from the one datagram of the call. */
#include "wire.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Defined by the generated module: extern "Python+C" in ffi.cdef. */
extern int gcookie_py_psk(uintptr_t handle, const unsigned char *username, unsigned int size,
                          gnutls_datum_t *key);

enum { STEPS = 1024 }; /* of libgnutls in one call: many alerts in one datagram end somewhere */

/* --- what libgnutls calls --------------------------------------------------------------------- */

/* Room for `more` bytes in the seat; 0 where there is no memory. */
static int make_room(struct gcookie_seat *seat, size_t more) {
    size_t capacity = seat->out_capacity;
    unsigned char *grown;

    if (more <= capacity - seat->out_size)
        return 1;
    while (more > capacity - seat->out_size) {
        if (capacity > SIZE_MAX / 2)
            return 0;
        capacity *= 2;
    }
    grown = realloc(seat->out == seat->first ? NULL : seat->out, capacity);
    if (grown == NULL)
        return 0;
    if (seat->out == seat->first)
        memcpy(grown, seat->first, seat->out_size);
    seat->out = grown;
    seat->out_capacity = capacity;
    return 1;
}

/* Whether a record goes into the datagram that was begun last, and then that one's size with it.
 * Records of a flight may (RFC 6347 4.1.1); a message of the application is a datagram. */
static int joins(const struct gcookie_wire *wire, size_t size, uint32_t *datagram) {
    const struct gcookie_seat *seat = wire->seat;
    if (!wire->in_flight || seat->out_size == 0)
        return 0;
    memcpy(datagram, seat->out + seat->last, sizeof *datagram);
    *datagram += (uint32_t)size;
    return *datagram <= gnutls_dtls_get_mtu(wire->session);
}

/* How long a flight is, in case that it must be cut into smaller pieces. */
static void measure(struct gcookie_wire *wire, const unsigned char *record, size_t size) {
    const int is_rest =
        size >= GCOOKIE_RECORD_HEADER_SIZE + GCOOKIE_MESSAGE_HEADER_SIZE &&
        record[0] == GCOOKIE_HANDSHAKE && record[3] == 0 && record[4] == 0 &&
        (record[19] != 0 || record[20] != 0 || record[21] != 0); /* its fragment_offset */
    if (wire->seat->out_size == 0)
        wire->flight_messages = wire->flight_bytes = 0;
    wire->flight_messages += !is_rest;
    wire->flight_bytes += size;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t size) {
    struct gcookie_wire *wire = ptr;
    struct gcookie_seat *seat = wire->seat;
    uint32_t prefix;

    /* Without a seat somebody called libgnutls on the session past this file. */
    if (seat == NULL || size > UINT16_MAX || !make_room(seat, sizeof prefix + size)) {
        errno = EIO;
        return -1;
    }
    if (wire->in_flight)
        measure(wire, data, size);
    if (!joins(wire, size, &prefix)) {
        prefix = (uint32_t)size;
        seat->last = seat->out_size;
        seat->out_size += sizeof prefix;
    }
    memcpy(seat->out + seat->last, &prefix, sizeof prefix);
    memcpy(seat->out + seat->out_size, data, size);
    seat->out_size += size;
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
    wire->began[1] = realtime();
    wire->timers_off = 1;
}

/* The longest time is over for libgnutls in one case: when it is to send a flight in the very
 * millisecond before the handshake began (a difference of -1 ms, as unsigned int). Where the clock
 * was set back to just before that, let it pass. */
static void wait_for_another_time(const struct gcookie_wire *wire) {
    const int64_t left = wire->began[1] - realtime();
    const struct timespec rest = {0, (long)left};
    if (left > 0 && left < wire->began[1] - wire->began[0] + 20 * NS_A_MS && left < 1000 * NS_A_MS)
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
 * and some versions what stands behind them in the datagram, too. */
static size_t next_record(struct gcookie_wire *wire, unsigned char *out, size_t capacity) {
    struct gcookie_input *input = &wire->input;
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
        if (record[3] == 0 && record[4] == 0)
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
        if (wire->established)
            record = next_record(wire, data, size);
        else
            record = gcookie_guard_next(&wire->guard, wire->session, &wire->input, data, size);
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
    return wire->input.left > 0 || wire->input.messages_left > 0 ||
           (!wire->established && gcookie_guard_has_more(&wire->guard));
}

static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned int milliseconds) {
    struct gcookie_wire *wire = ptr;
    (void)milliseconds;
    if (has_more(wire) || !wire->due)
        return 1; /* "there may be something": pull says whether */
    wire->resending = 1;
    return 0;
}

static int psk(gnutls_session_t session, const gnutls_datum_t *username, gnutls_datum_t *key) {
    const struct gcookie_wire *wire = gnutls_transport_get_ptr(session);
    return gcookie_py_psk(wire->handle, username->data, username->size, key);
}

void gcookie_psk_set_callback(gnutls_psk_server_credentials_t credentials) {
    gnutls_psk_set_server_credentials_function2(credentials, psk);
}

size_t gcookie_whole_records(const unsigned char *datagram, size_t size, size_t limit) {
    size_t whole = 0, record;
    if (limit > size)
        limit = size;
    while (whole < limit && (record = gcookie_record_size(datagram + whole, limit - whole)) > 0)
        whole += record;
    return whole;
}

/* --- calls ------------------------------------------------------------------------------------ */

void gcookie_seat_init(struct gcookie_seat *seat) {
    seat->out = seat->first;
    seat->out_capacity = sizeof seat->first;
    seat->out_size = seat->last = 0;
}

/* Nothing is sent yet. */
static void clear(struct gcookie_seat *seat) {
    if (seat->out != seat->first)
        free(seat->out);
    gcookie_seat_init(seat);
}

void gcookie_seat_clear(struct gcookie_seat *seat) {
    gnutls_memset(seat->message, 0, sizeof seat->message);
    clear(seat);
}

void gcookie_wire_attach(gnutls_session_t session, struct gcookie_wire *wire, int is_server) {
    wire->session = session;
    wire->guard.is_server = is_server;
    gnutls_transport_set_ptr(session, wire);
    gnutls_transport_set_push_function(session, push);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_pull_timeout_function(session, pull_timeout);
    gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_ANY, GNUTLS_HOOK_PRE,
                                       before_message);
    gnutls_dtls_set_timeouts(session, 0, 0);
}

int gcookie_wire_begin(gnutls_session_t session, struct gcookie_wire *wire) {
    int code;
    if (!wire->guard.is_server)
        return 0;
    wire->began[0] = realtime();
    code = gnutls_handshake(session);
    return code == GNUTLS_E_AGAIN ? 0 : code;
}

void gcookie_wire_begin_at(struct gcookie_wire *wire, unsigned int hsk_read_seq) {
    wire->guard.next = hsk_read_seq;
}

void gcookie_wire_clear(struct gcookie_wire *wire) {
    gcookie_guard_clear(&wire->guard);
}

/* 0: the call has the session to itself. Else it does nothing but return what this gives. */
static int enter(struct gcookie_wire *wire, struct gcookie_seat *seat) {
    clear(seat);
    if (wire->session == NULL)
        return GCOOKIE_GONE;
    if (__atomic_exchange_n(&wire->busy, 1, __ATOMIC_ACQUIRE) != 0)
        return GCOOKIE_BUSY;
    wire->seat = seat;
    return 0;
}

static void feed(struct gcookie_wire *wire, const unsigned char *in, size_t in_size) {
    memset(&wire->input, 0, sizeof wire->input);
    wire->input.at = in;
    wire->input.left = in_size;
}

static void leave(struct gcookie_wire *wire) {
    wire->seat = NULL;
    wire->handle = 0;
    wire->due = wire->resending = wire->in_flight = 0;
    wire->left = wire->input.left;
    memset(&wire->input, 0, sizeof wire->input);
    __atomic_store_n(&wire->busy, 0, __ATOMIC_RELEASE);
}

enum {
    /* 576 and 296 bytes (RFC 1191 7.1) without the largest IPv4 header, 60 bytes, and UDP's 8. */
    MTU_AFTER_TWO = 508,
    MTU_AFTER_FOUR = 228,
    MOST_RECORDS = 31 /* of a flight: with more libgnutls fails (lib/buffers.c, MAX_QUEUE) */
};

/* Whether the last flight is of no more than MOST_RECORDS with this MTU. */
static int can_be_cut(const struct gcookie_wire *wire, unsigned int mtu) {
    const size_t piece = mtu - GCOOKIE_RECORD_HEADER_SIZE - GCOOKIE_MESSAGE_HEADER_SIZE;
    return wire->flight_messages + wire->flight_bytes / piece <= MOST_RECORDS;
}

/* The last flight is about to be sent again. Where it was lost twice already, the path may not take
 * datagrams of that size, and no router says so (RFC 6347 4.1.1.1). libgnutls cuts messages by the
 * MTU each time that it sends them (lib/dtls.c). A ClientHello stays whole: many servers take no
 * fragment of one before they have verified the client. */
static void shrink(struct gcookie_wire *wire) {
    const unsigned int mtu = gnutls_dtls_get_mtu(wire->session);
    unsigned int smaller = wire->resends >= 3 ? MTU_AFTER_FOUR : MTU_AFTER_TWO;
    if (wire->resends == 0 || !(wire->guard.is_server || wire->guard.greeted))
        return;
    while (smaller < mtu && !can_be_cut(wire, smaller))
        smaller++;
    if (smaller >= mtu)
        return;
    if (wire->mtu == 0)
        wire->mtu = mtu;
    wire->small_mtu = smaller;
    gnutls_dtls_set_mtu(wire->session, smaller);
}

/* The losses may have been of another kind, and messages are the application's to cut. */
static void restore(const struct gcookie_wire *wire) {
    if (wire->mtu > 0 && gnutls_dtls_get_mtu(wire->session) == wire->small_mtu)
        gnutls_dtls_set_mtu(wire->session, wire->mtu);
}

static void count_resends(struct gcookie_wire *wire) {
    if (wire->guard.next != wire->answered) {
        wire->answered = wire->guard.next;
        wire->resends = 0;
    } else if (wire->resent) {
        wire->resends++;
    }
}

static int waits(int code) {
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

int gcookie_wire_handshake(gnutls_session_t session, struct gcookie_wire *wire,
                           struct gcookie_seat *seat, uintptr_t handle, const unsigned char *in,
                           size_t in_size, int due) {
    int code = GNUTLS_E_AGAIN, entered;

    if ((entered = enter(wire, seat)) != 0)
        return entered;
    feed(wire, in, in_size);
    wire->handle = handle;
    wire->in_flight = 1;
    wire->due = due;
    wire->resent = 0;
    if (due)
        shrink(wire);
    for (int step = 0; step < STEPS; step++) {
        const int was_due = wire->due, had_input = has_more(wire);
        wire->starved = 0;
        if (!wire->timers_off)
            wire->began[0] = realtime();
        else
            wait_for_another_time(wire);
        code = gnutls_handshake(session);
        if (code == 0) {
            wire->established = 1;
            wire->starved = wire->input.left == 0;
            restore(wire);
        }
        if (code == 0 || gnutls_error_is_fatal(code)) {
            gcookie_guard_clear(&wire->guard);
            break;
        }
        /* Where nothing was at hand, that was the time to send again what is due. */
        if (waits(code) && wire->starved && !(wire->due && was_due && had_input))
            break; /* else a record was dropped, and the next one is to be read */
        code = GNUTLS_E_AGAIN;
    }
    count_resends(wire);
    leave(wire);
    return code;
}

/* A ClientHello of an established peer is left in libgnutls' record buffer, where the next
 * gnutls_record_recv_packet would lose its 16 KiB (lib/buffers.c). gnutls_record_recv frees it. */
static void drop_rehandshake(gnutls_session_t session, struct gcookie_wire *wire,
                             struct gcookie_seat *seat) {
    const struct gcookie_input input = wire->input;
    memset(&wire->input, 0, sizeof wire->input); /* it reads no more than what is there */
    if (gnutls_record_check_pending(session) > 0)
        (void)gnutls_record_recv(session, seat->message, sizeof seat->message);
    wire->input = input;
    wire->starved = input.left == 0;
}

static ssize_t take(gnutls_packet_t packet, struct gcookie_seat *seat) {
    gnutls_datum_t datum;
    ssize_t size = GNUTLS_E_LARGE_PACKET;

    gnutls_packet_get(packet, &datum, NULL);
    if (datum.size <= sizeof seat->message) {
        if (datum.size > 0)
            memcpy(seat->message, datum.data, datum.size);
        size = (ssize_t)datum.size;
    }
    gnutls_packet_deinit(packet);
    return size;
}

ssize_t gcookie_wire_receive(gnutls_session_t session, struct gcookie_wire *wire,
                             struct gcookie_seat *seat, const unsigned char *in, size_t in_size) {
    ssize_t code = GNUTLS_E_AGAIN;
    int entered;

    if ((entered = enter(wire, seat)) != 0)
        return entered;
    feed(wire, in, in_size);
    wire->in_flight = 1; /* libgnutls answers a repeated Finished with its own */
    wire->wants_flight = 0;
    for (int step = 0; step < STEPS; step++) {
        const unsigned int discarded = gnutls_record_get_discarded(session);
        gnutls_packet_t packet = NULL;
        wire->starved = 0;
        wire->pulled = 0;
        code = gnutls_record_recv_packet(session, &packet);
        if (packet != NULL) { /* an empty message too: its code is 0 as that of a goodbye */
            code = take(packet, seat);
            wire->starved = wire->input.left == 0;
            break;
        }
        if (code == 0) {
            code = GCOOKIE_GOODBYE;
            break;
        }
        if (code == GNUTLS_E_REHANDSHAKE)
            drop_rehandshake(session, wire, seat);
        if (code == GNUTLS_E_REHANDSHAKE || (code < 0 && gnutls_error_is_fatal((int)code)))
            break;
        if (wire->pulled == GCOOKIE_HANDSHAKE && seat->out_size == 0 &&
            gnutls_record_get_discarded(session) == discarded)
            wire->wants_flight = 1;
        if (waits((int)code) && wire->starved)
            break; /* else a record was dropped, and the next one is to be read */
        code = GNUTLS_E_AGAIN;
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

ssize_t gcookie_wire_send(gnutls_session_t session, struct gcookie_wire *wire,
                          struct gcookie_seat *seat, const void *data, size_t size) {
    ssize_t code;
    int entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    code = size > gcookie_wire_data_mtu(session) ? GNUTLS_E_LARGE_PACKET
                                                 : gnutls_record_send(session, data, size);
    leave(wire);
    return code;
}

int gcookie_wire_bye(gnutls_session_t session, struct gcookie_wire *wire,
                     struct gcookie_seat *seat) {
    int code, entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    code = gnutls_bye(session, GNUTLS_SHUT_WR);
    leave(wire);
    return code;
}

int gcookie_wire_alert(gnutls_session_t session, struct gcookie_wire *wire,
                       struct gcookie_seat *seat, int level, int description) {
    int code, entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    code = gnutls_alert_send(session, (gnutls_alert_level_t)level,
                             (gnutls_alert_description_t)description);
    leave(wire);
    return code;
}

int gcookie_wire_alert_for(gnutls_session_t session, struct gcookie_wire *wire,
                           struct gcookie_seat *seat, int error) {
    int code, entered;
    if ((entered = enter(wire, seat)) != 0)
        return entered;
    code = gnutls_alert_send_appropriate(session, error);
    leave(wire);
    return code;
}
