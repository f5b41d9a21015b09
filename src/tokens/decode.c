/* decode.c - the decoders of tokenizer.json, each a row of one table, as a chain.
 *
 * A step gets one token at a time and hands on zero or more. Behind a step that joins all
 * tokens (Fuse, ByteLevel) what comes is parts of one single token: the steps that look at a
 * token's ends then hold back what the next part could still change. */
#include "tokens/decode.h"
#include <stdlib.h>
#include <string.h>
#include "base/utf8.h"
#include "tokens/byte_chars.h"
#include "tokens/regex.h"
#include "tokens/text.h"

/* A run of byte tokens is judged as a whole, up to this length: a stream waits no longer. */
enum { BYTE_RUN_MAX = 64 };

struct step {
    const struct part *part;
    int row;
    bool joined;                     /* tokens arrive as parts of one */
    size_t n;                        /* tokens so far */
    int left;                        /* Strip: characters that may still go at the start */
    struct buf held;
    bool holds;
    struct regex_walk walk;
};

struct decode {
    struct step *step;
    int n;
    bool spaced, any;                /* no decoder at all: tokens are joined by spaces */
    struct buf *out;
};

static void give(struct decode *d, int at, struct str token);

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10
        : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What is held, as far as it is whole characters. */
static void give_whole(struct decode *d, int at) {
    struct buf *held = &d->step[at].held;
    size_t whole = utf8_complete(buf_view(held));
    if (!whole)
        return;
    struct buf clean = { 0 };
    utf8_repair(&clean, str_cut(buf_view(held), 0, whole));
    memmove(held->at, held->at + whole, held->len - whole);
    held->len -= whole;
    give(d, at + 1, buf_view(&clean));
    buf_free(&clean);
}

static void byte_level(struct decode *d, int at, struct str token) {
    struct buf *held = &d->step[at].held;
    if (!byte_chars_read(held, token))
        buf_str(held, token);        /* not spelt in stand-ins: taken as it is */
    give_whole(d, at);
}

/* PLaMo's: bytes and texts in one row, and then its UTF-8. */
static void plain_bytes(struct decode *d, int at, struct str token) {
    struct buf *held = &d->step[at].held;
    int high = -1, low = -1;
    if (token.len == 6 && str_starts(token, "<0x") && token.at[5] == '>') {
        high = hex(token.at[3]);
        low = hex(token.at[4]);
    }
    if (high >= 0 && low >= 0)
        buf_char(held, (char)(high << 4 | low));
    else
        buf_str(held, token);
    give_whole(d, at);
}

static void byte_level_end(struct decode *d, int at) {
    struct buf clean = { 0 };
    utf8_repair(&clean, buf_view(&d->step[at].held));
    if (clean.len)
        give(d, at + 1, buf_view(&clean));
    buf_free(&clean);
}

static void metaspace(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    struct text out = { 0 };
    bool first = s->n == 1;
    for (size_t i = 0; i < token.len;) {
        uint32_t cp;
        i += (size_t)cp_at(token, i, &cp);
        if (cp != s->part->replacement)
            text_cp(&out, cp, 0);
        else if (!first || s->part->prepend == PREPEND_NEVER)
            text_cp(&out, ' ', 0);
    }
    give(d, at + 1, buf_view(&out.bytes));
    text_free(&out);
}

/* The run so far, `n` bytes of it: as it is when it is UTF-8, else a sign for each byte. */
static void give_run(struct decode *d, int at, size_t n) {
    struct buf *held = &d->step[at].held;
    struct str run = str_cut(buf_view(held), 0, n);
    if (utf8_valid(run) && n)
        give(d, at + 1, run);
    else
        for (size_t i = 0; i < n; i++)
            give(d, at + 1, S("\xef\xbf\xbd"));
    memmove(held->at, held->at + n, held->len - n);
    held->len -= n;
}

