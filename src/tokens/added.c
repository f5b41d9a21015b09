/* added.c - the sets of added tokens: a trie whose edges are in one hash table. */
#include "tokens/added.h"
#include <stdlib.h>
#include <string.h>
#include "tokens/regex.h"
#include "tokens/text.h"

struct edge { uint32_t key, child; };            /* node << 8 | byte; child 0: free */
struct node { int id; uint8_t flags; };          /* id -1: no token ends here */

struct added_set {
    struct edge *edge;
    size_t n_slots, n_edges;
    struct node *node;
    size_t n_nodes, cap;
    bool first[256];                 /* some token begins with this byte */
    int n;
    bool special;
    struct regex *word;              /* one word character; only when some token asks */
};

struct added_set *added_new(void) {
    struct added_set *set = mem_new(sizeof *set);
    set->cap = 64;
    set->node = mem_array(set->cap, sizeof *set->node);
    set->node[0].id = -1;
    set->n_nodes = 1;
    set->n_slots = 64;
    set->edge = mem_array(set->n_slots, sizeof *set->edge);
    return set;
}

void added_free(struct added_set *set) {
    if (!set)
        return;
    regex_free(set->word);
    free(set->edge);
    free(set->node);
    free(set);
}

int added_count(const struct added_set *set) {
    return set->n;
}

bool added_has_special(const struct added_set *set) {
    return set->special;
}

static struct edge *edge_at(const struct added_set *set, uint32_t key) {
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & (set->n_slots - 1);
    while (set->edge[i].child && set->edge[i].key != key)
        i = (i + 1) & (set->n_slots - 1);
    return &set->edge[i];
}

static void edges_grow(struct added_set *set) {
    struct edge *old = set->edge;
    size_t n_old = set->n_slots;
    set->n_slots *= 2;
    set->edge = mem_array(set->n_slots, sizeof *set->edge);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].child)
            *edge_at(set, old[i].key) = old[i];
    free(old);
}

static uint32_t child_made(struct added_set *set, uint32_t node, uint8_t byte) {
    struct edge *e = edge_at(set, node << 8 | byte);
    if (e->child)
        return e->child;
    if (set->n_nodes == set->cap) {
        set->cap *= 2;
        set->node = mem_grow(set->node, set->cap, sizeof *set->node);
    }
    uint32_t child = (uint32_t)set->n_nodes++;
    set->node[child] = (struct node){ .id = -1 };
    *e = (struct edge){ node << 8 | byte, child };
    if (++set->n_edges * 2 > set->n_slots)
        edges_grow(set);
    return child;
}

void added_put(struct added_set *set, struct str text, int id, unsigned flags) {
    uint32_t node = 0;
    /* A node's number must fit 24 bits of an edge's key. */
    if (!text.len || text.len > ADDED_BYTES_MAX || set->n_nodes + text.len >= 1u << 24)
        return;
    for (size_t i = 0; i < text.len; i++)
        node = child_made(set, node, (uint8_t)text.at[i]);
    set->n += set->node[node].id < 0;
    set->node[node] = (struct node){ id, (uint8_t)flags };
    set->first[(uint8_t)text.at[0]] = true;
    set->special |= (flags & ADDED_SPECIAL) != 0;
    if ((flags & ADDED_SINGLE_WORD) && !set->word) {
        struct err err = { 0 };
        set->word = regex_new(S("\\A[\\w\\p{Join_Control}]"), &err);
    }
}

static bool is_word(const struct added_set *set, struct str c) {
    struct regex_walk walk = regex_walk_open(set->word);
    size_t begin, end;
    regex_walk_text(&walk, c);
    bool found = regex_walk_next(&walk, &begin, &end);
    regex_walk_close(&walk);
    return found;
}

static bool stands_alone(const struct added_set *set, struct str text, size_t begin, size_t end) {
    uint32_t cp;
    if (begin) {
        size_t n = (size_t)cp_before(text, begin, &cp);
        if (is_word(set, str_cut(text, begin - n, begin)))
            return false;
    }
    return end == text.len
        || !is_word(set, str_cut(text, end, end + (size_t)cp_at(text, end, &cp)));
}

/* The longest token at `begin` that is allowed there; node NULL: none. */
static const struct node *longest(struct added_query *q, size_t begin, size_t *end) {
    const struct added_set *set = q->set;
    const struct node *found = NULL;
    uint32_t node = 0;
    for (size_t i = begin; i < q->text.len; i++) {
        const struct edge *e = edge_at(set, node << 8 | (uint8_t)q->text.at[i]);
        if (!(node = e->child))
            break;
        const struct node *n = &set->node[node];
        if (n->id < 0 || ((n->flags & ADDED_SPECIAL) && !q->allowed(q->to, begin, i + 1)))
            continue;
        found = n;
        *end = i + 1;
    }
    return found;
}

static void strip(const struct added_query *q, unsigned flags, struct added_match *m) {
    uint32_t cp;
    while ((flags & ADDED_LSTRIP) && m->begin > q->floor) {
        size_t n = (size_t)cp_before(q->text, m->begin, &cp);
        if (!cp_is_space(cp) || m->begin - n < q->floor)
            break;
        m->begin -= n;
    }
    while ((flags & ADDED_RSTRIP) && m->end < q->text.len) {
        size_t n = (size_t)cp_at(q->text, m->end, &cp);
        if (!cp_is_space(cp))
            break;
        m->end += n;
    }
}

bool added_next(struct added_query *q, struct added_match *m) {
    const struct added_set *set = q->set;
    size_t i = q->from, end = 0;
    while (set->n && i < q->text.len) {
        if (!set->first[(uint8_t)q->text.at[i]]) {
            i++;
            continue;
        }
        const struct node *found = longest(q, i, &end);
        if (!found) {
            i++;
        } else if ((found->flags & ADDED_SINGLE_WORD)
                   && !stands_alone(set, q->text, i, end)) {
            i = end;
        } else {
            *m = (struct added_match){ i, end, found->id };
            strip(q, found->flags, m);
            q->from = end;
            q->floor = m->end;
            return true;
        }
    }
    return false;
}
