/* normalize.c - the normalizers of tokenizer.json, each a row of one table.
 *
 * Unicode's data is utf8proc's; reordering and composition are our own, as theirs is
 * quadratic in a run of marks. */
#include "tokens/normalize.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/utf8.h"
#include "tokens/byte_chars.h"
#include "tokens/regex.h"

struct ch { int32_t cp; uint32_t origin; };
struct chars { struct ch *at; size_t n, cap; };

static void chars_put(struct chars *list, int32_t cp, uint32_t origin) {
    if (list->n == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 256;
        list->at = mem_grow(list->at, list->cap, sizeof *list->at);
    }
    list->at[list->n++] = (struct ch){ cp, origin };
}

static int ccc(int32_t cp) {
    return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class;
}

/* Stable, by combining class, of one run of marks. Runs are short, but for hostile ones: those
 * are sorted by counting. */
static void reorder_run(struct ch *run, size_t n) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            struct ch c = run[i];
            size_t j = i;
            for (; j > 0 && ccc(run[j - 1].cp) > ccc(c.cp); j--)
                run[j] = run[j - 1];
            run[j] = c;
        }
        return;
    }
    size_t begin[257] = { 0 };
    struct ch *sorted = mem_array(n, sizeof *sorted);
    for (size_t i = 0; i < n; i++)
        begin[ccc(run[i].cp) + 1]++;
    for (int i = 1; i < 257; i++)
        begin[i] += begin[i - 1];
    for (size_t i = 0; i < n; i++)
        sorted[begin[ccc(run[i].cp)]++] = run[i];
    memcpy(run, sorted, n * sizeof *run);
    free(sorted);
}

static void reorder(struct chars *list) {
    for (size_t i = 0; i < list->n;) {
        size_t end = i;
        while (end < list->n && ccc(list->at[end].cp))
            end++;
        if (end - i > 1)
            reorder_run(list->at + i, end - i);
        i = end + 1;
    }
}

/* -1: the two do not compose. */
static int32_t composed(int32_t a, int32_t b) {
    utf8proc_int32_t pair[3] = { a, b, 0 };
    if (b < 0x300)
        return -1;
    return utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1 ? pair[0]
                                                                                     : -1;
}

static void compose(struct chars *list) {
    size_t out = 0, starter = SIZE_MAX;
    int last = -1;                   /* class of the mark before; -1: right behind the starter */
    for (size_t i = 0; i < list->n; i++) {
        struct ch c = list->at[i];
        int class = ccc(c.cp);
        if (starter != SIZE_MAX && last < class) {
            int32_t one = composed(list->at[starter].cp, c.cp);
            if (one >= 0) {
                list->at[starter].cp = one;
                continue;
            }
        }
        if (!class)
            starter = out;
        last = class ? class : -1;
        list->at[out++] = c;
    }
    list->n = out;
}

/* No form changes ASCII, and composed canonical form nothing below U+0300. */
static bool stays(struct str s, bool below_300) {
    unsigned char limit = below_300 ? 0xcc : 0x80;
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.at[i] >= limit)
            return false;
    return true;
}

/* Starters that no form changes and that compose with nothing, most of a Chinese text: what is on
 * one side of such does not reach the other. */
static bool inert(uint32_t cp, bool compat) {
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3001 && cp <= 0x3029) ||
           (!compat && cp >= 0xff01 && cp <= 0xff5e);
}

/* The end of the characters from `at` on that are inert, or are not. */
static size_t run_end(struct str s, size_t at, bool is, bool compat) {
    uint32_t cp;
    for (size_t n; at < s.len; at += n) {
        n = (size_t)cp_at(s, at, &cp);
        if (inert(cp, compat) != is) break;
    }
    return at;
}

