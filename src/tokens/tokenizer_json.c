/* tokenizer_json.c - reads tokenizer.json: one pass with the pull reader, no tree.
 *
 * "added_tokens" come before the model but need its vocabulary, and "merges" may come
 * before "vocab": their texts are kept as views and read again at the end. */
#include <stdlib.h>
#include <string.h>
#include "base/pull.h"
#include "tokens/decode.h"
#include "tokens/tokenizer.h"

struct reader {
    struct tokenizer *t;
    struct pull *j;
    struct err *err;
    struct parts processors;
    struct str added, model;         /* values to read later */
};

static bool bad(struct reader *r, const struct pull *j, size_t base, const char *where) {
    return err_set(r->err, "%s: %s at byte %zu", where, j->error ? j->error : "not understood",
                   base + j->offset);
}

struct added { struct buf text; unsigned flags; int normalized; };     /* -1: not given */

static bool added_field(struct pull *j, struct str key, struct added *a) {
    static const struct { const char *key; unsigned flag; } flags[] = {
        { "special", ADDED_SPECIAL }, { "lstrip", ADDED_LSTRIP }, { "rstrip", ADDED_RSTRIP },
        { "single_word", ADDED_SINGLE_WORD },
    };
    struct str s;
    uint64_t id;
    bool on = false;
    for (size_t i = 0; i < COUNT(flags); i++)
        if (str_is(key, flags[i].key)) {
            if (!pull_bool(j, &on))
                return false;
            a->flags |= on ? flags[i].flag : 0;
            return true;
        }
    if (str_is(key, "normalized")) {
        if (!pull_bool(j, &on))
            return false;
        a->normalized = on;
        return true;
    }
    if (str_is(key, "id"))           /* checked, and found anew by the text */
        return pull_u64(j, VOCAB_ID_MAX, &id);
    if (!str_is(key, "content"))
        return pull_skip(j);
    if (!pull_string(j, &s))
        return false;
    buf_clear(&a->text);
    buf_str(&a->text, s);
    return true;
}

bool tokenizer_added_read(struct tokenizer *t, struct pull *j, struct err *err) {
    struct added a = { .normalized = -1 };
    struct str key;
    bool content = false, done = pull_object(j);
    while (done && pull_key(j, &key)) {
        content |= str_is(key, "content");
        done = added_field(j, key, &a);
    }
    if (!j->error && !content)
        pull_fail(j, "an added token without content");
    if (a.normalized < 0)
        a.normalized = !(a.flags & ADDED_SPECIAL);
    done = done && !j->error && tokenizer_add(t, buf_view(&a.text), a.flags, a.normalized, err);
    buf_free(&a.text);
    return done;
}

static bool read_added(struct reader *r) {
    if (!r->added.len)
        return true;
    struct pull j = pull_open(r->added);
    bool done = pull_array(&j);
    while (done && pull_next(&j))
        done = tokenizer_added_read(r->t, &j, r->err);
    if (j.error)
        done = bad(r, &j, 0, "added_tokens");
    pull_close(&j);
    return done;
}

/* {"token": id, ...} */
static bool read_vocab(struct reader *r, struct pull *j) {
    struct vocab *v = &r->t->vocab;
    struct str key;
    uint64_t id = 0;
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        /* The key may lie in the scratch, which reading the number leaves alone. */
        if (!pull_u64(j, VOCAB_ID_MAX, &id))
            return err_set(r->err, "the token \"%.*s\" has an id that is no whole number below "
                           "2^24", STR_ARG(key));
        const char *wrong = vocab_alias(v, key, id);
        if (wrong)
            return err_set(r->err, "the token \"%.*s\" %s", STR_ARG(key), wrong);
    }
    int twice = vocab_index(v);
    return !j->error && (twice < 0
                         || err_set(r->err, "the token \"%.*s\" is listed twice",
                                    STR_ARG(vocab_text(v, twice))));
}

static const struct tok_model_kind *const kinds[] = {
    &model_bpe, &model_unigram, &model_wordpiece, &model_wordlevel,
};

static bool kind_of(struct reader *r, struct str type) {
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (str_is(type, kinds[i]->type))
            r->t->model.kind = kinds[i];
    if (r->t->model.kind && r->t->model.kind->prefix)
        r->t->model.prefix = str_of(r->t->model.kind->prefix);
    return r->t->model.kind
        || err_code(r->err, ERR_UNSUPPORTED, "unknown model type \"%.*s\"", STR_ARG(type));
}