static void byte_fallback(struct decode *d, int at, struct str token) {
    struct buf *held = &d->step[at].held;
    int byte = -1;
    if (token.len == 6 && str_starts(token, "<0x") && token.at[5] == '>') {
        int high = hex(token.at[3]), low = hex(token.at[4]);
        if (high >= 0 && low >= 0)
            byte = high << 4 | low;
        else if (token.at[3] == '+' && low >= 0)     /* as the original parses numbers */
            byte = low;
    }
    if (byte >= 0) {
        buf_char(held, (char)byte);
        size_t whole = held->len < BYTE_RUN_MAX ? 0 : utf8_complete(buf_view(held));
        if (whole)
            give_run(d, at, whole);
        return;
    }
    if (held->len)
        give_run(d, at, held->len);
    give(d, at + 1, token);
}

static void byte_fallback_end(struct decode *d, int at) {
    if (d->step[at].held.len)
        give_run(d, at, d->step[at].held.len);
}

static void fuse(struct decode *d, int at, struct str token) {
    if (token.len)
        give(d, at + 1, token);
}

/* Cuts up to `n` characters `c` from the start; returns how many. */
static int cut_start(struct str *s, uint32_t c, int n) {
    int cut = 0;
    while (cut < n && s->len) {
        uint32_t cp;
        size_t len = (size_t)cp_at(*s, 0, &cp);
        if (cp != c)
            break;
        *s = str_from(*s, len);
        cut++;
    }
    return cut;
}

static size_t end_run(struct str s, uint32_t c, int n) {
    size_t end = s.len;
    for (int i = 0; i < n && end; i++) {
        uint32_t cp;
        size_t len = (size_t)cp_before(s, end, &cp);
        if (cp != c)
            break;
        end -= len;
    }
    return end;
}

/* And its length. */
static uint32_t strip_char(const struct part *p, size_t *len) {
    uint32_t cp = 0;
    *len = (size_t)utf8_next(p->content, &cp);
    if (*len)
        return cp;
    *len = 1;
    return ' ';
}

static void strip(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    size_t len;
    uint32_t c = strip_char(s->part, &len);
    if (!s->joined) {
        cut_start(&token, c, s->part->start);
        give(d, at + 1, str_cut(token, 0, end_run(token, c, s->part->stop)));
        return;
    }
    if (s->left > 0) {
        int cut = cut_start(&token, c, s->left);
        s->left = token.len ? 0 : s->left - cut;
    }
    /* What is held is `stop` such characters at most: only the token need be looked at. */
    struct buf *held = &s->held;
    size_t end = end_run(token, c, s->part->stop);
    buf_str(held, token);
    size_t keep = end ? token.len - end : MIN(held->len, (size_t)s->part->stop * len);
    size_t n = held->len - keep;
    if (!n)
        return;
    give(d, at + 1, str_cut(buf_view(held), 0, n));
    memmove(held->at, held->at + n, keep);
    held->len = keep;
}

static void replace_all(struct step *s, struct str token, struct buf *out) {
    size_t done = 0, begin, end;
    regex_walk_text(&s->walk, token);
    while (token.len && regex_walk_next(&s->walk, &begin, &end)) {
        buf_str(out, str_cut(token, done, begin));
        buf_str(out, s->part->content);
        done = end;
    }
    buf_str(out, str_from(token, done));
}

static void replace(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    struct buf out = { 0 };
    size_t keep = 0;
    if (!s->joined) {
        replace_all(s, token, &out);
        give(d, at + 1, buf_view(&out));
        buf_free(&out);
        return;
    }
    buf_str(&s->held, token);
    if (s->part->pattern_is_regex)   /* any later part could change a match */
        return;
    struct str key = s->part->pattern, all = buf_view(&s->held);
    size_t begin, end, done = 0;
    regex_walk_text(&s->walk, all);
    while (regex_walk_next(&s->walk, &begin, &end))
        done = end;
    /* The longest tail behind the last match that may still become one. */
    for (keep = MIN(key.len ? key.len - 1 : 0, all.len - done); keep; keep--)
        if (!memcmp(all.at + all.len - keep, key.at, keep))
            break;
    replace_all(s, str_cut(all, 0, all.len - keep), &out);
    memmove(s->held.at, s->held.at + all.len - keep, keep);
    s->held.len = keep;
    if (out.len)
        give(d, at + 1, buf_view(&out));
    buf_free(&out);
}

