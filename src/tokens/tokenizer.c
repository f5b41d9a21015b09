/* tokenizer.c - opening by directory, and the path from text to ids and back.
 *
 * Encoding: added tokens that are looked for in the text as it is cut it into segments; each
 * segment is normalized, cut at the other added tokens, pre-tokenized, and its words go to the
 * model. */
#include "tokens/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/utf8.h"
#include "tokens/build.h"
#include "tokens/decode.h"

/* Offsets have 32 bits, one of them is a flag, and byte stand-ins double a text: what lies beyond
 * is not encoded. */
enum { TEXT_BYTES_MAX = 1 << 28, FILE_BYTES_MAX = 1 << 30,
       GGUF_HEAD_MAX = 1 << 28, GGUF_STEP = 1 << 23 };

void ids_put(struct ids *ids, int id) {
    if (ids->len == ids->cap) {
        ids->cap = ids->cap ? ids->cap * 2 : 64;
        ids->at = mem_grow(ids->at, (size_t)ids->cap, sizeof *ids->at);
    }
    ids->at[ids->len++] = id;
}

void ids_free(struct ids *ids) {
    free(ids->at);
    *ids = (struct ids){ 0 };
}

bool tokenizer_add(struct tokenizer *t, struct str text, unsigned flags, bool normalized,
                   struct err *err) {
    if (!text.len)
        return true;                 /* ignored by the original as well */
    if (text.len > ADDED_BYTES_MAX)
        return err_set(err, "an added token of %zu bytes: more than %d", text.len,
                       ADDED_BYTES_MAX);
    if (added_count(t->raw) + added_count(t->normalized) >= ADDED_MAX)
        return err_set(err, "more than %d added tokens", ADDED_MAX);
    int id = vocab_find(&t->vocab, text);
    if (id < 0) {
        /* The next one is counted from the model's tokens, even where ids leave gaps; a taken
         * number is passed over. */
        uint64_t next = MAX((uint64_t)t->vocab.count, t->next_id);
        while (vocab_flags(&t->vocab, (int)next) & VOCAB_HERE)
            next++;
        t->next_id = next;
        const char *wrong = vocab_put(&t->vocab, text, next);
        if (wrong)
            return err_set(err, "added token \"%.*s\" %s", STR_ARG(text), wrong);
        id = (int)next;
    }
    vocab_mark(&t->vocab, id,
               (uint8_t)(VOCAB_ADDED | (flags & ADDED_SPECIAL ? VOCAB_CONTROL : 0)));
    struct text form = { 0 }, spare = { 0 };
    buf_str(&form.bytes, text);
    if (normalized)
        normalize_run(&t->normalizers, &form, &spare);
    /* One that its normalizers leave nothing of, or too much, is never found in a text. */
    added_drop(normalized ? t->raw : t->normalized, text);
    bool done = added_put(normalized ? t->normalized : t->raw, buf_view(&form.bytes), id, flags)
        || form.bytes.len != text.len || err_set(err, "the added tokens are too long");
    text_free(&form);
    text_free(&spare);
    return done;
}

bool tokenizer_ready(struct tokenizer *t, struct err *err) {
    if (!t->model.kind)
        return err_set(err, "the tokenizer has no model");
    t->model.bytes = presplit_gives_bytes(&t->presplits);
    t->track = presplit_needs_origin(&t->presplits) || normalize_needs_origin(&t->normalizers)
        || added_has_special(t->normalized);
    for (int i = 0; i < t->n_before + t->n_after; i++) {
        int id = i < t->n_before ? t->before[i] : t->after[i - t->n_before];
        if (!(vocab_flags(&t->vocab, id) & VOCAB_HERE))
            return err_set(err, "post_processor: id %d is not in the vocabulary", id);
    }
    return true;
}

static bool read_into(struct tokenizer *t, const char *path, const char *what,
                      bool (*read)(struct tokenizer *, struct str, struct err *), struct err *err) {
    struct buf file = { 0 };
    bool done = buf_read_file(&file, path, FILE_BYTES_MAX, err);
    if (done && !read(t, buf_view(&file), err)) {
        struct err why = *err;
        *err = (struct err){ 0 };
        done = err_code(err, why.code, "%s: %s", path, why.text[0] ? why.text : what);
    }
    buf_free(&file);
    return done;
}

static bool exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

