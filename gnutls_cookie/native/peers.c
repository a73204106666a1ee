/* The set of admitted peers. Nothing is allocated here for an unverified client. */
#include "peers.h"
#include "table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PEER_KEY_SIZE GCOOKIE_ADDRESS_KEY_SIZE

struct peer {
    struct gcookie_node node; /* first: the table gives a pointer to it */
    unsigned char key[PEER_KEY_SIZE];
    unsigned char admitted;
    unsigned char verified; /* recently, and treated as admitted until gcookie_peers_begin */
    unsigned char listed;
    struct peer *next; /* in the list of those recently verified */
};

struct gcookie_peers {
    struct gcookie_peers *next; /* in the list of all of them */
    struct gcookie_peers *previous;
    pthread_mutex_t lock;
    struct gcookie_table table;
    size_t admitted;
    size_t max;
    struct peer *verified;
};

static struct peer *find_peer(struct gcookie_peers *peers, const unsigned char key[PEER_KEY_SIZE]);
static struct peer *add_peer(struct gcookie_peers *peers, const unsigned char key[PEER_KEY_SIZE]);
static void remove_peer(struct gcookie_peers *peers, struct peer *peer);
static void free_peer(struct gcookie_node *node);

/* --- fork ------------------------------------------------------------------------------------ */

/* A thread that holds a lock is not there in a forked child: what it guards must be whole and
 * free. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct gcookie_peers *all;
static int fork_error;

static void before_fork(void) {
    pthread_mutex_lock(&all_lock);
    for (struct gcookie_peers *peers = all; peers != NULL; peers = peers->next) {
        pthread_mutex_lock(&peers->lock);
    }
}

static void after_fork(void) {
    for (struct gcookie_peers *peers = all; peers != NULL; peers = peers->next) {
        pthread_mutex_unlock(&peers->lock);
    }
    pthread_mutex_unlock(&all_lock);
}

static void watch_forks(void) {
    fork_error = pthread_atfork(before_fork, after_fork, after_fork);
}

static void enlist(struct gcookie_peers *peers) {
    pthread_mutex_lock(&all_lock);
    peers->next = all;
    if (all != NULL) {
        all->previous = peers;
    }
    all = peers;
    pthread_mutex_unlock(&all_lock);
}

static void strike_off(struct gcookie_peers *peers) {
    pthread_mutex_lock(&all_lock);
    if (peers->next != NULL) {
        peers->next->previous = peers->previous;
    }
    if (peers->previous != NULL) {
        peers->previous->next = peers->next;
    } else if (all == peers) {
        all = peers->next;
    }
    pthread_mutex_unlock(&all_lock);
}

/* --- life ------------------------------------------------------------------------------------ */

struct gcookie_peers *gcookie_peers_new(size_t max) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    struct gcookie_peers *peers = calloc(1, sizeof *peers);
    if (peers == NULL || fork_error != 0 || gcookie_table_init(&peers->table) < 0 ||
        pthread_mutex_init(&peers->lock, NULL) != 0) {
        free(peers);
        return NULL;
    }
    peers->max = max;
    enlist(peers);
    return peers;
}

void gcookie_peers_free(struct gcookie_peers *peers) {
    if (peers == NULL) {
        return;
    }
    strike_off(peers);
    gcookie_table_drain(&peers->table, free_peer);
    pthread_mutex_destroy(&peers->lock);
    free(peers);
}

void gcookie_peers_lock(struct gcookie_peers *peers) {
    pthread_mutex_lock(&peers->lock);
}

void gcookie_peers_unlock(struct gcookie_peers *peers) {
    pthread_mutex_unlock(&peers->lock);
}

/* --- the set of peers ------------------------------------------------------------------------ */

void gcookie_peers_begin(struct gcookie_peers *peers) {
    pthread_mutex_lock(&peers->lock);
    while (peers->verified != NULL) {
        struct peer *peer = peers->verified;
        peers->verified = peer->next;
        peer->verified = 0;
        peer->listed = 0;
        if (!peer->admitted) {
            remove_peer(peers, peer);
        }
    }
    pthread_mutex_unlock(&peers->lock);
}

