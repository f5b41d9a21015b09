/* added.c - the sets of added tokens. */
#include "tokens/added.h"
#include <stdlib.h>
#include "tokens/regex.h"
#include "tokens/text.h"
#include "tokens/trie.h"

struct token { int id; uint8_t flags; };

struct added_set {
    struct trie trie;                /* to a number of `token` */
    struct token *token;
    int n, cap;
    bool first[256];                 /* some token begins with this byte */
    bool special;
    struct regex *word;              /* one word character; only when some token asks */
};

struct added_set *added_new(void) {
    return mem_new(sizeof(struct added_set));
}

void added_free(struct added_set *set) {
    if (!set)
        return;
    regex_free(set->word);
    trie_free(&set->trie);
    free(set->token);
    free(set);
}

int added_count(const struct added_set *set) {
    return set->n;
}

bool added_has_special(const struct added_set *set) {
    return set->special;
}

bool added_put(struct added_set *set, struct str text, int id, unsigned flags) {
    if (!text.len || text.len > ADDED_BYTES_MAX || !trie_put(&set->trie, text, set->n))
        return false;
    if (set->n == set->cap) {
        set->cap = set->cap ? set->cap * 2 : 64;
        set->token = mem_grow(set->token, (size_t)set->cap, sizeof *set->token);
    }
    set->token[set->n++] = (struct token){ id, (uint8_t)flags };
    set->first[(uint8_t)text.at[0]] = true;
    set->special |= (flags & ADDED_SPECIAL) != 0;
    if ((flags & ADDED_SINGLE_WORD) && !set->word) {
        struct err err = { 0 };
        set->word = regex_new(S("\\A[\\w\\p{Join_Control}]"), &err);
    }
    return true;
}

void added_drop(struct added_set *set, struct str text) {
    uint32_t node = TRIE_ROOT;
    if (!set->trie.n_nodes)
        return;
    for (size_t i = 0; i < text.len; i++)
        if (!(node = trie_step(&set->trie, node, (uint8_t)text.at[i])))
            return;
    set->trie.value[node] = -1;
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

/* The longest token at `begin` that is allowed there; NULL: none. */
static const struct token *longest(struct added_query *q, size_t begin, size_t *end) {
    const struct added_set *set = q->set;
    const struct token *found = NULL;
    uint32_t node = TRIE_ROOT;
    for (size_t i = begin; i < q->text.len; i++) {
        node = trie_step(&set->trie, node, (uint8_t)q->text.at[i]);
        if (!node)
            break;
        if (set->trie.value[node] < 0)
            continue;
        const struct token *t = &set->token[set->trie.value[node]];
        if ((t->flags & ADDED_SPECIAL) && !q->allowed(q->to, begin, i + 1))
            continue;
        found = t;
        *end = i + 1;
    }
    return found;
}

/* Tokens may stand in the white space that one before them strips: how far it goes is kept, or a
 * run of them would be looked at again for each. */
static void strip(struct added_query *q, unsigned flags, struct added_match *m) {
    uint32_t cp;
    while ((flags & ADDED_LSTRIP) && m->begin > q->floor) {
        size_t n = (size_t)cp_before(q->text, m->begin, &cp);
        if (!cp_is_space(cp) || m->begin - n < q->floor)
            break;
        m->begin -= n;
    }
    if (!(flags & ADDED_RSTRIP))
        return;
    size_t begin = m->end;
    if (begin >= q->blank.begin && begin < q->blank.end)
        m->end = q->blank.end;
    while (m->end < q->text.len) {
        size_t n = (size_t)cp_at(q->text, m->end, &cp);
        if (!cp_is_space(cp))
            break;
        m->end += n;
    }
    q->blank.begin = begin;
    q->blank.end = m->end;
}

bool added_next(struct added_query *q, struct added_match *m) {
    const struct added_set *set = q->set;
    size_t i = q->from, end = 0;
    while (set->n && i < q->text.len) {
        if (!set->first[(uint8_t)q->text.at[i]]) {
            i++;
            continue;
        }
        const struct token *found = longest(q, i, &end);
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
