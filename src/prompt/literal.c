/* literal.c - three dialects of values, one automaton; see literal.h.
 *
 * It looks ahead only for what cannot be cut: an escape, a word, a bare key, the mark around a
 * string. Where the text ends within one it stays in front of it and asks for more. */
#include "prompt/literal.h"
#include "base/pull.h"
#include "base/utf8.h"
#include <string.h>

enum state { VALUE, VALUE_OR_END, KEY, KEY_OR_END, COLON, STRING, NUMBER, AFTER, DONE };
enum number { SIGN, ZERO, INTEGER, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, POWER };
enum step { ON, MORE, WHOLE, BAD };
enum { BARE_BYTES_MAX = 512 };

static const char gemma_quote[] = "<|\"|>";

static void reset(struct literal *l, enum dialect dialect) {
    struct buf json = l->json;
    buf_clear(&json);
    *l = (struct literal){ .dialect = dialect, .json = json, .mark = gemma_quote };
}

void literal_open(struct literal *l, enum dialect dialect) { reset(l, dialect); }

void literal_open_keywords(struct literal *l) {
    reset(l, LITERAL_PYTHON);
    l->state = KEY_OR_END;
    l->open[l->depth++] = 'k';
    buf_char(&l->json, '{');
    l->safe = 1;
}

void literal_free(struct literal *l) { buf_free(&l->json); }

void literal_put(struct buf *b, struct str s) {
    while (s.len) {
        uint32_t cp = 0;
        int n = utf8_next(s, &cp);
        if (!n) utf8_put(b, 0xFFFD);
        else if (n > 1) buf_put(b, s.at, (size_t)n);
        else if (cp == '"' || cp == '\\') buf_format(b, "\\%c", (char)cp);
        else if (cp == '\n') buf_str(b, S("\\n"));
        else if (cp == '\r') buf_str(b, S("\\r"));
        else if (cp == '\t') buf_str(b, S("\\t"));
        else if (cp < 0x20 || cp == 0x7f) buf_format(b, "\\u%04x", (unsigned)cp);
        else buf_char(b, (char)cp);
        s = str_from(s, n ? (size_t)n : 1);
    }
}

static bool verbatim(const struct literal *l) { return l->dialect == LITERAL_JSON; }

static void safe(struct literal *l, size_t at) {
    l->safe = l->json.len;
    l->safe_at = at;
}

static enum step push(struct literal *l, char opener, size_t *at) {
    if (l->depth == LITERAL_DEPTH_MAX) return BAD;
    l->open[l->depth++] = opener;
    buf_char(&l->json, opener == '{' ? '{' : '[');
    l->state = opener == '{' ? KEY_OR_END : VALUE_OR_END;
    safe(l, ++*at);
    return ON;
}

static enum step ended(struct literal *l, size_t at) {
    l->state = l->depth ? AFTER : DONE;
    safe(l, at);
    return l->depth ? ON : WHOLE;
}

static enum step pop(struct literal *l, char c, size_t *at) {
    char opener = l->depth ? l->open[l->depth - 1] : 0;
    bool fits = c == '}' ? opener == '{' : c == ']' ? opener == '['
              : opener == '(' || opener == 'k';
    if (!fits) return BAD;
    l->depth--;
    l->comma = false;
    buf_char(&l->json, opener == '{' || opener == 'k' ? '}' : ']');
    ++*at;
    return ended(l, *at);
}

static void owed_comma(struct literal *l) {
    if (l->comma) buf_str(&l->json, S(", "));
    l->comma = false;
}

/* ---- strings ---- */

/* MATCH_YES: a string begins, and *n bytes begin it. */
static enum match string_begins(struct literal *l, const struct said *s, size_t at, size_t *n) {
    struct str rest = str_from(s->text, at);
    *n = 1;
    if (l->dialect == LITERAL_GEMMA) {
        *n = strlen(l->mark);
        return said_at(s, at, l->mark);
    }
    char c = rest.at[0];
    if (c != '"' && (c != '\'' || verbatim(l))) return MATCH_NO;
    l->quote = c;
    l->quotes = 1;
    if (verbatim(l) || (rest.len > 1 && rest.at[1] != c)) return MATCH_YES;
    if (rest.len < 3 && !s->last) return MATCH_MORE;
    bool three = rest.len >= 3 && rest.at[1] == c && rest.at[2] == c;
    l->quotes = three ? 3 : 1;
    *n = three ? 3 : 1;
    return MATCH_YES;
}

