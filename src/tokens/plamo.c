/* plamo.c - PLaMo's vocabulary: tokens with scores, in tokenizer.jsonl a list a line; of all ways
 * to cut a text the cheapest counts, and what no token covers is spelt in byte tokens.
 *
 * Unlike Unigram costs are whole numbers, summed from the end of the text, and of equal ones the
 * longest token wins. Control tokens are never found in a text: they are added tokens here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/pull.h"
#include "base/utf8.h"
#include "tokens/build.h"
#include "tokens/decode.h"
#include "tokens/text.h"
#include "tokens/trie.h"

enum { PIECE_BYTES_MAX = 1024, LINES_MAX = 1 << 22, PER_SCORE = 10000,
       COST_UNKNOWN = 10000000, COST_NEVER = 20000000 };

struct plamo { struct trie trie; int *cost; int of_byte[256]; };     /* cost by id */
/* The best way from here on. id -1: the character's bytes. */
struct best { int64_t cost; uint32_t len; int id; };
struct space { struct best *best; size_t cap; };

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
        : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* <0x41>; -1: not spelt so. */
static int byte_of(struct str s) {
    if (s.len != 6 || !str_starts(s, "<0x") || s.at[5] != '>' || hex(s.at[3]) < 0
        || hex(s.at[4]) < 0)
        return -1;
    return hex(s.at[3]) << 4 | hex(s.at[4]);
}

static bool put_piece(struct tokenizer *t, struct plamo *p, const struct build_piece *piece,
                      int id, struct err *err) {
    struct str text = piece->text;
    /* A token of no finite score is never found, which the original allows. */
    double cost = isfinite(piece->score) ? -rint(piece->score * PER_SCORE) : COST_NEVER;
    const char *wrong = text.len > PIECE_BYTES_MAX ? "is too long"
        : !utf8_valid(text) ? "is not UTF-8" : cost > INT32_MAX || cost < -INT32_MAX
        ? "has a score out of range" : vocab_put(&t->vocab, text, (uint64_t)id);
    if (piece->type == PIECE_BYTE && !wrong) {
        int byte = byte_of(text);
        if (byte < 0 || p->of_byte[byte] >= 0)
            wrong = byte < 0 ? "is not a byte" : "is a byte that another token is";
        else
            p->of_byte[byte] = id;
    } else if (piece->type == PIECE_NORMAL && !wrong && text.len && cost < COST_NEVER) {
        p->cost[id] = (int)cost;
        wrong = trie_put(&p->trie, text, id) ? NULL : "does not fit: the vocabulary is too large";
    }
    return !wrong || err_set(err, "the token \"%.*s\" %s", STR_ARG(text), wrong);
}

bool build_plamo(struct tokenizer *t, const struct build_piece *piece, size_t n, struct err *err) {
    struct plamo *p = mem_new(sizeof *p);
    t->model.kind = &model_plamo;
    t->model.own = p;
    p->cost = mem_array(n + 1, sizeof *p->cost);
    for (int i = 0; i < 256; i++)
        p->of_byte[i] = -1;
    for (size_t i = 0; i < n; i++)
        if (!put_piece(t, p, &piece[i], (int)i, err))
            return false;
    for (int i = 0; i < 256; i++)
        if (p->of_byte[i] < 0)
            return err_set(err, "no token <0x%02X>", (unsigned)i);
    if (!p->trie.n_nodes && !trie_put(&p->trie, S(""), -1))
        return err_set(err, "no tokens");
    for (size_t i = 0; i < n; i++) {
        enum piece_type type = piece[i].type;
        bool control = type == PIECE_CONTROL || type == PIECE_UNKNOWN;
        if ((control || type == PIECE_USER)
            && !tokenizer_add(t, piece[i].text, control ? ADDED_SPECIAL : 0, false, err))
            return false;
    }
    return build_parts(t, &t->decoders, "{\"type\":\"Bytes\"}", err)
        && decode_bind(&t->decoders, err);
}

static enum piece_type type_of(struct str s) {
    static const struct { const char *name; enum piece_type type; } types[] = {
        { "UNKNOWN", PIECE_UNKNOWN }, { "CONTROL", PIECE_CONTROL }, { "BYTE", PIECE_BYTE },
        { "USER_DEFINED", PIECE_USER }, { "UNUSED", PIECE_UNUSED },
    };
    for (size_t i = 0; i < COUNT(types); i++)
        if (str_is(s, types[i].name))
            return types[i].type;
    return PIECE_NORMAL;
}

