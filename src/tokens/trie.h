/* trie.h - byte strings to numbers, walked byte by byte: all prefixes of a text that are
 * keys come up on the way. Nodes are numbers, the edges of all are in one hash table. */
#pragma once
#include "base/base.h"

/* A key's length bounds how far a search may look ahead from each character of a text. */
enum { TRIE_ROOT = 0, TRIE_NODES_MAX = 1 << 24, TRIE_KEY_MAX = 1 << 10 };

struct trie_edge { uint32_t key, child; };       /* node << 8 | byte; child 0: free */
struct trie {
    struct trie_edge *edge;
    int *value;                      /* [cap] by node; -1: no key ends here */
    size_t n_slots, n_nodes, cap;
    uint64_t factor;                 /* odd, drawn: a file cannot choose edges that collide */
};

/* False: too many nodes, or the key is too long. A key that is there gets the new value. A zeroed
 * trie is empty. */
bool trie_put(struct trie *, struct str key, int value);
void trie_free(struct trie *);

/* 0: nowhere; the root is never a child. */
static inline uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte) {
    uint32_t key = node << 8 | byte;
    size_t i = (size_t)(key * t->factor >> 32) & (t->n_slots - 1);
    while (t->edge[i].child && t->edge[i].key != key) i = (i + 1) & (t->n_slots - 1);
    return t->edge[i].child;
}