static enum match string_ends(const struct literal *l, const struct said *s, size_t at, size_t *n) {
    struct str rest = str_from(s->text, at);
    if (l->dialect == LITERAL_GEMMA) {
        *n = strlen(l->mark);
        return said_at(s, at, l->mark);
    }
    *n = (size_t)l->quotes;
    for (size_t i = 0; i < *n; i++) {
        if (i == rest.len) return s->last ? MATCH_NO : MATCH_MORE;
        if (rest.at[i] != l->quote) return MATCH_NO;
    }
    return MATCH_YES;
}

/* Hexadecimal digits at the start of `s`; false: there are not that many. */
static bool hex(struct str s, size_t n, uint32_t *value) {
    *value = 0;
    if (s.len < n) return false;
    for (size_t i = 0; i < n; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *d = s.at[i] ? strchr(digits, s.at[i] | 0x20) : NULL;
        if (!d || (s.at[i] < 'A' && d - digits > 9)) return false;
        *value = *value << 4 | (uint32_t)(d - digits);
    }
    return true;
}

/* A backslash that begins no escape stands for itself: models forget to double it. */
static enum step backslash(struct literal *l, size_t *at) {
    buf_str(&l->json, S("\\\\"));
    ++*at;
    return ON;
}

/* An escaped half of a pair, which JSON readers need not take alone: then it is U+FFFD. */
static enum step surrogate(struct literal *l, const struct said *s, size_t *at, uint32_t unit) {
    struct str rest = str_from(s->text, *at);
    uint32_t low = 0;
    bool first = unit < 0xDC00;
    bool follows = first && !memcmp(rest.at + 6, "\\u", MIN(rest.len - 6, (size_t)2));
    if (follows && rest.len < 12 && !s->last) return MORE;
    bool pair = follows && rest.len >= 12 && hex(str_cut(rest, 8, 12), 4, &low) && low >= 0xDC00 &&
                low < 0xE000;
    if (pair) buf_put(&l->json, rest.at, 12);
    else buf_str(&l->json, S("\\ufffd"));
    *at += pair ? 12 : 6;
    if (!l->key) safe(l, *at);
    return ON;
}

static enum step json_escape(struct literal *l, const struct said *s, size_t *at) {
    struct str rest = str_from(s->text, *at);
    uint32_t unit;
    size_t n = 2;
    if (rest.len < 2) return MORE;
    if (rest.at[1] == 'u') {
        if (rest.len < 6 && !s->last) return MORE;
        if (!hex(str_cut(rest, 2, 6), 4, &unit)) return backslash(l, at);
        if (unit >= 0xD800 && unit < 0xE000) return surrogate(l, s, at, unit);
        n = 6;
    } else if (!rest.at[1] || !strchr("\"\\/bfnrt", rest.at[1])) {
        return backslash(l, at);
    }
    buf_put(&l->json, rest.at, n);
    *at += n;
    if (!l->key) safe(l, *at);
    return ON;
}

static enum step python_escape(struct literal *l, const struct said *s, size_t *at) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    struct str rest = str_from(s->text, *at);
    if (rest.len < 2) return MORE;
    char c = rest.at[1], plain[4];
    const char *known = c ? strchr(from, c) : NULL;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t cp;
    struct buf b = { 0 };
    if (digits) {
        if (rest.len < 2 + digits && !s->last) return MORE;
        if (!hex(str_cut(rest, 2, 2 + digits), digits, &cp)) return backslash(l, at);
        utf8_put(&b, cp);
        literal_put(&l->json, buf_view(&b));
        buf_free(&b);
    } else if (known) {
        plain[0] = to[known - from];
        literal_put(&l->json, (struct str){ plain, 1 });
    } else if (c != '\n') {          /* a newline after a backslash is left out */
        return backslash(l, at);
    }
    *at += 2 + digits;
    if (!l->key) safe(l, *at);
    return ON;
}

static enum step in_string(struct literal *l, const struct said *s, size_t *at) {
    struct str rest = str_from(s->text, *at);
    size_t n;
    enum match end = string_ends(l, s, *at, &n);
    if (end == MATCH_MORE) return MORE;
    if (end == MATCH_YES) {
        buf_char(&l->json, '"');
        *at += n;
        if (!l->key) return ended(l, *at);
        l->key = false;
        l->state = COLON;
        return ON;
    }
    if (rest.at[0] == '\\' && l->dialect != LITERAL_GEMMA)
        return verbatim(l) ? json_escape(l, s, at) : python_escape(l, s, at);
    uint32_t cp;
    int bytes = utf8_next(rest, &cp);
    if (!bytes && !s->last && utf8_complete(rest) == 0) return MORE;
    n = bytes ? (size_t)bytes : 1;
    literal_put(&l->json, str_cut(rest, 0, n));
    *at += n;
    if (!l->key) safe(l, *at);
    return ON;
}

