/* gguf_vocab.c - the vocabulary inside a GGUF file: its metadata, not its tensors.
 *
 * Keys are walked once; of the arrays of tokens, scores, types and merges the places are kept and
 * checked while walking, then read again. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "tokens/build.h"
#include "tokens/decode.h"

enum kind { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
enum { KEYS_MAX = 1 << 16, ITEMS_MAX = 1 << 24 };

struct array { enum kind kind; uint64_t n; struct str data; };

struct gguf {
    struct str rest;
    struct str model, pre, charsmap;
    struct array tokens, scores, types, merges;
    int64_t bos, eos, unk, cls, sep;     /* -1: none given */
    int add_bos, add_eos, space_prefix, extra_spaces;    /* -1: none given */
};

static bool take(struct str *s, size_t n, void *out) {
    if (s->len < n)
        return false;
    memcpy(out, s->at, n);
    *s = str_from(*s, n);
    return true;
}

static bool take_text(struct str *s, struct str *out) {
    uint64_t n;
    if (!take(s, sizeof n, &n) || n > s->len)
        return false;
    *out = str_cut(*s, 0, (size_t)n);
    *s = str_from(*s, (size_t)n);
    return true;
}

/* 0: not of a fixed size. */
static size_t size_of(uint32_t kind) {
    static const uint8_t sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return kind < COUNT(sizes) ? sizes[kind] : 0;
}

static bool take_array(struct str *s, struct array *out) {
    uint32_t kind;
    uint64_t n;
    struct str text;
    if (!take(s, sizeof kind, &kind) || !take(s, sizeof n, &n) || n > ITEMS_MAX)
        return false;
    struct str begin = *s;
    size_t size = size_of(kind);
    if (kind == STRING) {
        for (uint64_t i = 0; i < n; i++)
            if (!take_text(s, &text))
                return false;
    } else if (!size || n > s->len / size) {
        return false;                /* lists of lists are in no vocabulary */
    } else {
        *s = str_from(*s, (size_t)n * size);
    }
    *out = (struct array){ (enum kind)kind, n, str_cut(begin, 0, begin.len - s->len) };
    return true;
}

static bool take_number(struct str *s, uint32_t kind, int64_t *out) {
    size_t size = size_of(kind);
    uint64_t v = 0;
    if (!size || !take(s, size, &v))
        return false;
    *out = kind == I32 ? (int32_t)(uint32_t)v : kind == F32 || kind == F64 || v > INT64_MAX ? 0
        : (int64_t)v;
    return true;
}

static bool take_value(struct gguf *g, struct str key, uint32_t kind) {
    static const struct { const char *key; size_t at; } texts[] = {
        { "model", offsetof(struct gguf, model) }, { "pre", offsetof(struct gguf, pre) },
    };
    static const struct { const char *key; size_t at; } arrays[] = {
        { "tokens", offsetof(struct gguf, tokens) }, { "scores", offsetof(struct gguf, scores) },
        { "token_type", offsetof(struct gguf, types) },
        { "merges", offsetof(struct gguf, merges) },
    };
    static const struct { const char *key; size_t at; } flags[] = {
        { "add_bos_token", offsetof(struct gguf, add_bos) },
        { "add_eos_token", offsetof(struct gguf, add_eos) },
        { "add_space_prefix", offsetof(struct gguf, space_prefix) },
        { "remove_extra_whitespaces", offsetof(struct gguf, extra_spaces) },
    };
    static const struct { const char *key; size_t at; } ids[] = {
        { "bos_token_id", offsetof(struct gguf, bos) },
        { "eos_token_id", offsetof(struct gguf, eos) },
        { "unknown_token_id", offsetof(struct gguf, unk) },
        { "cls_token_id", offsetof(struct gguf, cls) },
        { "seperator_token_id", offsetof(struct gguf, sep) },    /* spelt so in the format */
    };
    bool ours = str_starts(key, "tokenizer.ggml.");
    struct str text, name = ours ? str_from(key, strlen("tokenizer.ggml.")) : key;
    struct array array;
    int64_t number;
    if (kind == STRING) {
        if (!take_text(&g->rest, &text))
            return false;
        for (size_t i = 0; ours && i < COUNT(texts); i++)
            if (str_is(name, texts[i].key))
                *(struct str *)((char *)g + texts[i].at) = text;
        return true;
    }
    if (kind == ARRAY) {
        if (!take_array(&g->rest, &array))
            return false;
        for (size_t i = 0; ours && i < COUNT(arrays); i++)
            if (str_is(name, arrays[i].key))
                *(struct array *)((char *)g + arrays[i].at) = array;
        if (ours && str_is(name, "precompiled_charsmap") && size_of(array.kind) == 1)
            g->charsmap = array.data;
        return true;
    }
    if (!take_number(&g->rest, kind, &number))
        return false;
    for (size_t i = 0; ours && i < COUNT(flags); i++)
        if (str_is(name, flags[i].key))
            *(int *)((char *)g + flags[i].at) = number != 0;
    for (size_t i = 0; ours && i < COUNT(ids); i++)
        if (str_is(name, ids[i].key))
            *(int64_t *)((char *)g + ids[i].at) = number;
    return true;
}