/* A file without a type is old: the fields tell. */
static bool find_kind(struct reader *r) {
    struct pull j = pull_open(r->model);
    struct tok_model *m = &r->t->model;
    struct str key, type = { 0 };
    bool merges = false, done = pull_object(&j);
    while (done && pull_key(&j, &key)) {
        if (str_is(key, "type") && pull_peek(&j) == PULL_STRING) {
            done = pull_string(&j, &type) && kind_of(r, type);
        } else {
            merges |= str_is(key, "merges");
            done = pull_skip(&j);
        }
    }
    if (j.error)
        done = bad(r, &j, 0, "model");
    if (done && !m->kind) {
        m->kind = merges ? &model_bpe : NULL;
        done = m->kind || err_set(r->err, "the model has no type");
    }
    pull_close(&j);
    return done;
}

static bool read_text(struct reader *r, struct pull *j, struct str *out) {
    struct str s;
    if (pull_peek(j) == PULL_NULL)
        return pull_null(j);
    if (!pull_string(j, &s))
        return false;
    *out = (struct str){ arena_str(&r->t->arena, s), s.len };
    return true;
}

static bool read_flag(struct pull *j, bool *out) {
    return pull_peek(j) == PULL_NULL ? pull_null(j) : pull_bool(j, out);
}

static bool model_field(struct reader *r, struct pull *j, struct str key) {
    struct tok_model *m = &r->t->model;
    bool known = false;
    if (!m->kind->field(m, j, key, &known, r->err))
        return false;
    if (known)
        return true;
    if (str_is(key, "unk_token"))
        return read_text(r, j, &m->unk_token);
    if (str_is(key, "continuing_subword_prefix"))
        return read_text(r, j, &m->prefix);
    if (str_is(key, "end_of_word_suffix"))
        return read_text(r, j, &m->suffix);
    if (str_is(key, "fuse_unk"))
        return read_flag(j, &m->fuse_unk);
    if (str_is(key, "byte_fallback"))
        return read_flag(j, &m->byte_fallback);
    if (str_is(key, "ignore_merges"))
        return read_flag(j, &m->ignore_merges);
    return pull_skip(j);
}

/* The order in which files are written: the type first, the vocabulary before the merges. Read in
 * place. Any other order makes this stop, *ordered false, before anything was kept. */
static bool read_ordered(struct reader *r, bool *ordered) {
    struct tok_model *m = &r->t->model;
    struct pull *j = r->j;
    struct str key, type;
    bool merged = false, done;
    *ordered = false;
    if (!pull_object(j) || !pull_key(j, &key) || !str_is(key, "type"))
        return true;
    if (pull_peek(j) != PULL_STRING || !pull_string(j, &type) || !kind_of(r, type))
        return false;
    while (pull_key(j, &key)) {
        bool prefix = str_is(key, "continuing_subword_prefix");
        if (str_is(key, "merges")) {
            if (!r->t->vocab.count)
                return m->kind = NULL, true;
            merged = true;
        } else if (merged && prefix) {
            return err_code(r->err, ERR_UNSUPPORTED, "continuing_subword_prefix behind merges");
        }
        done = str_is(key, "vocab") && pull_peek(j) == PULL_OBJECT ? read_vocab(r, j)
            : model_field(r, j, key);
        if (!done)
            return false;
    }
    *ordered = true;
    return !j->error;
}

/* Two passes: the vocabulary and the rest need each other in this order. */
static bool read_unordered(struct reader *r) {
    struct tok_model *m = &r->t->model;
    bool done = find_kind(r);
    for (int pass = 0; done && pass < 2; pass++) {
        struct pull j = pull_open(r->model);
        struct str key;
        pull_object(&j);
        while (done && pull_key(&j, &key)) {
            bool vocab = str_is(key, "vocab") && pull_peek(&j) == PULL_OBJECT;
            if (pass == 0)
                done = vocab ? read_vocab(r, &j)
                    : str_is(key, "continuing_subword_prefix") ? read_text(r, &j, &m->prefix)
                    : pull_skip(&j);
            else
                done = vocab ? pull_skip(&j) : model_field(r, &j, key);
        }
        if (j.error && !r->err->code)
            done = bad(r, &j, 0, "model");
        done &= !j.error;
        pull_close(&j);
    }
    return done;
}

/* Where the reader stands; r->model gets the text when it must be read again later. */
static bool read_model(struct reader *r) {
    struct pull *j = r->j;
    bool ordered = false;
    if (r->t->model.kind || r->model.len)
        return err_set(r->err, "two models");
    if (pull_peek(j) != PULL_OBJECT)
        return pull_fail(j, "expected an object");
    size_t offset = j->offset;
    struct pull start = *j;
    if (!read_ordered(r, &ordered))
        return false;
    if (ordered || j->error)
        return !j->error;
    j->offset = offset;
    j->depth = start.depth;
    j->in_object = start.in_object;
    j->first = start.first;
    return pull_value(j, &r->model);
}

static bool finish_model(struct reader *r) {
    struct tok_model *m = &r->t->model;
    if (r->model.len && !read_unordered(r))
        return false;
    if (!r->t->vocab.count)
        return err_set(r->err, "the model has no vocabulary");
    if (m->unk_token.len)
        m->unk = vocab_find(m->vocab, m->unk_token);
    return m->kind->ready(m, r->err);
}

