/* wordpiece.c - WordPiece, the longest piece first, and WordLevel, whole words only. */
#include "tokens/model.h"
#include <stdlib.h>
#include "base/pull.h"
#include "tokens/text.h"
#include "tokens/trie.h"

enum { CHARS_DEFAULT = 100, CHARS_MAX = 1 << 14 };

struct pieces_trie { struct trie trie; uint32_t inside; bool can_go_on; };

static bool field(struct tok_model *m, struct pull *j, struct str key, bool *known,
                  struct err *err) {
    uint64_t n;
    (void)err;
    *known = str_is(key, "max_input_chars_per_word");
    if (!*known)
        return true;
    if (!pull_u64(j, UINT64_MAX, &n))
        return false;
    m->max_chars = (int)MIN(n, (uint64_t)CHARS_MAX);
    return true;
}

static bool ready(struct tok_model *m, struct err *err) {
    struct pieces_trie *t = m->own = mem_new(sizeof *t);
    if (!m->max_chars)
        m->max_chars = CHARS_DEFAULT;
    if (m->unk < 0)
        return err_set(err, "the unk_token \"%.*s\" is not in the vocabulary",
                       STR_ARG(m->unk_token));
    for (int id = 0; id < m->vocab->n; id++)
        if ((vocab_flags(m->vocab, id) & VOCAB_HERE)
            && !trie_put(&t->trie, vocab_text(m->vocab, id), id))
            return err_set(err, "the token of id %d is too long, or the vocabulary too large", id);
    t->can_go_on = true;
    for (size_t i = 0; t->can_go_on && i < m->prefix.len; i++) {
        t->inside = trie_step(&t->trie, t->inside, (uint8_t)m->prefix.at[i]);
        t->can_go_on = t->inside != 0;
    }
    return true;
}

static void *no_space(const struct tok_model *m) {
    (void)m;
    return NULL;
}

static void no_space_free(void *space) {
    (void)space;
}

static bool too_long(struct str word, int max) {
    uint32_t cp;
    int n = 0;
    for (size_t i = 0; i < word.len && n <= max; n++)
        i += (size_t)cp_at(word, i, &cp);
    return n > max;
}

static void encode(const struct tok_model *m, void *space, struct str word, bool plain,
                   struct ids *out) {
    const struct pieces_trie *t = m->own;
    int before = out->len;
    (void)space;
    bool bad = too_long(word, m->max_chars);
    for (size_t begin = 0; !bad && begin < word.len;) {
        uint32_t node = begin ? t->inside : TRIE_ROOT;
        size_t end = begin;
        int id = -1;
        for (size_t i = begin; i < word.len && (!begin || t->can_go_on); i++) {
            node = trie_step(&t->trie, node, (uint8_t)word.at[i]);
            if (!node)
                break;
            int now = t->trie.value[node];
            if (now >= 0 && !(plain && vocab_is_command(m->vocab, now))) {
                id = now;
                end = i + 1;
            }
        }
        bad = id < 0;
        if (!bad)
            ids_put(out, id);
        begin = end;
    }
    if (bad) {
        out->len = before;
        ids_put(out, m->unk);
    }
}

static void close_model(struct tok_model *m) {
    struct pieces_trie *t = m->own;
    if (t)
        trie_free(&t->trie);
    free(t);
}

const struct tok_model_kind model_wordpiece = {
    .type = "WordPiece", .prefix = "##", .field = field, .ready = ready, .space_new = no_space,
    .space_free = no_space_free, .encode = encode, .close = close_model,
};

static bool level_field(struct tok_model *m, struct pull *j, struct str key, bool *known,
                        struct err *err) {
    (void)m;
    (void)j;
    (void)key;
    (void)err;
    *known = false;
    return true;
}

static bool level_ready(struct tok_model *m, struct err *err) {
    (void)m;
    (void)err;
    return true;
}

static void level_encode(const struct tok_model *m, void *space, struct str word, bool plain,
                         struct ids *out) {
    (void)space;
    int id = vocab_find(m->vocab, word);
    if (id < 0 || (plain && vocab_is_command(m->vocab, id)))
        id = m->unk;
    if (id >= 0)
        ids_put(out, id);
}

static void level_close(struct tok_model *m) {
    (void)m;
}

const struct tok_model_kind model_wordlevel = {
    .type = "WordLevel", .field = level_field, .ready = level_ready, .space_new = no_space,
    .space_free = no_space_free, .encode = level_encode, .close = level_close,
};