/* ---- numbers, words, bare keys ---- */

/* The state after one more character; -1: it is no part of the number. */
static int number_next(int state, char c) {
    bool digit = c >= '0' && c <= '9', e = c == 'e' || c == 'E';
    switch (state) {
    case SIGN: return c == '0' ? ZERO : digit ? INTEGER : -1;
    case ZERO: return c == '.' ? POINT : e ? EXPONENT : -1;
    case INTEGER: return digit ? INTEGER : c == '.' ? POINT : e ? EXPONENT : -1;
    case POINT: return digit ? FRACTION : -1;
    case FRACTION: return digit ? FRACTION : e ? EXPONENT : -1;
    case EXPONENT: return digit ? POWER : c == '+' || c == '-' ? EXPONENT_SIGN : -1;
    case EXPONENT_SIGN: return digit ? POWER : -1;
    default: return digit ? POWER : -1;
    }
}

static enum step in_number(struct literal *l, const struct said *s, size_t *at) {
    int next = number_next(l->number, s->text.at[*at]);
    bool whole = l->number == ZERO || l->number == INTEGER || l->number == FRACTION ||
                 l->number == POWER;
    if (next < 0) return whole ? ended(l, *at) : BAD;
    l->number = (unsigned char)next;
    buf_char(&l->json, s->text.at[(*at)++]);
    if (next == ZERO || next == INTEGER || next == FRACTION || next == POWER) safe(l, *at);
    return ON;
}

static enum step word(struct literal *l, const struct said *s, size_t *at) {
    static const struct { const char *word, *json; } words[] = {
        { "true", "true" }, { "false", "false" }, { "null", "null" },
        { "True", "true" }, { "False", "false" }, { "None", "null" },
    };
    for (size_t i = 0; i < (verbatim(l) ? 3 : COUNT(words)); i++) {
        struct str rest = str_from(s->text, *at);
        size_t n = MIN(strlen(words[i].word), rest.len);
        if (memcmp(rest.at, words[i].word, n) != 0) continue;
        if (n < strlen(words[i].word)) return MORE;
        buf_str(&l->json, str_of(words[i].json));
        *at += strlen(words[i].word);
        return ended(l, *at);
    }
    return BAD;
}

/* Bytes up to one of `ends`; SIZE_MAX: too many, or there are none; 0 with *more: not there yet. */
static size_t bare(const struct said *s, size_t at, const char *ends, bool *more) {
    size_t n = 0;
    struct str rest = str_from(s->text, at);
    *more = false;
    while (n < rest.len && n < BARE_BYTES_MAX && !(rest.at[n] && strchr(ends, rest.at[n]))) n++;
    *more = n == rest.len && n < BARE_BYTES_MAX;
    return *more ? 0 : n == BARE_BYTES_MAX || !n ? SIZE_MAX : n;
}

static struct str without_blanks(struct str s) {
    while (s.len && said_blank(s.at[s.len - 1])) s.len--;
    return s;
}

static enum step bare_key(struct literal *l, const struct said *s, size_t *at) {
    bool more;
    char separator = l->open[l->depth - 1] == 'k' ? '=' : ':';
    size_t n = bare(s, *at, separator == '=' ? "=,(){}[]'\":\n" : ":,{}[]()\"'\n<", &more);
    if (more) return MORE;
    if (n == SIZE_MAX || s->text.at[*at + n] != separator) return BAD;
    owed_comma(l);
    buf_char(&l->json, '"');
    literal_put(&l->json, without_blanks(str_cut(s->text, *at, *at + n)));
    buf_char(&l->json, '"');
    l->state = COLON;
    *at += n;
    return ON;
}

static enum step gemma_word(struct literal *l, const struct said *s, size_t *at) {
    bool more;
    size_t n = bare(s, *at, ",}]{[<", &more);
    if (more) return MORE;
    if (n == SIZE_MAX) return BAD;
    struct str text = without_blanks(str_cut(s->text, *at, *at + n));
    struct pull j = pull_open(text);
    bool json = text.at[0] != '"' && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    if (!json) buf_char(&l->json, '"');
    if (json) buf_str(&l->json, text);
    else literal_put(&l->json, text);
    if (!json) buf_char(&l->json, '"');
    *at += n;
    return ended(l, *at);
}