static void form_run(struct chars *list, const struct text *in, size_t at, size_t end,
                     bool compat) {
    struct str s = buf_view(&in->bytes);
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compat)
        options |= UTF8PROC_COMPAT;
    list->n = 0;
    while (at < end) {
        uint32_t cp, origin = text_origin(in, at);
        at += (size_t)cp_at(s, at, &cp);
        utf8proc_int32_t to[32] = { 0 };
        utf8proc_ssize_t n = utf8proc_decompose_char((int32_t)cp, to, 32, options, NULL);
        if (n < 0 || n > 32)
            chars_put(list, (int32_t)cp, origin);
        for (utf8proc_ssize_t k = 0; n <= 32 && k < n; k++)
            chars_put(list, to[k], origin);
    }
    reorder(list);
}

static void form(const struct text *in, struct text *out, bool compat, bool composes) {
    struct str s = buf_view(&in->bytes);
    struct chars list = { 0 };
    if (stays(s, composes && !compat)) {
        text_copy(out, in, 0, s.len);
        return;
    }
    for (size_t at = 0, end; at < s.len; at = end) {
        size_t odd = run_end(s, at, true, compat);
        text_copy(out, in, at, odd);
        end = run_end(s, odd, false, compat);
        form_run(&list, in, odd, end, compat);
        if (composes)
            compose(&list);
        for (size_t i = 0; i < list.n; i++)
            text_cp(out, (uint32_t)list.at[i].cp, list.at[i].origin);
    }
    free(list.at);
}

static void nfc(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    form(in, out, false, true);
}

static void nfd(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    form(in, out, false, false);
}

static void nfkc(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    form(in, out, true, true);
}

static void nfkd(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    form(in, out, true, false);
}

/* The full mapping: one character of Unicode becomes two. */
static void put_lower(struct text *out, uint32_t cp, uint32_t origin) {
    text_cp(out, cp == 0x130 ? 'i' : (uint32_t)utf8proc_tolower((int32_t)cp), origin);
    if (cp == 0x130)
        text_cp(out, 0x307, origin);
}

static void lowercase(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    struct str s = buf_view(&in->bytes);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp, origin = text_origin(in, i);
        i += (size_t)cp_at(s, i, &cp);
        put_lower(out, cp, origin);
    }
}

static void strip(const struct part *p, const struct text *in, struct text *out) {
    struct str s = buf_view(&in->bytes);
    size_t begin = 0, end = s.len;
    uint32_t cp;
    while (p->strip_left && begin < end) {
        int n = cp_at(s, begin, &cp);
        if (!cp_is_space(cp))
            break;
        begin += (size_t)n;
    }
    while (p->strip_right && end > begin) {
        int n = cp_before(s, end, &cp);
        if (!cp_is_space(cp))
            break;
        end -= (size_t)n;
    }
    text_copy(out, in, begin, end);
}

/* Keeps what `keep` does not map to 0xffffffff, mapped. */
static void map(const struct text *in, struct text *out, uint32_t (*to)(uint32_t cp)) {
    struct str s = buf_view(&in->bytes);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp, origin = text_origin(in, i);
        i += (size_t)cp_at(s, i, &cp);
        cp = to(cp);
        if (cp != UINT32_MAX)
            text_cp(out, cp, origin);
    }
}

static uint32_t no_mark(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME
        ? UINT32_MAX : cp;
}

static uint32_t no_nonspacing_mark(uint32_t cp) {
    return utf8proc_category((int32_t)cp) == UTF8PROC_CATEGORY_MN ? UINT32_MAX : cp;
}

static void strip_accents(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    map(in, out, no_mark);
}