static bool frame_put(struct reader *r, int *list, int *n, bool front, int id) {
    if (*n == FRAME_MAX)
        return err_set(r->err, "post_processor: more than %d tokens", FRAME_MAX);
    if (front)
        memmove(list + 1, list, (size_t)*n * sizeof *list);
    list[front ? 0 : *n] = id;
    ++*n;
    return true;
}

/* Pieces before the text go before what earlier processors put there, hence back to front. */
static bool apply_template(struct reader *r, const struct part *p) {
    struct tokenizer *t = r->t;
    int text = -1;
    for (int i = 0; i < p->n_single; i++) {
        if (!p->single[i].is_text)
            continue;
        if (text >= 0)
            return err_code(r->err, ERR_UNSUPPORTED, "post_processor: the text twice");
        text = i;
    }
    if (text < 0)
        return err_set(r->err, "post_processor: a template without the text");
    for (int i = text - 1; i >= 0; i--)
        if (!frame_put(r, t->before, &t->n_before, true, p->single[i].id))
            return false;
    for (int i = text + 1; i < p->n_single; i++)
        if (!frame_put(r, t->after, &t->n_after, false, p->single[i].id))
            return false;
    return true;
}

static bool apply_processors(struct reader *r) {
    struct tokenizer *t = r->t;
    for (int n = 0; n < r->processors.n; n++) {
        struct part *p = &r->processors.at[n];
        if (str_is(p->type, "ByteLevel"))
            continue;                /* moves offsets only */
        if (str_is(p->type, "TemplateProcessing")) {
            for (int k = 0; k < p->n_single; k++) {
                struct template_piece *piece = &p->single[k];
                for (int i = 0; i < p->n_special; i++)
                    if (str_eq(p->special[i].name, piece->token))
                        piece->id = p->special[i].id;
                if (!piece->is_text && piece->id < 0)
                    return err_set(r->err, "post_processor: no id for the token \"%.*s\"",
                                   STR_ARG(piece->token));
            }
            if (!apply_template(r, p))
                return false;
        } else if (str_is(p->type, "RobertaProcessing") || str_is(p->type, "BertProcessing")) {
            if (p->cls < 0 || p->sep < 0)
                return err_set(r->err, "post_processor: %.*s without cls or sep",
                               STR_ARG(p->type));
            if (!frame_put(r, t->before, &t->n_before, true, p->cls)
                || !frame_put(r, t->after, &t->n_after, false, p->sep))
                return false;
        } else {
            return err_code(r->err, ERR_UNSUPPORTED, "unknown post_processor \"%.*s\"",
                            STR_ARG(p->type));
        }
    }
    return true;
}

static bool read_top(struct reader *r) {
    struct tokenizer *t = r->t;
    struct pull *j = r->j;
    struct str key, s;
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        bool done;
        if (str_is(key, "version")) {
            done = pull_string(j, &s);
            if (done && !str_is(s, "1.0"))
                return err_code(r->err, ERR_UNSUPPORTED, "version \"%.*s\" is not 1.0",
                                STR_ARG(s));
        } else if (str_is(key, "added_tokens"))
            done = pull_peek(j) == PULL_NULL ? pull_null(j) : pull_value(j, &r->added);
        else if (str_is(key, "model"))
            done = read_model(r);
        else if (str_is(key, "normalizer"))
            done = parts_read(&t->normalizers, j, &t->arena, "normalizer", r->err);
        else if (str_is(key, "pre_tokenizer"))
            done = parts_read(&t->presplits, j, &t->arena, "pre_tokenizer", r->err);
        else if (str_is(key, "decoder"))
            done = parts_read(&t->decoders, j, &t->arena, "decoder", r->err);
        else if (str_is(key, "post_processor"))
            done = parts_read(&r->processors, j, &t->arena, "post_processor", r->err);
        else
            done = pull_skip(j);
        if (!done)
            return false;
    }
    return pull_end(j);
}

bool tokenizer_json_read(struct tokenizer *t, struct str text, struct err *err) {
    struct pull j = pull_open(text);
    struct reader r = { .t = t, .j = &j, .err = err };
    bool done = read_top(&r);
    if (!done && !err->code)
        bad(&r, &j, 0, "tokenizer.json");
    if (done && !r.model.len && !t->model.kind)
        done = err_set(err, "no model");
    done = done && normalize_bind(&t->normalizers, err) && presplit_bind(&t->presplits, err)
        && decode_bind(&t->decoders, err) && finish_model(&r) && read_added(&r)
        && apply_processors(&r);
    if (!done && !err->code)
        err_set(err, "not understood");
    parts_free(&r.processors);
    pull_close(&j);
    return done;
}