static bool walk(struct gguf *g, struct err *err) {
    uint32_t magic, version, kind;
    uint64_t tensors, keys;
    struct str key;
    if (!take(&g->rest, 4, &magic) || memcmp(&magic, "GGUF", 4) || !take(&g->rest, 4, &version)
        || version < 2 || version > 3)
        return err_set(err, "not a GGUF file of version 2 or 3");
    if (!take(&g->rest, 8, &tensors) || !take(&g->rest, 8, &keys) || keys > KEYS_MAX)
        return err_set(err, "a GGUF file with a broken head");
    for (uint64_t i = 0; i < keys; i++) {
        if (!take_text(&g->rest, &key) || !take(&g->rest, 4, &kind))
            return err_set(err, "key %llu of the GGUF file is cut off", (unsigned long long)i);
        if (!take_value(g, key, kind))
            return err_set(err, "the value of \"%.*s\" is broken or cut off", STR_ARG(key));
    }
    return true;
}

static struct build_piece *pieces(const struct gguf *g) {
    struct build_piece *piece = mem_array((size_t)g->tokens.n + 1, sizeof *piece);
    struct str s = g->tokens.data;
    for (size_t i = 0; i < g->tokens.n; i++) {
        int32_t type = PIECE_NORMAL;
        float score = 0;
        take_text(&s, &piece[i].text);
        if (g->scores.kind == F32 && i < g->scores.n)
            memcpy(&score, g->scores.data.at + i * 4, 4);
        if (size_of(g->types.kind) == 4 && i < g->types.n)
            memcpy(&type, g->types.data.at + i * 4, 4);
        piece[i].score = (double)score;
        piece[i].type = type >= PIECE_NORMAL && type <= PIECE_BYTE ? (enum piece_type)type
            : PIECE_UNUSED;
    }
    return piece;
}

static bool add_special(struct tokenizer *t, const struct build_piece *p, size_t n,
                        struct err *err) {
    for (size_t i = 0; i < n; i++)
        if (p[i].type == PIECE_CONTROL || p[i].type == PIECE_USER)
            if (!tokenizer_add(t, p[i].text, p[i].type == PIECE_CONTROL ? ADDED_SPECIAL : 0,
                               false, err))
                return false;
    return true;
}

static bool put_all(struct tokenizer *t, const struct build_piece *p, size_t n, struct err *err) {
    for (size_t i = 0; i < n; i++) {
        const char *wrong = vocab_put(&t->vocab, p[i].text, i);
        if (wrong)
            return err_set(err, "the token \"%.*s\" %s", STR_ARG(p[i].text), wrong);
    }
    return true;
}