/* ---- structure ---- */

static enum step value(struct literal *l, const struct said *s, size_t *at) {
    char c = s->text.at[*at];
    size_t n;
    enum match string = string_begins(l, s, *at, &n);
    if (string == MATCH_MORE) return MORE;
    if (string == MATCH_NO && c == ']' && l->state == VALUE_OR_END) return pop(l, c, at);
    if (string == MATCH_NO && c == ')' && l->state == VALUE_OR_END) return pop(l, c, at);
    size_t before = l->json.len;
    bool comma = l->comma;
    owed_comma(l);
    enum step step;
    if (string == MATCH_YES) {
        buf_char(&l->json, '"');
        l->state = STRING;
        safe(l, *at += n);
        return ON;
    }
    if (c == '{' || c == '[' || (c == '(' && l->dialect == LITERAL_PYTHON)) return push(l, c, at);
    if (c == '-' || (c >= '0' && c <= '9')) {
        l->state = NUMBER;
        l->number = SIGN;
        if (c != '-') return in_number(l, s, at);
        buf_char(&l->json, c);
        ++*at;
        return ON;
    }
    step = l->dialect == LITERAL_GEMMA ? gemma_word(l, s, at) : word(l, s, at);
    if (step == MORE) {
        l->json.len = before;
        l->comma = comma;
    }
    return step;
}

static enum step key(struct literal *l, const struct said *s, size_t *at) {
    size_t n;
    char c = s->text.at[*at];
    if ((c == '}' || c == ')') && l->state == KEY_OR_END) return pop(l, c, at);
    if (l->open[l->depth - 1] == 'k') return bare_key(l, s, at);
    enum match string = string_begins(l, s, *at, &n);
    if (string == MATCH_MORE) return MORE;
    if (string == MATCH_NO) return verbatim(l) ? BAD : bare_key(l, s, at);
    owed_comma(l);
    buf_char(&l->json, '"');
    l->key = true;
    l->state = STRING;
    *at += n;
    return ON;
}

static enum step after(struct literal *l, char c, size_t *at) {
    if (c != ',') return c == '}' || c == ']' || c == ')' ? pop(l, c, at) : BAD;
    char opener = l->open[l->depth - 1];
    bool object = opener == '{' || opener == 'k';
    if (verbatim(l)) buf_char(&l->json, c);
    else l->comma = true;
    /* Only JSON wants something after a comma. */
    l->state = verbatim(l) ? (object ? KEY : VALUE) : object ? KEY_OR_END : VALUE_OR_END;
    ++*at;
    return ON;
}

static enum step colon(struct literal *l, char c, size_t *at) {
    if (c != (l->open[l->depth - 1] == 'k' ? '=' : ':')) return BAD;
    buf_str(&l->json, verbatim(l) ? S(":") : S(": "));
    l->state = VALUE;
    ++*at;
    return ON;
}

static enum step step(struct literal *l, const struct said *s, size_t *at) {
    char c = s->text.at[*at];
    bool within = l->state == STRING || l->state == NUMBER;
    if (!within && said_blank(c)) {
        if (verbatim(l)) buf_char(&l->json, c);
        ++*at;
        if (l->state == AFTER || l->state == KEY_OR_END || l->state == VALUE_OR_END)
            if (!l->comma) safe(l, *at);
        return ON;
    }
    switch ((enum state)l->state) {
    case VALUE: case VALUE_OR_END: return value(l, s, at);
    case KEY: case KEY_OR_END: return key(l, s, at);
    case COLON: return colon(l, c, at);
    case STRING: return in_string(l, s, at);
    case NUMBER: return in_number(l, s, at);
    case AFTER: return after(l, c, at);
    case DONE: break;
    }
    return WHOLE;
}

enum literal_result literal_read(struct literal *l, const struct said *s, size_t *at) {
    while (*at < s->text.len) {
        size_t before = *at;
        enum step result = step(l, s, at);
        if (s->work) *s->work += *at - before + 1;
        if (result == MORE) break;
        if (result == WHOLE) return LITERAL_DONE;
        if (result == BAD) return LITERAL_BAD;
    }
    return LITERAL_MORE;
}

void literal_close(struct literal *l) {
    bool string = l->state == STRING && !l->key;
    l->json.len = l->safe;
    if (string) buf_char(&l->json, '"');
    while (l->depth) {
        char opener = l->open[--l->depth];
        buf_char(&l->json, opener == '{' || opener == 'k' ? '}' : ']');
    }
    l->safe = l->json.len;
    l->state = DONE;
}
