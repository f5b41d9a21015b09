/* unigram.c - the most likely cut of a word into pieces: Viterbi over a trie.
 *
 * What no piece covers is unknown, character by character; unknown ones in a row are one piece,
 * which may still be spelt by byte tokens. */
#include "tokens/model.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/pull.h"
#include "tokens/text.h"
#include "tokens/trie.h"

enum { PIECE_BYTES_MAX = 1024 };
static const double UNKNOWN_PENALTY = 10.0;

struct unigram {
    struct trie trie;
    double *score;                   /* [cap] by id */
    size_t cap;
    int n;
    double lowest;
    int of_byte[256];
};

struct best { double score; uint32_t begin; int id; };           /* id -2: not reached */
struct space { struct best *best; size_t cap; struct piece *piece; size_t n, piece_cap; };

static struct unigram *own(struct tok_model *m) {
    if (!m->own) {
        struct unigram *u = m->own = mem_new(sizeof *u);
        u->lowest = INFINITY;
    }
    return m->own;
}

bool unigram_put(struct tok_model *m, struct str piece, double score, bool found, struct err *err) {
    struct unigram *u = own(m);
    int id = u->n;
    if (!isfinite(score))
        return err_set(err, "the score of the token \"%.*s\" is not a number", STR_ARG(piece));
    if (piece.len > PIECE_BYTES_MAX)
        return err_set(err, "a token of %zu bytes: more than %d", piece.len, PIECE_BYTES_MAX);
    const char *wrong = vocab_put(m->vocab, piece, (uint64_t)id);
    if (wrong)
        return err_set(err, "the token \"%.*s\" %s", STR_ARG(piece), wrong);
    if ((size_t)id >= u->cap) {
        u->cap = u->cap ? u->cap * 2 : 1024;
        u->score = mem_grow(u->score, u->cap, sizeof *u->score);
    }
    u->score[id] = score;
    u->n++;
    u->lowest = score < u->lowest ? score : u->lowest;
    if (found && piece.len && !trie_put(&u->trie, piece, id))
        return err_set(err, "the vocabulary is too large");
    return true;
}

/* [["piece", score], ...] */
static bool read_vocab(struct tok_model *m, struct pull *j, struct err *err) {
    struct buf piece = { 0 };
    struct str s;
    double score = 0;
    bool done = pull_array(j);
    while (done && pull_next(j)) {
        buf_clear(&piece);
        done = pull_array(j) && pull_next(j) && pull_string(j, &s);
        if (done)
            buf_str(&piece, s);
        done = done && pull_next(j) && pull_double(j, &score) && !pull_next(j) && !j->error;
        if (!done)
            pull_fail(j, "expected a token and its score");
        done = done && unigram_put(m, buf_view(&piece), score, true, err);
    }
    buf_free(&piece);
    return done && !j->error;
}

static bool field(struct tok_model *m, struct pull *j, struct str key, bool *known,
                  struct err *err) {
    uint64_t id;
    *known = true;
    if (str_is(key, "vocab"))
        return read_vocab(m, j, err);
    if (str_is(key, "unk_id")) {
        if (pull_peek(j) == PULL_NULL)
            return pull_null(j);
        if (!pull_u64(j, VOCAB_ID_MAX, &id))
            return false;
        m->unk = (int)id;
        return true;
    }
    *known = false;
    return true;
}

static bool ready(struct tok_model *m, struct err *err) {
    struct unigram *u = own(m);
    if (m->unk >= u->n)
        return err_set(err, "unk_id %d is not in the vocabulary of %d", m->unk, u->n);
    if (!u->trie.n_nodes)
        return err_set(err, "a Unigram model without tokens");
    model_byte_tokens(m->vocab, u->of_byte);
    return true;
}

static void *space_new(const struct tok_model *m) {
    (void)m;
    return mem_new(sizeof(struct space));
}

static void space_free(void *space) {
    struct space *s = space;
    if (!s)
        return;
    free(s->best);
    free(s->piece);
    free(s);
}

static void reach(struct best *at, double score, size_t begin, int id) {
    if (at->id == -2 || score > at->score)
        *at = (struct best){ score, (uint32_t)begin, id };
}

static void search(const struct tok_model *m, struct space *s, struct str word, bool plain) {
    const struct unigram *u = m->own;
    if (word.len + 1 > s->cap) {
        s->cap = (word.len + 1) * 2;
        s->best = mem_grow(s->best, s->cap, sizeof *s->best);
    }
    for (size_t i = 0; i <= word.len; i++)
        s->best[i] = (struct best){ 0, 0, -2 };
    for (size_t at = 0; at < word.len;) {
        uint32_t cp, node = TRIE_ROOT;
        size_t n = (size_t)cp_at(word, at, &cp);
        double here = s->best[at].score;
        bool single = false;
        for (size_t i = at; i < word.len; i++) {
            node = trie_step(&u->trie, node, (uint8_t)word.at[i]);
            if (!node)
                break;
            int id = u->trie.value[node];
            if (id < 0 || (plain && vocab_is_command(m->vocab, id)))
                continue;
            reach(&s->best[i + 1], here + u->score[id], at, id);
            single |= i + 1 == at + n;
        }
        if (!single)
            reach(&s->best[at + n], here + (u->lowest - UNKNOWN_PENALTY), at, -1);
        at += n;
    }
}

static void put_piece(struct space *s, size_t begin, size_t end) {
    if (s->n == s->piece_cap) {
        s->piece_cap = s->piece_cap ? s->piece_cap * 2 : 64;
        s->piece = mem_grow(s->piece, s->piece_cap, sizeof *s->piece);
    }
    s->piece[s->n++] = (struct piece){ (uint32_t)begin, (uint32_t)end };
}

/* A fused run of unknown characters may happen to be a token: then it is that one. */
static void put_ids(const struct tok_model *m, struct str text, bool plain, struct ids *out) {
    const struct unigram *u = m->own;
    int id = vocab_find(m->vocab, text);
    if (id >= 0 && id < u->n && !(plain && vocab_is_command(m->vocab, id))) {
        ids_put(out, id);
        return;
    }
    bool bytes = m->byte_fallback;
    for (size_t i = 0; bytes && i < text.len; i++)
        bytes = u->of_byte[(uint8_t)text.at[i]] >= 0;
    for (size_t i = 0; bytes && i < text.len; i++)
        ids_put(out, u->of_byte[(uint8_t)text.at[i]]);
    if (!bytes && m->unk >= 0)
        ids_put(out, m->unk);
}

static void encode(const struct tok_model *m, void *space, struct str word, bool plain,
                   struct ids *out) {
    struct space *s = space;
    search(m, s, word, plain);
    s->n = 0;
    bool unknown = false;            /* the piece put last was */
    for (size_t end = word.len; end;) {
        const struct best *b = &s->best[end];
        bool now = b->id == -1 || b->id == m->unk;
        if (now && unknown)
            s->piece[s->n - 1].begin = b->begin;
        else
            put_piece(s, b->begin, end);
        unknown = now;
        end = b->begin;
    }
    while (s->n) {
        struct piece p = s->piece[--s->n];
        put_ids(m, str_cut(word, p.begin, p.end), plain, out);
    }
}

static void close_model(struct tok_model *m) {
    struct unigram *u = m->own;
    if (!u)
        return;
    trie_free(&u->trie);
    free(u->score);
    free(u);
}

const struct tok_model_kind model_unigram = {
    .type = "Unigram", .field = field, .ready = ready, .space_new = space_new,
    .space_free = space_free, .encode = encode, .close = close_model,
};