static bool read_bpe(struct tokenizer *t, const struct gguf *g, const struct build_piece *p,
                     struct err *err) {
    const struct build_pre *pre = build_pre_find(g->pre.len ? g->pre : S("default"));
    struct str s = g->merges.data, text;
    int n = 0;
    if (!pre)
        return err_code(err, ERR_UNSUPPORTED, "unknown pre-tokenizer \"%.*s\"", STR_ARG(g->pre));
    if (g->merges.kind != STRING)
        return err_set(err, "no tokenizer.ggml.merges");
    t->model.kind = &model_bpe;
    t->model.ignore_merges = pre->whole_words;
    if (!put_all(t, p, (size_t)g->tokens.n, err))
        return false;
    for (uint64_t i = 0; i < g->merges.n; i++) {
        take_text(&s, &text);
        const char *gap = text.len > 1 ? memchr(text.at + 1, ' ', text.len - 1) : NULL;
        size_t at = gap ? (size_t)(gap - text.at) : 0;
        if (!at)
            return err_set(err, "the merge \"%.*s\" is not two parts", STR_ARG(text));
        if (!bpe_add_merge(&t->model, str_cut(text, 0, at), str_from(text, at + 1), err))
            return false;
    }
    bpe_no_more_merges(&t->model);
    while (n < 4 && pre->regex[n])
        n++;
    return t->model.kind->ready(&t->model, err)
        && build_byte_level(t, pre->regex, n, pre->digits, err)
        && add_special(t, p, (size_t)g->tokens.n, err);
}

/* Here words begin with U+2581 and what goes on has no sign; WordPiece is told the other way. */
static bool read_wordpiece(struct tokenizer *t, const struct gguf *g, const struct build_piece *p,
                           struct err *err) {
    struct buf text = { 0 };
    bool done = true;
    t->model.kind = &model_wordpiece;
    t->model.prefix = S("##");
    for (size_t i = 0; done && i < g->tokens.n; i++) {
        buf_clear(&text);
        if (p[i].type != PIECE_NORMAL)
            buf_str(&text, p[i].text);
        else if (str_starts(p[i].text, "\xe2\x96\x81"))
            buf_str(&text, str_from(p[i].text, 3));
        else
            buf_format(&text, "##%.*s", (int)MIN(p[i].text.len, (size_t)1 << 16), p[i].text.at);
        const char *wrong = vocab_put(&t->vocab, buf_view(&text), i);
        if (wrong)
            done = err_set(err, "the token \"%.*s\" %s", STR_ARG(p[i].text), wrong);
    }
    buf_free(&text);
    t->model.unk = g->unk >= 0 && g->unk < t->vocab.n ? (int)g->unk
        : vocab_find(&t->vocab, S("[UNK]"));
    return done && t->model.kind->ready(&t->model, err)
        && build_parts(t, &t->normalizers, "{\"type\":\"BertNormalizer\",\"clean_text\":true,"
                       "\"handle_chinese_chars\":true,\"lowercase\":true}", err)
        && normalize_bind(&t->normalizers, err)
        && build_parts(t, &t->presplits, "{\"type\":\"BertPreTokenizer\"}", err)
        && presplit_bind(&t->presplits, err)
        && build_parts(t, &t->decoders, "{\"type\":\"WordPiece\"}", err)
        && decode_bind(&t->decoders, err) && add_special(t, p, (size_t)g->tokens.n, err);
}

static bool read_pieces(struct tokenizer *t, const struct gguf *g, const struct build_piece *p,
                        bool unigram, struct err *err) {
    struct build_spm spm = {
        .piece = p, .n = (size_t)g->tokens.n, .unigram = unigram, .byte_fallback = true,
        .dummy_prefix = g->space_prefix != 0, .remove_extra_spaces = g->extra_spaces == 1,
        .unk = g->unk >= 0 ? (int)MIN(g->unk, VOCAB_ID_MAX) : -1, .bos = -1, .eos = -1,
        .charsmap = g->charsmap,
    };
    return build_sentencepiece(t, &spm, err);
}

/* repr() of Python's bytes without b and quotes. 0: an escape that it does not write. */
static size_t unescape(struct str s, struct buf *out) {
    static const char from[] = "tnr\\'\"", to[] = "\t\n\r\\'\"";
    static const char digits[] = "0123456789abcdef";
    if (s.at[0] != '\\' || s.len < 2) {
        buf_char(out, s.at[0]);
        return s.at[0] != '\\';
    }
    const char *plain = s.at[1] ? strchr(from, s.at[1]) : NULL;
    if (plain) {
        buf_char(out, to[plain - from]);
        return 2;
    }
    const char *high = s.len >= 4 && s.at[2] ? strchr(digits, s.at[2]) : NULL;
    const char *low = high && s.at[3] ? strchr(digits, s.at[3]) : NULL;
    if (s.at[1] != 'x' || !low)
        return 0;
    buf_char(out, (char)((high - digits) << 4 | (low - digits)));
    return 4;
}

