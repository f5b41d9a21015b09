/* presplit.c - the pre-tokenizers of tokenizer.json, each a row of one table.
 *
 * Most find delimiters, by a regex or a test of single characters, and treat them as one of five
 * behaviours says. Those that change the text write a new one and point the pieces there. */
#include "tokens/presplit.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "tokens/byte_chars.h"
#include "tokens/regex.h"
#include "tokens/scripts_table.h"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* Rust's \w, not Oniguruma's: joiners are part of a word. */
#define WORDS "[\\w\\p{Join_Control}]+|[^\\w\\s\\p{Join_Control}]+"

enum { FOUND_GAP = 0x80000000u };    /* of an end in `found`: the piece is no match */

struct job {
    const struct part *part;
    struct text *text;
    struct presplit_space *space;
    struct regex_walk *walk;
    bool last;
};

static bool is_numeric(uint32_t cp) {
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

static bool is_punctuation(uint32_t cp) {
    if (cp < 0x80)
        return (cp >= 0x21 && cp <= 0x2f) || (cp >= 0x3a && cp <= 0x40)
            || (cp >= 0x5b && cp <= 0x60) || (cp >= 0x7b && cp <= 0x7e);
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

/* Matches and gaps of one piece, in order, covering it. */
static void put_found(struct pieces *found, size_t begin, size_t end, bool match) {
    if (begin == end && !match)
        return;
    if (found->n == found->cap) {
        found->cap = found->cap ? found->cap * 2 : 64;
        found->at = mem_grow(found->at, found->cap, sizeof *found->at);
    }
    found->at[found->n++] = (struct piece){ (uint32_t)begin,
                                            (uint32_t)end | (match ? 0 : FOUND_GAP) };
}

static void find_cps(struct job *job, struct piece piece, bool (*is)(uint32_t, uint32_t)) {
    struct str s = buf_view(&job->text->bytes);
    struct pieces *found = &job->space->found;
    size_t done = piece.begin;
    found->n = 0;
    for (size_t i = piece.begin; i < piece.end;) {
        uint32_t cp;
        size_t n = (size_t)cp_at(s, i, &cp);
        if (is(cp, job->part->replacement)) {
            put_found(found, done, i, false);
            put_found(found, i, i + n, true);
            done = i + n;
        }
        i += n;
    }
    put_found(found, done, piece.end, false);
}

static void find_regex(struct job *job, struct piece piece, bool invert) {
    struct pieces *found = &job->space->found;
    size_t done = piece.begin, begin, end;
    found->n = 0;
    regex_walk_text(job->walk, str_cut(buf_view(&job->text->bytes), piece.begin, piece.end));
    while (regex_walk_next(job->walk, &begin, &end)) {
        begin += piece.begin;
        end += piece.begin;
        put_found(found, done, begin, invert);
        put_found(found, begin, end, !invert);
        done = end;
    }
    put_found(found, done, piece.end, invert);
}

/* The pieces that `found` makes, by behaviour, go to `out`. */
static void behave(const struct pieces *found, enum behavior how, struct pieces *out) {
    size_t n = found->n, begin = 0;
    bool before = false;
    for (size_t i = 0; i < n; i++) {
        size_t from = found->at[i].begin, to = found->at[i].end & ~(uint32_t)FOUND_GAP;
        bool match = !(found->at[i].end & FOUND_GAP);
        bool joins;                  /* with what comes before it */
        switch (how) {
        case REMOVED:
            if (!match)
                pieces_put(out, from, to);
            continue;
        case ISOLATED:
            pieces_put(out, from, to);
            continue;
        case MERGED_WITH_PREVIOUS: joins = match && !before; break;
        case MERGED_WITH_NEXT: joins = before && !match; break;
        default: joins = match == before; break;
        }
        if (i == 0 || !joins) {
            if (i)
                pieces_put(out, begin, from);
            begin = from;
        }
        before = match;
    }
    if (n && how != REMOVED && how != ISOLATED)
        pieces_put(out, begin, found->at[n - 1].end & ~(uint32_t)FOUND_GAP);
}

static bool cp_space(uint32_t cp, uint32_t arg) {
    (void)arg;
    return cp_is_space(cp);
}

static bool cp_numeric(uint32_t cp, uint32_t arg) {
    (void)arg;
    return is_numeric(cp);
}

static bool cp_punctuation(uint32_t cp, uint32_t arg) {
    (void)arg;
    return is_punctuation(cp);
}

static bool cp_is(uint32_t cp, uint32_t arg) {
    return cp == arg;
}

/* Every piece split by a test of characters; the pieces change, the text does not. */
static void each_cp(struct job *job, struct pieces *pieces, bool (*is)(uint32_t, uint32_t),
                    enum behavior how) {
    struct pieces *out = &job->space->pieces;
    out->n = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        find_cps(job, pieces->at[i], is);
        behave(&job->space->found, how, out);
    }
    struct pieces swap = *pieces;
    *pieces = *out;
    *out = swap;
}

static void each_regex(struct job *job, struct pieces *pieces, bool invert, enum behavior how) {
    struct pieces *out = &job->space->pieces;
    out->n = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        find_regex(job, pieces->at[i], invert);
        behave(&job->space->found, how, out);
    }
    struct pieces swap = *pieces;
    *pieces = *out;
    *out = swap;
}