/* ["text", score, "TYPE", ...]; the text goes to the tokenizer's arena. */
static bool one_line(struct tokenizer *t, struct str line, struct build_piece *p,
                     struct err *err) {
    struct pull j = pull_open(line);
    struct str s;
    j.lenient = true;
    *p = (struct build_piece){ .type = PIECE_NORMAL };
    bool done = pull_array(&j) && pull_next(&j) && pull_string(&j, &s);
    if (done)
        p->text = (struct str){ arena_str(&t->arena, s), s.len };
    done = done && pull_next(&j) && pull_double(&j, &p->score);
    for (int i = 0; done && pull_next(&j); i++) {
        if (i == 0 && pull_peek(&j) == PULL_STRING) {
            done = pull_string(&j, &s);
            p->type = done ? type_of(s) : PIECE_NORMAL;
        } else {
            done = pull_skip(&j);
        }
    }
    done = done && pull_end(&j);
    pull_close(&j);
    return done || err_set(err, "expected a token, its score and its type");
}

bool plamo_read(struct tokenizer *t, struct str file, struct err *err) {
    struct build_piece *piece = NULL;
    size_t n = 0, cap = 0;
    bool done = true;
    while (done && file.len) {
        const char *end = memchr(file.at, '\n', file.len);
        struct str line = str_cut(file, 0, end ? (size_t)(end - file.at) : file.len);
        file = str_from(file, line.len + (end != NULL));
        if (n == cap) {
            cap = cap ? cap * 2 : 1024;
            piece = mem_grow(piece, cap, sizeof *piece);
        }
        struct err why = { 0 };
        done = n < LINES_MAX && one_line(t, line, &piece[n], &why);
        n++;
        if (!done)
            err_set(err, "line %zu: %s", n, n > LINES_MAX ? "too many tokens" : why.text);
    }
    done = done && build_plamo(t, piece, n, err);
    free(piece);
    if (!done)
        return false;
    t->bos = vocab_find(&t->vocab, S("<|plamo:bos|>"));
    t->eos = vocab_find(&t->vocab, S("<|plamo:eos|>"));
    return true;
}

static void *space_new(const struct tok_model *m) {
    (void)m;
    return mem_new(sizeof(struct space));
}

static void space_free(void *space) {
    struct space *s = space;
    if (s)
        free(s->best);
    free(s);
}

/* The cheapest token that begins at `at`, or the bytes of the character there, of n bytes. */
static struct best best_at(const struct tok_model *m, const struct space *s, struct str word,
                           size_t at, size_t n, bool plain) {
    const struct plamo *p = m->own;
    struct best best = { INT64_MAX, (uint32_t)n, -1 };
    uint32_t node = TRIE_ROOT;
    for (size_t i = at; i < word.len; i++) {
        node = trie_step(&p->trie, node, (uint8_t)word.at[i]);
        if (!node)
            break;
        int id = p->trie.value[node];
        if (id < 0 || (plain && vocab_is_command(m->vocab, id)))
            continue;
        int64_t cost = s->best[i + 1].cost + p->cost[id];
        if (cost <= best.cost)
            best = (struct best){ cost, (uint32_t)(i + 1 - at), id };
    }
    int64_t spelt = s->best[at + n].cost + COST_UNKNOWN;
    return spelt < best.cost ? (struct best){ spelt, (uint32_t)n, -1 } : best;
}

static void encode(const struct tok_model *m, void *space, struct str word, bool plain,
                   struct ids *out) {
    const struct plamo *p = m->own;
    struct space *s = space;
    uint32_t cp;
    if (word.len + 1 > s->cap) {
        s->cap = word.len + 1;
        s->best = mem_grow(s->best, s->cap, sizeof *s->best);
    }
    s->best[word.len] = (struct best){ 0 };
    for (size_t end = word.len; end;) {
        size_t n = (size_t)cp_before(word, end, &cp);
        end -= n;
        s->best[end] = best_at(m, s, word, end, n, plain);
    }
    for (size_t at = 0; at < word.len; at += s->best[at].len) {
        const struct best *b = &s->best[at];
        if (b->id >= 0)
            ids_put(out, b->id);
        for (size_t i = 0; b->id < 0 && i < b->len; i++)
            ids_put(out, p->of_byte[(uint8_t)word.at[at + i]]);
    }
}

static void close_model(struct tok_model *m) {
    struct plamo *p = m->own;
    if (!p)
        return;
    trie_free(&p->trie);
    free(p->cost);
    free(p);
}

const struct tok_model_kind model_plamo = {
    .type = "PLaMo", .space_new = space_new, .space_free = space_free, .encode = encode,
    .close = close_model,
};