static bool read_rwkv(struct tokenizer *t, const struct gguf *g, const struct build_piece *p,
                      struct err *err) {
    struct buf bytes = { 0 };
    bool done = true;
    for (size_t i = 0; done && i < g->tokens.n; i++) {
        if (p[i].type != PIECE_NORMAL) {
            const char *wrong = vocab_put(&t->vocab, p[i].text, i);
            done = !wrong || err_set(err, "the token \"%.*s\" %s", STR_ARG(p[i].text), wrong);
            continue;
        }
        buf_clear(&bytes);
        size_t n = 1;
        for (struct str s = p[i].text; s.len && n; s = str_from(s, n))
            n = unescape(s, &bytes);
        done = (n && bytes.len) || err_set(err, "the token \"%.*s\" is not escaped bytes",
                                           STR_ARG(p[i].text));
        done = done && build_rwkv_put(t, buf_view(&bytes), i, err);
    }
    buf_free(&bytes);
    return done && build_rwkv_done(t, err) && add_special(t, p, (size_t)g->tokens.n, err);
}

static struct gguf gguf_of(struct str file) {
    return (struct gguf){ .rest = file, .bos = -1, .eos = -1, .unk = -1, .cls = -1, .sep = -1,
                          .add_bos = -1, .add_eos = -1, .space_prefix = -1, .extra_spaces = -1 };
}

bool gguf_head_whole(struct str file) {
    struct gguf g = gguf_of(file);
    struct err err = { 0 };
    return walk(&g, &err);
}

/* BERT's texts stand between [CLS] and [SEP]. */
static void bert_frame(const struct tokenizer *t, struct gguf *g) {
    g->bos = g->cls >= 0 ? g->cls : g->bos >= 0 ? g->bos : vocab_find(&t->vocab, S("[CLS]"));
    g->eos = g->sep >= 0 ? g->sep : g->eos >= 0 ? g->eos : vocab_find(&t->vocab, S("[SEP]"));
}

bool gguf_vocab_read(struct tokenizer *t, struct str file, struct err *err) {
    struct gguf g = gguf_of(file);
    if (!walk(&g, err))
        return false;
    if (!g.model.len || str_is(g.model, "none") || str_is(g.model, "no_vocab"))
        return err_code(err, ERR_UNSUPPORTED, "the GGUF file has no vocabulary: its model works "
                        "on ids only");
    if (g.tokens.kind != STRING || !g.tokens.n)
        return err_set(err, "no tokenizer.ggml.tokens");
    struct build_piece *p = pieces(&g);
    bool done, llama = str_is(g.model, "llama"), bert = str_is(g.model, "bert");
    bool t5 = str_is(g.model, "t5");
    if (str_is(g.model, "gpt2"))
        done = read_bpe(t, &g, p, err);
    else if (llama || t5)
        done = read_pieces(t, &g, p, !llama, err);
    else if (bert)
        done = read_wordpiece(t, &g, p, err);
    else if (str_is(g.model, "rwkv"))
        done = read_rwkv(t, &g, p, err);
    else if (str_is(g.model, "plamo2"))
        done = build_plamo(t, p, (size_t)g.tokens.n, err);
    else
        done = err_code(err, ERR_UNSUPPORTED, "unknown tokenizer.ggml.model \"%.*s\"",
                        STR_ARG(g.model));
    free(p);
    if (!done)
        return false;
    const struct build_pre *pre = str_is(g.model, "gpt2") ? build_pre_find(g.pre) : NULL;
    if (bert)
        bert_frame(t, &g);
    if (g.bos >= t->vocab.n || g.eos >= t->vocab.n)
        return err_set(err, "the id of bos or eos is not in the vocabulary");
    t->bos = (int)MAX(g.bos, -1);
    t->eos = (int)MAX(g.eos, -1);
    bool before = g.add_bos < 0 ? llama || bert || (pre && pre->bos) : g.add_bos;
    t->n_before = before && t->bos >= 0;
    t->before[0] = t->bos;
    bool after = g.add_eos < 0 ? t5 || bert : g.add_eos;
    t->n_after = after && t->eos >= 0;
    t->after[0] = t->eos;
    return true;
}