/* Llama 3 and Kimi name a tiktoken file as SentencePiece does; only its first bytes tell. */
static bool model_read(struct tokenizer *t, struct str file, struct err *err) {
    bool text = file.len > 2 && (uint8_t)file.at[0] >= '+';
    return text ? tiktoken_read(t, file, build_pre_find(S("llama3")), err)
        : sentencepiece_read(t, file, err);
}

static bool kimi_read(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("kimi-k2")), err);
}

static bool qwen_read(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("qwen2")), err);
}

static bool cl100k_read(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("cl100k")), err);
}

static bool o200k_read(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("o200k")), err);
}

/* In the order in which a folder is searched. */
static const struct format {
    const char *name;
    bool (*read)(struct tokenizer *, struct str, struct err *);
} formats[] = {
    { "tokenizer.json", tokenizer_json_read }, { "tekken.json", tekken_read },
    { "tiktoken.model", kimi_read }, { "qwen.tiktoken", qwen_read },
    { "cl100k_base.tiktoken", cl100k_read }, { "o200k_base.tiktoken", o200k_read },
    { "rwkv_vocab_v20230424.txt", rwkv_read }, { "tokenizer.jsonl", plamo_read },
    { "tokenizer.model", model_read },
};

/* The metadata of a GGUF file comes before its tensors, which are not read. */
static bool gguf_read(struct tokenizer *t, const char *path, struct err *err) {
    FILE *f = fopen(path, "rb");
    struct buf file = { 0 };
    char *part = mem_new(GGUF_STEP);
    size_t n = 1;
    if (!f)
        err_set(err, "%s: cannot be opened", path);
    while (f && n && file.len < GGUF_HEAD_MAX && !gguf_head_whole(buf_view(&file))) {
        n = fread(part, 1, GGUF_STEP, f);
        buf_put(&file, part, n);
    }
    if (f)
        fclose(f);
    struct err why = { 0 };
    bool done = f && gguf_vocab_read(t, buf_view(&file), &why);
    if (f && !done)
        err_code(err, why.code, "%s: %s", path, why.text);
    free(part);
    buf_free(&file);
    return done;
}

static bool read_any(struct tokenizer *t, const char *dir, struct err *err) {
    struct buf path = { 0 };
    struct stat s;
    if (stat(dir, &s) == 0 && S_ISREG(s.st_mode))
        return str_ends(str_of(dir), ".gguf") ? gguf_read(t, dir, err)
            : err_code(err, ERR_UNSUPPORTED, "%s: neither a folder nor a GGUF file", dir);
    for (size_t i = 0; i < COUNT(formats); i++) {
        buf_clear(&path);
        buf_format(&path, "%s/%s", dir, formats[i].name);
        if (!exists(buf_c(&path)))
            continue;
        bool done = read_into(t, buf_c(&path), "not a tokenizer", formats[i].read, err);
        buf_free(&path);
        return done;
    }
    buf_free(&path);
    return err_code(err, ERR_NOT_FOUND, "%s: no tokenizer.json, nor another tokenizer file", dir);
}

struct tokenizer *tokenizer_blank(void) {
    struct tokenizer *t = mem_new(sizeof *t);
    t->bos = t->eos = t->model.unk = -1;
    t->model.vocab = &t->vocab;
    t->raw = added_new();
    t->normalized = added_new();
    return t;
}

struct tokenizer *tok_open(const char *dir, struct err *err) {
    struct tokenizer *t = tokenizer_blank();
    struct buf path = { 0 };
    struct err own = { 0 };
    bool done = read_any(t, dir, &own);
    buf_format(&path, "%s/tokenizer_config.json", dir);
    if (done && exists(buf_c(&path)))
        done = read_into(t, buf_c(&path), "not understood", tokenizer_config_read, &own);
    buf_clear(&path);
    buf_format(&path, "%s/special_tokens_map.json", dir);
    if (done && (t->bos < 0 || t->eos < 0) && exists(buf_c(&path)))
        done = read_into(t, buf_c(&path), "not understood", tokenizer_special_map_read, &own);
    buf_free(&path);
    if (done)
        done = tokenizer_ready(t, &own);
    if (done)
        return t;
    err_code(err, own.code, "%s", own.text);
    tok_close(t);
    return NULL;
}

