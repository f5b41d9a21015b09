/* trie.h - byte strings to numbers, walked byte by byte: all prefixes of a text that are
 * keys come up on the way. Nodes are numbers, the edges of all are in one hash table. */
#pragma once
#include "base/base.h"

enum { TRIE_ROOT = 0, TRIE_NODES_MAX = 1 << 24 };

struct trie_edge { uint32_t key, child; };       /* node << 8 | byte; child 0: free */
struct trie {
    struct trie_edge *edge;
    int *value;                      /* [cap] by node; -1: no key ends here */
    size_t n_slots, n_nodes, cap;
};

/* False: too many nodes. A key that is there gets the new value. A zeroed trie is empty. */
bool trie_put(struct trie *, struct str key, int value);
void trie_free(struct trie *);

/* 0: nowhere; the root is never a child. */
static inline uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte) {
    uint32_t key = node << 8 | byte;
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & (t->n_slots - 1);
    while (t->edge[i].child && t->edge[i].key != key) i = (i + 1) & (t->n_slots - 1);
    return t->edge[i].child;
}