static void split(struct job *job, struct pieces *pieces) {
    each_regex(job, pieces, job->part->invert, job->part->behavior);
}

static void whitespace(struct job *job, struct pieces *pieces) {
    each_regex(job, pieces, true, REMOVED);
}

static void whitespace_split(struct job *job, struct pieces *pieces) {
    each_cp(job, pieces, cp_space, REMOVED);
}

static void digits(struct job *job, struct pieces *pieces) {
    each_cp(job, pieces, cp_numeric, job->part->individual_digits ? ISOLATED : CONTIGUOUS);
}

static void punctuation(struct job *job, struct pieces *pieces) {
    each_cp(job, pieces, cp_punctuation, job->part->behavior);
}

static void delimiter(struct job *job, struct pieces *pieces) {
    each_cp(job, pieces, cp_is, REMOVED);
}

static void bert(struct job *job, struct pieces *pieces) {
    each_cp(job, pieces, cp_space, REMOVED);
    each_cp(job, pieces, cp_punctuation, ISOLATED);
}

static void fixed_length(struct job *job, struct pieces *pieces) {
    struct str s = buf_view(&job->text->bytes);
    struct pieces *out = &job->space->pieces;
    out->n = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        size_t begin = pieces->at[i].begin, at = begin;
        int n = 0;
        while (at < pieces->at[i].end) {
            uint32_t cp;
            at += (size_t)cp_at(s, at, &cp);
            if (++n == job->part->length) {
                pieces_put(out, begin, at);
                begin = at;
                n = 0;
            }
        }
        pieces_put(out, begin, at);
    }
    struct pieces swap = *pieces;
    *pieces = *out;
    *out = swap;
}

static uint32_t script_of(uint32_t cp) {
    size_t low = 0, high = COUNT(script_ranges);
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (script_ranges[mid] >> 8 <= cp)
            low = mid;
        else
            high = mid;
    }
    return script_ranges[low] & 0xff;
}

/* A piece begins where the script changes. Class 0 goes with what comes before it, so that of a
 * text it begins, the original loses it: so do we. */
static void unicode_scripts(struct job *job, struct pieces *pieces) {
    struct str s = buf_view(&job->text->bytes);
    struct pieces *out = &job->space->pieces;
    out->n = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        size_t begin = pieces->at[i].begin, end = pieces->at[i].end, at = begin;
        uint32_t last = 0, cp;
        while (at < end) {
            size_t n = (size_t)cp_at(s, at, &cp);
            uint32_t script = script_of(cp);
            if (script && script != last) {
                if (last)
                    pieces_put(out, begin, at);
                begin = at;
                last = script;
            }
            at += n;
        }
        if (last)
            pieces_put(out, begin, end);
    }
    struct pieces swap = *pieces;
    *pieces = *out;
    *out = swap;
}

/* The text was written anew into the space, piece by piece: it becomes the text. */
static void swap_text(struct job *job) {
    struct text swap = *job->text;
    *job->text = job->space->text;
    job->space->text = swap;
}

static void metaspace(struct job *job, struct pieces *pieces) {
    const struct part *p = job->part;
    struct text *in = job->text, *out = &job->space->text;
    struct text mark = { 0 };
    text_clear(out);
    out->track = in->track;
    out->max = in->max;
    text_cp(&mark, p->replacement, 0);
    struct str sign = buf_view(&mark.bytes);
    for (size_t i = 0; i < pieces->n; i++) {
        struct piece *piece = &pieces->at[i];
        size_t begin = out->bytes.len;
        struct str s = str_cut(buf_view(&in->bytes), piece->begin, piece->end);
        /* A piece may be empty where the text came to its bound. */
        bool marked = !s.len || s.at[0] == ' '
            || (s.len >= sign.len && !memcmp(s.at, sign.at, sign.len));
        uint32_t origin = text_origin(in, piece->begin);
        if (!marked && (p->prepend == PREPEND_ALWAYS || (p->prepend == PREPEND_FIRST && !origin)))
            text_put(out, sign.at, sign.len, origin);
        for (size_t at = piece->begin; at < piece->end;) {
            const char *space = memchr(in->bytes.at + at, ' ', piece->end - at);
            size_t end = space ? (size_t)(space - in->bytes.at) : piece->end;
            text_copy(out, in, at, end);
            if (space)
                text_put(out, sign.at, sign.len, text_origin(in, end));
            at = end + (space != NULL);
        }
        *piece = (struct piece){ (uint32_t)begin, (uint32_t)out->bytes.len };
    }
    swap_text(job);
    if (p->split)
        each_cp(job, pieces, cp_is, MERGED_WITH_NEXT);
    text_free(&mark);
}

