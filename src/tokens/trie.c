/* trie.c - building a trie. */
#include "tokens/trie.h"
#include <stdlib.h>
#include "tokens/vocab.h"

static struct trie_edge *edge_at(const struct trie *t, uint32_t key) {
    size_t i = (size_t)(key * t->factor >> 32) & (t->n_slots - 1);
    while (t->edge[i].child && t->edge[i].key != key) i = (i + 1) & (t->n_slots - 1);
    return &t->edge[i];
}

static void edges_grow(struct trie *t) {
    struct trie_edge *old = t->edge;
    size_t n_old = t->n_slots;
    t->n_slots = n_old ? n_old * 2 : 64;
    t->edge = mem_array(t->n_slots, sizeof *t->edge);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].child)
            *edge_at(t, old[i].key) = old[i];
    free(old);
}

static uint32_t new_node(struct trie *t) {
    if (t->n_nodes == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->value = mem_grow(t->value, t->cap, sizeof *t->value);
    }
    t->value[t->n_nodes] = -1;
    return (uint32_t)t->n_nodes++;
}

bool trie_put(struct trie *t, struct str key, int value) {
    uint32_t node = TRIE_ROOT;
    if (!t->n_nodes) {
        new_node(t);
        t->factor = vocab_seed() | 1;
        edges_grow(t);
    }
    if (key.len > TRIE_KEY_MAX || t->n_nodes + key.len > TRIE_NODES_MAX)
        return false;
    for (size_t i = 0; i < key.len; i++) {
        uint32_t child = trie_step(t, node, (uint8_t)key.at[i]);
        if (!child) {
            if (t->n_nodes * 2 > t->n_slots)
                edges_grow(t);
            child = new_node(t);
            *edge_at(t, node << 8 | (uint8_t)key.at[i])
                = (struct trie_edge){ node << 8 | (uint8_t)key.at[i], child };
        }
        node = child;
    }
    t->value[node] = value;
    return true;
}

void trie_free(struct trie *t) {
    free(t->edge);
    free(t->value);
    *t = (struct trie){ 0 };
}
