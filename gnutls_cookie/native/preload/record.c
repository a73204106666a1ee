/* Calls of libgnutls with their arguments and results, into a ring of units in shared memory. Any
 * thread of any process puts records in; the writer alone takes them out (cli/writer.py).
 *
 * No lock and no wait: a process may be killed at any instruction, and another may be stopped. A
 * record's units are taken with one compare-and-swap, filled, and then marked by their tags. Where
 * there is no room the record is lost, and counted. */
#include "preload.h"

#include <string.h>

#define NO_DATA UINT32_MAX /* in the place of a size: NULL */

/* What a record begins with; then come key, client_data and message or reply. */
struct record {
    uint32_t size; /* bytes of this and all that follows */
    uint32_t is_send;
    int64_t pushed;
    int32_t result;
    uint32_t before[3], after[3];
    uint32_t key_size, client_data_size, message_size;
    uint32_t zero[2]; /* the size is a multiple of 8 on every architecture */
};
_Static_assert(sizeof(struct record) == 64, "cli/writer.py");

struct part {
    const void *data;
    size_t size;
};

static unsigned char *unit(uint64_t number) {
    return gcookie_shared->units +
           (size_t)(number % gcookie_shared->unit_count) * GCOOKIE_UNIT_SIZE;
}

/* Different for each unit that is ever taken, and never 0 as in fresh memory. */
static void set_tag(uint64_t number, int is_first) {
    uint64_t *tag = (void *)unit(number);
    __atomic_store_n(tag, (number + 1) * 2 + (is_first ? 1 : 0), __ATOMIC_RELEASE);
}

/* Returns 0 where there is no room. */
static int take(uint64_t count, uint64_t *first) {
    uint64_t head = __atomic_load_n(&gcookie_shared->head, __ATOMIC_RELAXED);
    do {
        const uint64_t tail = __atomic_load_n(&gcookie_shared->tail, __ATOMIC_ACQUIRE);
        if (head - tail > gcookie_shared->unit_count ||
            head - tail + count > gcookie_shared->unit_count) {
            return 0;
        }
    } while (!__atomic_compare_exchange_n(&gcookie_shared->head, &head, head + count, 1,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    *first = head;
    return 1;
}

static void put(const struct part *parts, unsigned int part_count, size_t size) {
    const uint64_t count = (size + GCOOKIE_UNIT_PAYLOAD - 1) / GCOOKIE_UNIT_PAYLOAD;
    uint64_t first;

    if (count > GCOOKIE_MOST_UNITS || !take(count, &first)) {
        gcookie_add(&gcookie_shared->lost, 1);
        return;
    }
    uint64_t at = 0; /* of the record's bytes */
    for (unsigned int number = 0; number < part_count; number++) {
        const unsigned char *data = parts[number].data;
        size_t left = parts[number].size;
        while (left > 0) {
            const size_t offset = (size_t)(at % GCOOKIE_UNIT_PAYLOAD);
            const size_t room = GCOOKIE_UNIT_PAYLOAD - offset;
            const size_t some = left < room ? left : room;
            memcpy(unit(first + at / GCOOKIE_UNIT_PAYLOAD) + 8 + offset, data, some);
            data += some;
            left -= some;
            at += some;
        }
    }
    /* The writer passes over units that stay unmarked for seconds. */
    if (__atomic_load_n(&gcookie_shared->tail, __ATOMIC_ACQUIRE) > first) {
        gcookie_add(&gcookie_shared->lost, 1);
        return;
    }
    for (uint64_t more = count - 1; more > 0; more--) {
        set_tag(first + more, 0);
    }
    set_tag(first, 1); /* the last: now it can be read */
}

static struct part part_of(const void *data, size_t size, uint32_t *stated) {
    const struct part part = {data, data == NULL ? 0 : size};
    *stated = data == NULL ? NO_DATA : size < NO_DATA ? (uint32_t)size : NO_DATA - 1;
    return part;
}

static void set_numbers(uint32_t out[3], const gnutls_dtls_prestate_st *prestate) {
    out[0] = prestate->record_seq;
    out[1] = prestate->hsk_read_seq;
    out[2] = prestate->hsk_write_seq;
}

static void put_call(struct record *record, const gnutls_datum_t *key, const void *client_data,
                     size_t client_data_size, const void *message, size_t message_size) {
    struct part parts[4] = {{record, sizeof *record}};
    size_t size = sizeof *record;

    parts[1] =
        part_of(key != NULL ? key->data : NULL, key != NULL ? key->size : 0, &record->key_size);
    parts[2] = part_of(client_data_size > 0 ? client_data : NULL, client_data_size,
                       &record->client_data_size);
    parts[3] = part_of(message, message_size, &record->message_size);
    for (unsigned int number = 1; number < 4; number++) {
        if (parts[number].size > (size_t)GCOOKIE_MOST_UNITS * GCOOKIE_UNIT_PAYLOAD) {
            gcookie_add(&gcookie_shared->lost, 1);
            return;
        }
        size += parts[number].size;
    }
    record->size = (uint32_t)size;
    put(parts, 4, size);
}

void gcookie_record_verify(const gnutls_datum_t *key, const void *client_data,
                           size_t client_data_size, const void *message, size_t message_size,
                           const gnutls_dtls_prestate_st *before, int result,
                           const gnutls_dtls_prestate_st *after) {
    struct record record = {.result = result};
    set_numbers(record.before, before);
    set_numbers(record.after, after);
    put_call(&record, key, client_data, client_data_size, message, message_size);
}

void gcookie_record_send(const gnutls_datum_t *key, const void *client_data,
                         size_t client_data_size, const gnutls_dtls_prestate_st *before, int result,
                         ssize_t pushed, const unsigned char *reply, size_t reply_size) {
    struct record record = {.is_send = 1, .result = result, .pushed = pushed};
    set_numbers(record.before, before);
    set_numbers(record.after, before);
    put_call(&record, key, client_data, client_data_size, reply, reply_size);
}