int gcookie_peers_admit(struct gcookie_peers *peers, const void *address, size_t size) {
    union gcookie_address copy;
    unsigned char key[PEER_KEY_SIZE];
    if (!gcookie_address_copy(&copy, address, size) || !gcookie_address_key(key, &copy)) {
        return -EAFNOSUPPORT;
    }
    int result = 0;
    pthread_mutex_lock(&peers->lock);
    struct peer *peer = find_peer(peers, key);
    if (peer == NULL || !peer->admitted) {
        if (peers->admitted >= peers->max) {
            result = -ENOSPC;
        } else if (peer == NULL && (peer = add_peer(peers, key)) == NULL) {
            result = -ENOMEM;
        } else {
            peer->admitted = 1;
            peers->admitted++;
        }
    }
    pthread_mutex_unlock(&peers->lock);
    return result;
}

int gcookie_peers_forget(struct gcookie_peers *peers, const void *address, size_t size) {
    union gcookie_address copy;
    unsigned char key[PEER_KEY_SIZE];
    if (!gcookie_address_copy(&copy, address, size) || !gcookie_address_key(key, &copy)) {
        return -EAFNOSUPPORT;
    }
    pthread_mutex_lock(&peers->lock);
    struct peer *peer = find_peer(peers, key);
    if (peer != NULL) {
        if (peer->admitted) {
            peer->admitted = 0;
            peers->admitted--;
        }
        peer->verified = 0;
        if (!peer->listed) { /* else gcookie_peers_begin removes it */
            remove_peer(peers, peer);
        }
    }
    pthread_mutex_unlock(&peers->lock);
    return 0;
}

size_t gcookie_peers_count(struct gcookie_peers *peers) {
    pthread_mutex_lock(&peers->lock);
    const size_t admitted = peers->admitted;
    pthread_mutex_unlock(&peers->lock);
    return admitted;
}

int gcookie_peers_admits(struct gcookie_peers *peers, const union gcookie_address *address) {
    unsigned char key[PEER_KEY_SIZE];
    if (peers->table.count == 0 || !gcookie_address_key(key, address)) {
        return 0;
    }
    const struct peer *peer = find_peer(peers, key);
    return peer != NULL && (peer->admitted || peer->verified);
}

/* Without memory for it the address is not noted: the client sends the rest of its hello again. */
void gcookie_peers_note_verified(struct gcookie_peers *peers,
                                 const union gcookie_address *address) {
    unsigned char key[PEER_KEY_SIZE];
    if (!gcookie_address_key(key, address)) {
        return;
    }
    struct peer *peer = find_peer(peers, key);
    if (peer == NULL) {
        peer = add_peer(peers, key);
    }
    if (peer == NULL) {
        return;
    }
    peer->verified = 1;
    if (!peer->listed) {
        peer->listed = 1;
        peer->next = peers->verified;
        peers->verified = peer;
    }
}

static struct peer *find_peer(struct gcookie_peers *peers, const unsigned char key[PEER_KEY_SIZE]) {
    const uint64_t hash = gcookie_table_hash(&peers->table, key, PEER_KEY_SIZE);
    struct gcookie_node *node = gcookie_table_first(&peers->table, hash);
    while (node != NULL && memcmp(((struct peer *)node)->key, key, PEER_KEY_SIZE) != 0) {
        node = gcookie_table_next(node);
    }
    return (struct peer *)node;
}

static struct peer *add_peer(struct gcookie_peers *peers, const unsigned char key[PEER_KEY_SIZE]) {
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL) {
        return NULL;
    }
    memcpy(peer->key, key, PEER_KEY_SIZE);
    peer->node.hash = gcookie_table_hash(&peers->table, key, PEER_KEY_SIZE);
    if (gcookie_table_add(&peers->table, &peer->node) != 0) {
        free(peer);
        return NULL;
    }
    return peer;
}

static void remove_peer(struct gcookie_peers *peers, struct peer *peer) {
    gcookie_table_remove(&peers->table, &peer->node);
    free(peer);
}

static void free_peer(struct gcookie_node *node) {
    free((struct peer *)node);
}