static uint32_t nmt_cp(uint32_t cp) {
    if ((cp >= 1 && cp <= 8) || cp == 0x0b || (cp >= 0x0e && cp <= 0x1f) || cp == 0x7f
        || cp == 0x8f || cp == 0x9f)
        return UINT32_MAX;
    if (cp == 9 || cp == 10 || cp == 12 || cp == 13 || cp == 0x1680
        || (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581
        || cp == 0xfeff || cp == 0xfffd)
        return ' ';
    return cp;
}

static void nmt(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    map(in, out, nmt_cp);
}

static void prepend(const struct part *p, const struct text *in, struct text *out) {
    if (in->bytes.len)
        text_put(out, p->content.at, p->content.len, text_origin(in, 0));
    text_copy(out, in, 0, in->bytes.len);
}

static void replace(const struct part *p, const struct text *in, struct text *out) {
    struct regex_walk walk = regex_walk_open(p->regex);
    size_t done = 0, begin, end;
    regex_walk_text(&walk, buf_view(&in->bytes));
    while (in->bytes.len && regex_walk_next(&walk, &begin, &end)) {
        text_copy(out, in, done, begin);
        text_put(out, p->content.at, p->content.len, end ? text_origin(in, end - 1) : 0);
        done = end;
    }
    text_copy(out, in, done, in->bytes.len);
    regex_walk_close(&walk);
}

static void byte_level(const struct part *p, const struct text *in, struct text *out) {
    (void)p;
    for (size_t i = 0; i < in->bytes.len; i++)
        text_cp(out, byte_to_cp((uint8_t)in->bytes.at[i]), text_origin(in, i));
}

static uint32_t clean_cp(uint32_t cp) {
    if (cp == '\t' || cp == '\n' || cp == '\r')
        return ' ';
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    if (!cp || cp == 0xfffd || c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF
        || c == UTF8PROC_CATEGORY_CO)
        return UINT32_MAX;
    return cp_is_space(cp) ? ' ' : cp;
}

/* The ranges that BERT's authors took for Chinese, the odd gap after U+2B81F included. */
static bool is_chinese(uint32_t cp) {
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf)
        || (cp >= 0x20000 && cp <= 0x2a6df) || (cp >= 0x2a700 && cp <= 0x2b73f)
        || (cp >= 0x2b740 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf)
        || (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

static void space_chinese(const struct text *in, struct text *out) {
    struct str s = buf_view(&in->bytes);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp, origin = text_origin(in, i);
        i += (size_t)cp_at(s, i, &cp);
        if (is_chinese(cp))
            text_cp(out, ' ', origin);
        text_cp(out, cp, origin);
        if (is_chinese(cp))
            text_cp(out, ' ', origin);
    }
}

/* Each step that is on reads one text and writes the other; the last one lands in `out`. */
static void bert(const struct part *p, const struct text *in, struct text *out) {
    struct text a = { .track = in->track, .max = in->max }, b = a;
    bool accents = p->strip_accents < 0 ? p->lowercase : p->strip_accents;
    if (p->clean_text)
        map(in, &a, clean_cp);
    else
        text_copy(&a, in, 0, in->bytes.len);
    if (p->chinese_chars)
        space_chinese(&a, &b);
    else
        text_copy(&b, &a, 0, a.bytes.len);
    text_clear(&a);
    if (accents) {
        form(&b, &a, false, false);
        text_clear(&b);
        map(&a, &b, no_nonspacing_mark);
    }
    if (p->lowercase)
        lowercase(p, &b, out);
    else
        text_copy(out, &b, 0, b.bytes.len);
    text_free(&a);
    text_free(&b);
}

static void put_mapped(struct text *out, const struct part *p, struct str piece, uint32_t origin) {
    struct str to;
    if (charsmap_get(p->charsmap, piece, &to))
        text_put(out, to.at, to.len, origin);
    else
        text_put(out, piece.at, piece.len, origin);
}

/* Short graphemes are looked up whole; else, and when that finds nothing, each character. */
static void precompiled(const struct part *p, const struct text *in, struct text *out) {
    struct str s = buf_view(&in->bytes), to;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp, next;
        utf8proc_int32_t state = 0;
        size_t end = i + (size_t)cp_at(s, i, &cp);
        for (; end < s.len; cp = next) {
            size_t n = (size_t)cp_at(s, end, &next);
            if (utf8proc_grapheme_break_stateful((int32_t)cp, (int32_t)next, &state))
                break;
            end += n;
        }
        struct str grapheme = str_cut(s, i, end);
        if (grapheme.len < 6 && charsmap_get(p->charsmap, grapheme, &to)) {
            text_put(out, to.at, to.len, text_origin(in, i));
            i = end;
        }
        while (i < end) {
            size_t n = (size_t)cp_at(s, i, &cp);
            put_mapped(out, p, str_cut(s, i, i + n), text_origin(in, i));
            i += n;
        }
    }
}