static void replace_end(struct decode *d, int at) {
    struct step *s = &d->step[at];
    struct buf out = { 0 };
    if (!s->joined || !s->held.len)
        return;
    replace_all(s, buf_view(&s->held), &out);
    give(d, at + 1, buf_view(&out));
    buf_free(&out);
}

static void replace_text(struct buf *b, const char *from, const char *to) {
    struct buf out = { 0 };
    struct str key = str_of(from), s = buf_view(b);
    const char *hit;
    if (!s.len || !key.len || !memmem(s.at, s.len, key.at, key.len))
        return;
    while (s.len && (hit = memmem(s.at, s.len, key.at, key.len))) {
        size_t n = (size_t)(hit - s.at);
        buf_str(&out, str_cut(s, 0, n));
        buf_str(&out, str_of(to));
        s = str_from(s, n + key.len);
    }
    buf_str(&out, s);
    buf_free(b);
    *b = out;
}

/* The English clean-up of the original, in its order. */
static void cleanup(struct buf *b) {
    static const char *const pairs[][2] = {
        { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" },
        { " n't", "n't" }, { " 'm", "'m" }, { " do not", " don't" }, { " 's", "'s" },
        { " 've", "'ve" }, { " 're", "'re" },
    };
    for (size_t i = 0; i < COUNT(pairs); i++)
        replace_text(b, pairs[i][0], pairs[i][1]);
}

static void word_piece(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    struct buf out = { 0 };
    struct str prefix = s->part->prefix;
    bool tail = token.len >= prefix.len && !memcmp(token.at, prefix.at, prefix.len);
    if (s->n > 1 && !tail)
        buf_char(&out, ' ');
    buf_str(&out, s->n > 1 && tail ? str_from(token, prefix.len) : token);
    if (s->part->cleanup)
        cleanup(&out);
    give(d, at + 1, buf_view(&out));
    buf_free(&out);
}

/* The last token's suffix becomes nothing, every other's a space: one token is held. */
static void give_suffixed(struct decode *d, int at, bool last) {
    struct step *s = &d->step[at];
    struct buf out = { 0 };
    buf_str(&out, buf_view(&s->held));
    char *suffix = mem_str(s->part->suffix);
    replace_text(&out, suffix, last ? "" : " ");
    free(suffix);
    give(d, at + 1, buf_view(&out));
    buf_free(&out);
}

static void bpe(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    if (s->holds)
        give_suffixed(d, at, false);
    buf_clear(&s->held);
    buf_str(&s->held, token);
    s->holds = true;
}

static void bpe_end(struct decode *d, int at) {
    if (d->step[at].holds)
        give_suffixed(d, at, true);
}

static void ctc(struct decode *d, int at, struct str token) {
    struct step *s = &d->step[at];
    struct buf out = { 0 };
    if (s->holds && str_eq(buf_view(&s->held), token))
        return;
    buf_clear(&s->held);
    buf_str(&s->held, token);
    s->holds = true;
    buf_str(&out, token);
    char *pad = mem_str(s->part->pad_token), *space = mem_str(s->part->word_delimiter);
    replace_text(&out, pad, "");
    if (s->part->cleanup) {
        cleanup(&out);
        replace_text(&out, space, " ");
    }
    free(pad);
    free(space);
    if (out.len)
        give(d, at + 1, buf_view(&out));
    buf_free(&out);
}

static const struct {
    const char *type;
    void (*push)(struct decode *, int at, struct str token);
    void (*end)(struct decode *, int at);            /* NULL: nothing is held, or it is dropped */
    bool joins;
} rows[] = {
    { "ByteLevel", byte_level, byte_level_end, true }, { "Metaspace", metaspace, NULL, false },
    { "ByteFallback", byte_fallback, byte_fallback_end, false }, { "Fuse", fuse, NULL, true },
    { "Strip", strip, NULL, false }, { "Replace", replace, replace_end, false },
    { "WordPiece", word_piece, NULL, false }, { "BPEDecoder", bpe, bpe_end, false },
    { "CTC", ctc, NULL, false }, { "Bytes", plain_bytes, byte_level_end, true },
};

bool decode_bind(struct parts *list, struct err *err) {
    bool joined = false;
    size_t factor = 1;
    for (int i = 0; i < list->n; i++) {
        struct part *p = &list->at[i];
        size_t row = 0;
        while (row < COUNT(rows) && !str_is(p->type, rows[row].type))
            row++;
        if (row == COUNT(rows))
            return err_code(err, ERR_UNSUPPORTED, "tokenizer.json: unknown decoder \"%.*s\"",
                            STR_ARG(p->type));
        bool ends = rows[row].push != strip && rows[row].push != replace && !rows[row].joins;
        if (joined && ends)
            return err_code(err, ERR_UNSUPPORTED, "tokenizer.json: decoder \"%.*s\" behind one "
                            "that joins all tokens", STR_ARG(p->type));
        if (rows[row].push == replace && !p->regex)
            return err_set(err, "tokenizer.json: decoder Replace without a pattern");
        factor *= rows[row].push == replace ? part_growth(p) : 1;
        if (factor > PART_GROWTH_MAX)
            return err_set(err, "tokenizer.json: the decoders make a text too long");
        if (rows[row].push == metaspace && p->add_prefix_space_false)
            p->prepend = PREPEND_NEVER;
        joined |= rows[row].joins;
        p->row = (int)row;
    }
    return true;
}

static void reset(struct decode *d) {
    bool joined = false;
    d->any = false;
    for (int i = 0; i < d->n; i++) {
        struct step *s = &d->step[i];
        s->joined = joined;
        s->n = 0;
        s->left = s->part->start;
        s->holds = false;
        buf_clear(&s->held);
        joined |= rows[s->row].joins;
    }
}

struct decode *decode_open(const struct parts *list) {
    struct decode *d = mem_new(sizeof *d);
    d->n = list->n;
    d->spaced = !list->n;
    d->step = mem_array((size_t)list->n + 1, sizeof *d->step);
    for (int i = 0; i < list->n; i++) {
        d->step[i].part = &list->at[i];
        d->step[i].row = list->at[i].row;
        if (list->at[i].regex)
            d->step[i].walk = regex_walk_open(list->at[i].regex);
    }
    reset(d);
    return d;
}

/* As deep as the chain is long, which the file's reader bounds. */
static void give(struct decode *d, int at, struct str token) {
    if (at == d->n) {
        buf_str(d->out, token);
        return;
    }
    d->step[at].n++;
    rows[d->step[at].row].push(d, at, token);
}

void decode_push(struct decode *d, struct str token, struct buf *out) {
    d->out = out;
    if (d->spaced && d->any)
        buf_char(out, ' ');
    d->any = true;
    give(d, 0, token);
}

void decode_flush(struct decode *d, struct buf *out) {
    d->out = out;
    for (int i = 0; i < d->n; i++)
        if (rows[d->step[i].row].end)
            rows[d->step[i].row].end(d, i);
    reset(d);
}

void decode_close(struct decode *d) {
    if (!d)
        return;
    for (int i = 0; i < d->n; i++) {
        regex_walk_close(&d->step[i].walk);
        buf_free(&d->step[i].held);
    }
    free(d->step);
    free(d);
}