void tok_close(struct tokenizer *t) {
    if (!t)
        return;
    if (t->model.kind)
        t->model.kind->close(&t->model);
    added_free(t->raw);
    added_free(t->normalized);
    parts_free(&t->normalizers);
    parts_free(&t->presplits);
    parts_free(&t->decoders);
    vocab_free(&t->vocab);
    arena_free(&t->arena);
    free(t);
}

int tok_vocab(const struct tokenizer *t) { return t->vocab.n; }
int tok_find(const struct tokenizer *t, struct str s) { return vocab_find(&t->vocab, s); }
struct str tok_text(const struct tokenizer *t, int id) { return vocab_text(&t->vocab, id); }
int tok_bos(const struct tokenizer *t) { return t->bos; }
int tok_eos(const struct tokenizer *t) { return t->eos; }

const char *tok_type(const struct tokenizer *t) { return t->model.kind->type; }

bool tok_is_control(const struct tokenizer *t, int id) {
    return vocab_flags(&t->vocab, id) & VOCAB_CONTROL;
}

bool tok_is_added(const struct tokenizer *t, int id) {
    return vocab_flags(&t->vocab, id) & VOCAB_ADDED;
}

/* One call of tok_encode. */
struct encoding {
    const struct tokenizer *t;
    bool specials;
    bool plain;                      /* users wrote some of this segment */
    const struct literal_span *span;
    int n_spans;
    struct text text, spare;
    struct pieces pieces;
    struct presplit_space split;
    void *model_space;
    struct ids *out;
};

/* Offsets are of the caller's text. Spans are ordered: the first that ends behind `begin`
 * decides. */
static bool allowed_at(const struct encoding *e, size_t begin, size_t end) {
    int low = 0, high = e->n_spans;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (e->span[mid].end > begin)
            high = mid;
        else
            low = mid + 1;
    }
    return e->specials && (low == e->n_spans || e->span[low].begin >= end);
}

static bool allowed_raw(void *to, size_t begin, size_t end) {
    return allowed_at(to, begin, end);
}

static bool allowed_normalized(void *to, size_t begin, size_t end) {
    const struct encoding *e = to;
    size_t last = text_origin(&e->text, end - 1);
    return allowed_at(e, text_origin(&e->text, begin), last + 1);
}

/* What stands for the unknown is no command, but where it is the same token as bos or eos. */
static bool is_command(const struct tokenizer *t, int id) {
    return vocab_is_command(&t->vocab, id)
        && (id != t->model.unk || id == t->bos || id == t->eos);
}

/* A model may spell control tokens by itself: their pieces lie among the others. In a segment
 * where users wrote, such a word is encoded again without them, and nothing is left of what then
 * still is one. */
static void encode_word(struct encoding *e, struct str word) {
    const struct tokenizer *t = e->t;
    struct ids *out = e->out;
    int before = out->len, n = before;
    t->model.kind->encode(&t->model, e->model_space, word, false, out);
    while (e->plain && n < out->len && !is_command(t, out->at[n]))
        n++;
    if (!e->plain || n == out->len)
        return;
    out->len = n = before;
    t->model.kind->encode(&t->model, e->model_space, word, true, out);
    for (int i = before; i < out->len; i++)
        if (!is_command(t, out->at[i]))
            out->at[n++] = out->at[i];
    out->len = n;
}

/* The words of part [begin, end) of the normalized segment, which has no added token. */
static void encode_part(struct encoding *e, size_t begin, size_t end) {
    const struct tokenizer *t = e->t;
    if (begin >= end)
        return;
    /* Steps that write a new text write it for the pieces they are given only, so the segment is
     * kept whole beside it as long as parts of it are to come. */
    struct text part = { .track = t->track, .max = text_bound(end - begin) };
    struct text *text = &part;
    text_copy(text, &e->text, begin, end);
    e->pieces.n = 0;
    pieces_put(&e->pieces, 0, end - begin);
    presplit_run(&t->presplits, text, &e->pieces, &e->split);
    struct str s = buf_view(&text->bytes);
    for (size_t i = 0; i < e->pieces.n; i++)
        encode_word(e, str_cut(s, e->pieces.at[i].begin, e->pieces.at[i].end));
    text_free(&part);
}