/* What a SentencePiece model does: its map, white space cut to one space and none at the ends
 * when strip_left is on, a space put before the text when add_prefix_space is, and all written
 * U+2581. */
static void sentence_piece(const struct part *p, const struct text *in, struct text *out) {
    struct str s = buf_view(&in->bytes);
    bool after_space = p->strip_left, any = false;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp, origin = text_origin(in, i);
        struct str to;
        size_t n = p->charsmap ? charsmap_longest(p->charsmap, str_from(s, i), &to) : 0;
        if (!n) {
            n = (size_t)cp_at(s, i, &cp);
            to = str_cut(s, i, i + n);
        }
        i += n;
        while (after_space && str_starts(to, " "))
            to = str_from(to, 1);
        if (!to.len)
            continue;
        if (!any && p->add_prefix_space && !text_origin(in, 0))
            text_cp(out, 0x2581, origin);
        any = true;
        after_space = p->strip_left && to.at[to.len - 1] == ' ';
        for (; to.len; to = str_from(to, n)) {
            const char *space = memchr(to.at, ' ', to.len);
            n = space ? (size_t)(space - to.at) : to.len;
            if (n)
                text_put(out, to.at, n, origin);
            else
                text_cp(out, 0x2581, origin), n = 1;
        }
    }
    while (p->strip_left && str_ends(buf_view(&out->bytes), "\xe2\x96\x81"))
        out->bytes.len -= 3;
}

static const struct {
    const char *type;
    void (*run)(const struct part *, const struct text *in, struct text *out);
} rows[] = {
    { "NFC", nfc }, { "NFD", nfd }, { "NFKC", nfkc }, { "NFKD", nfkd },
    { "Lowercase", lowercase }, { "Strip", strip }, { "StripAccents", strip_accents },
    { "Nmt", nmt }, { "Prepend", prepend }, { "Replace", replace }, { "ByteLevel", byte_level },
    { "BertNormalizer", bert }, { "Bert", bert },
    { "Precompiled", precompiled }, { "SentencePiece", sentence_piece },
};

bool normalize_bind(struct parts *list, struct err *err) {
    size_t factor = 1;
    for (int i = 0; i < list->n; i++) {
        struct part *p = &list->at[i];
        size_t row = 0;
        while (row < COUNT(rows) && !str_is(p->type, rows[row].type))
            row++;
        if (row == COUNT(rows))
            return err_code(err, ERR_UNSUPPORTED, "tokenizer.json: unknown normalizer \"%.*s\"",
                            STR_ARG(p->type));
        if (rows[row].run == replace && !p->regex)
            return err_set(err, "tokenizer.json: normalizer Replace without a pattern");
        if (rows[row].run == replace)
            factor *= part_growth(p);
        if (rows[row].run == precompiled && !p->charsmap
            && !(p->charsmap = charsmap_new(p->charsmap_text, err)))
            return false;
        if (rows[row].run == byte_level)
            factor *= 2;
        if (factor > PART_GROWTH_MAX)
            return err_set(err, "tokenizer.json: the normalizers make a text too long");
        p->row = (int)row;
    }
    return true;
}

bool normalize_needs_origin(const struct parts *list) {
    for (int i = 0; i < list->n; i++)
        if (rows[list->at[i].row].run == sentence_piece)
            return true;
    return false;
}

void normalize_run(const struct parts *list, struct text *text, struct text *spare) {
    text->max = spare->max = text_bound(text->bytes.len);
    for (int i = 0; i < list->n; i++) {
        text_clear(spare);
        rows[list->at[i].row].run(&list->at[i], text, spare);
        struct text swap = *text;
        *text = *spare;
        *spare = swap;
    }
}