static void prefix_space(struct job *job, struct pieces *pieces) {
    struct text *in = job->text, *out = &job->space->text;
    text_clear(out);
    out->track = in->track;
    out->max = in->max;
    for (size_t i = 0; i < pieces->n; i++) {
        struct piece *piece = &pieces->at[i];
        size_t begin = out->bytes.len;
        if (piece->begin < piece->end && in->bytes.at[piece->begin] != ' ')
            text_put(out, " ", 1, text_origin(in, piece->begin));
        text_copy(out, in, piece->begin, piece->end);
        *piece = (struct piece){ (uint32_t)begin, (uint32_t)out->bytes.len };
    }
    swap_text(job);
}

static void byte_level(struct job *job, struct pieces *pieces) {
    if (job->part->add_prefix_space)
        prefix_space(job, pieces);
    if (job->part->use_regex)
        each_regex(job, pieces, false, ISOLATED);
    if (job->last)
        return;
    struct text *in = job->text, *out = &job->space->text;
    text_clear(out);
    out->track = in->track;
    out->max = in->max;
    for (size_t i = 0; i < pieces->n; i++) {
        struct piece *piece = &pieces->at[i];
        size_t begin = out->bytes.len;
        for (size_t at = piece->begin; at < piece->end; at++)
            text_cp(out, byte_to_cp((uint8_t)in->bytes.at[at]), text_origin(in, at));
        *piece = (struct piece){ (uint32_t)begin, (uint32_t)out->bytes.len };
    }
    swap_text(job);
}

static const struct {
    const char *type;
    void (*run)(struct job *, struct pieces *);
    const char *regex;               /* its own, where it has no pattern */
} rows[] = {
    { "Split", split, NULL }, { "ByteLevel", byte_level, GPT2 }, { "Digits", digits, NULL },
    { "Punctuation", punctuation, NULL }, { "Metaspace", metaspace, NULL },
    { "Whitespace", whitespace, WORDS }, { "WhitespaceSplit", whitespace_split, NULL },
    { "BertPreTokenizer", bert, NULL }, { "CharDelimiterSplit", delimiter, NULL },
    { "FixedLength", fixed_length, NULL }, { "UnicodeScripts", unicode_scripts, NULL },
};

bool presplit_bind(struct parts *list, struct err *err) {
    for (int i = 0; i < list->n; i++) {
        struct part *p = &list->at[i];
        size_t row = 0;
        while (row < COUNT(rows) && !str_is(p->type, rows[row].type))
            row++;
        if (row == COUNT(rows))
            return err_code(err, ERR_UNSUPPORTED,
                            "tokenizer.json: unknown pre_tokenizer \"%.*s\"", STR_ARG(p->type));
        if (rows[row].run == split && !p->regex)
            return err_set(err, "tokenizer.json: pre_tokenizer Split without a pattern");
        if (rows[row].run == fixed_length && p->length < 1)
            return err_set(err, "tokenizer.json: pre_tokenizer FixedLength of length 0");
        if (rows[row].run == metaspace && p->add_prefix_space_false)
            p->prepend = PREPEND_NEVER;
        if (rows[row].regex && !p->regex
            && !(p->regex = regex_new(str_of(rows[row].regex), err)))
            return false;
        p->row = (int)row;
    }
    return true;
}

bool presplit_gives_bytes(const struct parts *list) {
    return list->n && rows[list->at[list->n - 1].row].run == byte_level;
}

bool presplit_needs_origin(const struct parts *list) {
    for (int i = 0; i < list->n; i++)
        if (rows[list->at[i].row].run == metaspace && list->at[i].prepend == PREPEND_FIRST)
            return true;
    return false;
}

void presplit_run(const struct parts *list, struct text *text, struct pieces *pieces,
                  struct presplit_space *space) {
    if (!space->walk && list->n) {
        space->walk = mem_array((size_t)list->n, sizeof *space->walk);
        space->n_walks = list->n;
        for (int i = 0; i < list->n; i++)
            if (list->at[i].regex)
                space->walk[i] = regex_walk_open(list->at[i].regex);
    }
    for (int i = 0; i < list->n; i++) {
        struct job job = { &list->at[i], text, space, &space->walk[i], i + 1 == list->n };
        rows[list->at[i].row].run(&job, pieces);
    }
}

void presplit_free(struct presplit_space *space) {
    for (int i = 0; i < space->n_walks; i++)
        regex_walk_close(&space->walk[i]);
    free(space->walk);
    text_free(&space->text);
    pieces_free(&space->pieces);
    pieces_free(&space->found);
    *space = (struct presplit_space){ 0 };
}