static void encode_segment(struct encoding *e, struct str segment, size_t offset) {
    const struct tokenizer *t = e->t;
    if (!segment.len)
        return;
    e->plain = !allowed_at(e, offset, offset + segment.len);
    text_clear(&e->text);
    e->text.track = e->spare.track = t->track;
    e->text.max = text_bound(segment.len);
    if (t->track)
        for (size_t i = 0; i < segment.len;) {
            uint32_t cp;
            size_t n = (size_t)cp_at(segment, i, &cp);
            text_put(&e->text, segment.at + i, n, (uint32_t)(offset + i));
            i += n;
        }
    else
        buf_str(&e->text.bytes, segment);
    normalize_run(&t->normalizers, &e->text, &e->spare);
    struct added_query q = { .set = t->normalized, .text = buf_view(&e->text.bytes),
                             .allowed = allowed_normalized, .to = e };
    struct added_match m;
    size_t done = 0;
    while (added_next(&q, &m)) {
        encode_part(e, done, m.begin);
        ids_put(e->out, m.id);
        done = m.end;
    }
    encode_part(e, done, e->text.bytes.len);
}

static void encode_all(struct encoding *e, struct str text) {
    struct added_query q = { .set = e->t->raw, .text = text, .allowed = allowed_raw, .to = e };
    struct added_match m;
    size_t done = 0;
    while (added_next(&q, &m)) {
        if (m.begin > done)
            encode_segment(e, str_cut(text, done, m.begin), done);
        ids_put(e->out, m.id);
        done = m.end;
    }
    encode_segment(e, str_from(text, done), done);
}

/* Spans of the repaired text: a bad sequence becomes three bytes, so offsets move. Repairs the
 * stretches between the spans' ends one by one. */
static struct literal_span *repair(struct str text, const struct literal_span *span, int n,
                                   struct buf *out) {
    struct literal_span *moved = mem_array((size_t)n + 1, sizeof *moved);
    size_t done = 0;
    for (int i = 0; i < n; i++) {
        utf8_repair(out, str_cut(text, done, span[i].begin));
        moved[i].begin = out->len;
        utf8_repair(out, str_cut(text, span[i].begin, span[i].end));
        moved[i].end = out->len;
        done = span[i].end;
    }
    utf8_repair(out, str_from(text, done));
    return moved;
}

void tok_encode(const struct tokenizer *t, struct str text, unsigned flags,
                const struct literal_span *span, int n_spans, struct ids *out) {
    struct buf repaired = { 0 };
    struct literal_span *moved = NULL;
    text = str_cut(text, 0, TEXT_BYTES_MAX);
    if (!utf8_valid(text)) {
        span = moved = repair(text, span, n_spans, &repaired);
        text = buf_view(&repaired);
    }
    struct encoding e = { .t = t, .specials = flags & TOK_SPECIALS, .span = span,
                          .n_spans = n_spans, .out = out };
    e.model_space = t->model.kind->space_new(&t->model);
    for (int i = 0; (flags & TOK_ADD_BOS) && i < t->n_before; i++)
        ids_put(out, t->before[i]);
    encode_all(&e, text);
    for (int i = 0; (flags & TOK_ADD_BOS) && i < t->n_after; i++)
        ids_put(out, t->after[i]);
    t->model.kind->space_free(e.model_space);
    text_free(&e.text);
    text_free(&e.spare);
    pieces_free(&e.pieces);
    presplit_free(&e.split);
    buf_free(&repaired);
    free(moved);
}

struct detok { const struct tokenizer *t; bool specials; struct decode *chain; };

struct detok *detok_open(const struct tokenizer *t, bool specials) {
    struct detok *d = mem_new(sizeof *d);
    *d = (struct detok){ t, specials, decode_open(&t->decoders) };
    return d;
}

void detok_push(struct detok *d, int id, struct buf *out) {
    uint8_t flags = vocab_flags(&d->t->vocab, id);
    if (!(flags & VOCAB_HERE) || ((flags & VOCAB_CONTROL) && !d->specials))
        return;
    decode_push(d->chain, vocab_text(&d->t->vocab, id), out);
}

void detok_flush(struct detok *d, struct buf *out) {
    decode_flush(d->chain, out);
}

void detok_close(struct detok *d) {
    if (!d)
        return;
    decode_close(d->chain);
    free(d);
}

void tok_decode(const struct tokenizer *t, const int *ids, int n, bool specials, struct buf *out) {
    struct detok *d = detok_open(t, specials);
    for (int i = 0; i < n; i++)
        detok_push(d, ids[i], out);
    detok_flush(d, out);
    detok_close(d);
}
