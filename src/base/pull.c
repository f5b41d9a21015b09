/* pull.c - a pull reader for JSON in memory. */
#include "base/pull.h"
#include "base/utf8.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pull pull_open(struct str text) {
    return (struct pull){ .text = text, .first = true };
}

void pull_close(struct pull *j) {
    buf_free(&j->scratch);
}

bool pull_fail(struct pull *j, const char *what) {
    if (!j->error) j->error = what;
    return false;
}

/* 0x80 in each byte of x that is c. */
static uint64_t bytes_equal(uint64_t x, unsigned char c) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu;
    x ^= 0x0101010101010101u * c;
    return ~(((x & low) + low) | x | low);
}

/* The first byte from i on that is no white space, eight at a time: indentation is a third of many
 * files. */
static size_t skip_space(struct str s, size_t i) {
    i += i < s.len && s.at[i] == '\n';
    for (uint64_t x; s.len - i >= sizeof x; i += sizeof x) {
        if ((unsigned char)s.at[i] > ' ') return i;
        memcpy(&x, s.at + i, sizeof x);
        if (x == 0x2020202020202020u) continue;
        uint64_t other = ~(bytes_equal(x, ' ') | bytes_equal(x, '\n')) & 0x8080808080808080u;
        if (!other) continue;
        if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) i += (unsigned)__builtin_ctzll(other) / 8;
        if ((unsigned char)s.at[i] > ' ') return i;
        break;
    }
    while (i < s.len && (s.at[i] == ' ' || s.at[i] == '\n' || s.at[i] == '\r' || s.at[i] == '\t'))
        i++;
    return i;
}

/* The byte at *i after white space, or 0 at the end. A NUL in the text is no token either, so 0 is
 * never mistaken. */
static inline char byte_after_space(struct str s, size_t *i) {
    if (*i < s.len && (unsigned char)s.at[*i] <= ' ') *i = skip_space(s, *i);
    return *i < s.len ? s.at[*i] : 0;
}

/* The byte at the cursor after white space, or 0 at the end or after an error. */
static inline char look(struct pull *j) {
    return j->error ? 0 : byte_after_space(j->text, &j->offset);
}

static inline bool take(struct pull *j, char c) {
    if (look(j) != c) return false;
    j->offset++;
    return true;
}

static bool word(struct pull *j, const char *w) {
    look(j);
    if (!str_starts(str_from(j->text, j->offset), w)) return false;
    j->offset += strlen(w);
    return true;
}

static const uint8_t kind_of[128] = {
    ['"'] = PULL_STRING, ['{'] = PULL_OBJECT, ['['] = PULL_ARRAY, ['n'] = PULL_NULL,
    ['t'] = PULL_BOOL, ['f'] = PULL_BOOL, ['-'] = PULL_NUMBER, ['0'] = PULL_NUMBER,
    ['1'] = PULL_NUMBER, ['2'] = PULL_NUMBER, ['3'] = PULL_NUMBER, ['4'] = PULL_NUMBER,
    ['5'] = PULL_NUMBER, ['6'] = PULL_NUMBER, ['7'] = PULL_NUMBER, ['8'] = PULL_NUMBER,
    ['9'] = PULL_NUMBER,
};

static inline enum pull_kind peek(struct pull *j) {
    unsigned char c = (unsigned char)look(j);
    if (j->lenient && (c == 'N' || c == 'I')) return PULL_NUMBER;
    return c < sizeof kind_of ? (enum pull_kind)kind_of[c] : PULL_NONE;
}

enum pull_kind pull_peek(struct pull *j) {
    return peek(j);
}

static bool enter(struct pull *j, char open, const char *what) {
    if (j->error) return false;
    if (!take(j, open)) return pull_fail(j, what);
    if (j->depth == PULL_DEPTH_MAX) return pull_fail(j, "nested too deep");
    uint64_t bit = 1ull << j->depth++;
    j->in_object = open == '{' ? j->in_object | bit : j->in_object & ~bit;
    j->first = true;
    return true;
}

bool pull_object(struct pull *j) {
    return enter(j, '{', "expected an object");
}

bool pull_array(struct pull *j) {
    return enter(j, '[', "expected a list");
}

/* Before the next member: true when there is one, false when `close` came (and was taken). */
static inline bool member(struct pull *j, char close) {
    if (j->error) return false;
    if (take(j, close)) {
        j->depth--;
        j->first = false;
        return false;
    }
    if (!j->first && !take(j, ',')) return pull_fail(j, "expected a comma or the end");
    j->first = false;
    return true;
}

bool pull_next(struct pull *j) {
    if (!member(j, ']')) return false;
    return peek(j) != PULL_NONE || pull_fail(j, "expected a value");
}

static int hex4(struct str s) {
    int v = 0;
    if (s.len < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = s.at[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
              : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The cursor is behind "\u". A lone surrogate is an error: no UTF-8 says it. */
static bool unicode_escape(struct pull *j) {
    int high = hex4(str_from(j->text, j->offset));
    if (high < 0) return pull_fail(j, "bad \\u escape");
    j->offset += 4;
    uint32_t cp = (uint32_t)high;
    if (high >= 0xd800 && high <= 0xdfff) {
        struct str rest = str_from(j->text, j->offset);
        int low = str_starts(rest, "\\u") ? hex4(str_from(rest, 2)) : -1;
        if (high > 0xdbff || low < 0xdc00 || low > 0xdfff)
            return pull_fail(j, "lone surrogate in a \\u escape");
        j->offset += 6;
        cp = 0x10000 + (((uint32_t)high - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
    }
    utf8_put(&j->scratch, cp);
    return true;
}

static bool escape(struct pull *j) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = j->offset < j->text.len ? j->text.at[j->offset] : 0;
    j->offset++;
    if (c == 'u') return unicode_escape(j);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found) return pull_fail(j, "bad escape in a string");
    buf_char(&j->scratch, to[found - from]);
    return true;
}

/* A bit in each byte of x that is below n, which is at most 128. Right up to the lowest such
 * byte; a borrow may set bits above it. */
static uint64_t bytes_below(uint64_t x, unsigned n) {
    return (x - 0x0101010101010101u * n) & ~x & 0x8080808080808080u;
}

/* Bytes up to the next quote, backslash, control character or end, eight at a time. Most strings
 * are ASCII, and need no look at their UTF-8. */
static inline size_t plain_run(struct str s, bool *ascii) {
    const unsigned char *at = (const unsigned char *)s.at;
    uint64_t all = 0;
    size_t n = 0;
    for (uint64_t x; s.len - n >= sizeof x; n += sizeof x) {
        memcpy(&x, at + n, sizeof x);
        uint64_t stop = bytes_below(x, 0x20) | bytes_below(x ^ 0x2222222222222222u, 1)
            | bytes_below(x ^ 0x5c5c5c5c5c5c5c5cu, 1);
        if (stop && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) break;
        if (stop) {
            unsigned bits = (unsigned)__builtin_ctzll(stop) & ~7u;
            all |= x & (((uint64_t)1 << bits) - 1);
            *ascii = !(all & 0x8080808080808080u);
            return n + bits / 8;
        }
        all |= x;
    }
    for (; n < s.len && at[n] >= 0x20 && at[n] != '"' && at[n] != '\\'; n++) all |= at[n];
    *ascii = !(all & 0x8080808080808080u);
    return n;
}

/* The cursor is in a string, at the first byte that is not itself. */
static bool string_rest(struct pull *j, size_t begin, struct str *out) {
    buf_clear(&j->scratch);
    buf_str(&j->scratch, str_cut(j->text, begin, j->offset));
    for (;;) {
        if (j->offset >= j->text.len) return pull_fail(j, "unterminated string");
        char c = j->text.at[j->offset];
        if (c == '"') break;
        if (c != '\\') return pull_fail(j, "control character in a string");
        j->offset++;
        if (!escape(j)) return false;
        struct str run = str_from(j->text, j->offset);
        bool ascii;
        run.len = plain_run(run, &ascii);
        if (!ascii && !utf8_valid(run)) return pull_fail(j, "invalid UTF-8 in a string");
        buf_str(&j->scratch, run);
        j->offset += run.len;
    }
    *out = buf_view(&j->scratch);
    if (!out->at) out->at = "";
    j->offset++;
    return true;
}

static inline bool string(struct pull *j, struct str *out) {
    if (!take(j, '"')) return pull_fail(j, "expected a string");
    size_t begin = j->offset;
    struct str run = { j->text.at + begin, j->text.len - begin };
    bool ascii;
    run.len = plain_run(run, &ascii);
    if (!ascii && !utf8_valid(run)) return pull_fail(j, "invalid UTF-8 in a string");
    j->offset += run.len;
    if (j->offset >= j->text.len || j->text.at[j->offset] != '"')
        return string_rest(j, begin, out);
    *out = run;                      /* as it stands in the text */
    j->offset++;
    return true;
}

bool pull_key(struct pull *j, struct str *key) {
    if (!member(j, '}')) return false;
    if (!string(j, key)) return false;
    if (!take(j, ':')) return pull_fail(j, "expected a colon");
    return peek(j) != PULL_NONE || pull_fail(j, "expected a value");
}

bool pull_string(struct pull *j, struct str *out) {
    return !j->error && string(j, out);
}

/* A string without escapes at *i, behind white space. */
static inline bool plain_string(struct str text, size_t *i, struct str *out) {
    bool ascii;
    if (byte_after_space(text, i) != '"') return false;
    *out = (struct str){ text.at + *i + 1, text.len - *i - 1 };
    out->len = plain_run(*out, &ascii);
    *i += out->len + 2;
    return *i <= text.len && text.at[*i - 1] == '"' && (ascii || utf8_valid(*out));
}

bool pull_pair(struct pull *j, struct str *left, struct str *right) {
    struct str text = j->text;
    if (look(j) != '[' || j->depth == PULL_DEPTH_MAX) return false;
    size_t i = j->offset + 1;
    if (!plain_string(text, &i, left) || byte_after_space(text, &i) != ',') return false;
    i++;
    if (!plain_string(text, &i, right) || byte_after_space(text, &i) != ']') return false;
    j->offset = i + 1;
    j->first = false;
    return true;
}

static size_t digits(struct str s, size_t i) {
    size_t begin = i;
    while (i < s.len && s.at[i] >= '0' && s.at[i] <= '9') i++;
    return i - begin;
}

/* Length of a JSON number at the start of s; 0: none. */
static size_t number_length(struct str s) {
    size_t i = s.len && s.at[0] == '-', n = digits(s, i);
    if (!n || (n > 1 && s.at[i] == '0')) return 0;
    i += n;
    if (i < s.len && s.at[i] == '.') {
        n = digits(s, i + 1);
        if (!n) return 0;
        i += 1 + n;
    }
    if (i < s.len && (s.at[i] == 'e' || s.at[i] == 'E')) {
        size_t sign = i + 1 < s.len && (s.at[i + 1] == '-' || s.at[i + 1] == '+');
        n = digits(s, i + 1 + sign);
        if (!n) return 0;
        i += 1 + sign + n;
    }
    return i;
}

bool pull_number(struct pull *j, struct str *out) {
    static const char *const odd[] = { "NaN", "Infinity", "-Infinity" };
    if (pull_peek(j) != PULL_NUMBER) return pull_fail(j, "expected a number");
    size_t begin = j->offset, n = number_length(str_from(j->text, begin));
    for (size_t i = 0; !n && j->lenient && i < COUNT(odd); i++)
        if (str_starts(str_from(j->text, begin), odd[i])) n = strlen(odd[i]);
    if (!n) return pull_fail(j, "bad number");
    j->offset += n;
    *out = str_cut(j->text, begin, j->offset);
    return true;
}

/* Ids are whole numbers of at most seven digits, which one word holds: the digits of neighbours
 * join to pairs, pairs to fours, fours to the number. 0: anything else. */
static size_t small_number(struct pull *j, uint64_t max, uint64_t *out) {
    char c = look(j);
    uint64_t x;
    if (c < '1' || c > '9' || j->text.len - j->offset < sizeof x) return 0;
    memcpy(&x, j->text.at + j->offset, sizeof x);
    x ^= 0x3030303030303030u;
    uint64_t other = (((x & 0x7f7f7f7f7f7f7f7fu) + 0x7676767676767676u) | x) & 0x8080808080808080u;
    if (!other || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) return 0;
    unsigned n = (unsigned)__builtin_ctzll(other) / 8;
    char end = j->text.at[j->offset + n];
    x <<= 64 - 8 * n;
    x = (x * 10 + (x >> 8)) & 0x00ff00ff00ff00ffu;
    x = (x * 100 + (x >> 16)) & 0x0000ffff0000ffffu;
    x = (x * 10000 + (x >> 32)) & 0xffffffffu;
    if (end == '.' || end == 'e' || end == 'E' || x > max) return 0;
    *out = x;
    return n;
}

bool pull_u64(struct pull *j, uint64_t max, uint64_t *out) {
    struct str s;
    size_t n = small_number(j, max, out);
    j->offset += n;
    if (n) return true;
    if (!pull_number(j, &s)) return false;
    return str_u64(s, max, out) || pull_fail(j, "expected a whole number in range");
}

bool pull_double(struct pull *j, double *out) {
    struct str s;
    char text[64];
    if (!pull_number(j, &s)) return false;
    if (s.len >= sizeof text) return pull_fail(j, "number too long");
    memcpy(text, s.at, s.len);
    text[s.len] = 0;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);   /* a comma locale must not matter */
    *out = strtod_l(text, NULL, c);
    freelocale(c);
    return true;
}

bool pull_bool(struct pull *j, bool *out) {
    if (j->error) return false;
    *out = word(j, "true");
    return *out || word(j, "false") || pull_fail(j, "expected true or false");
}

bool pull_null(struct pull *j) {
    return !j->error && (word(j, "null") || pull_fail(j, "expected null"));
}

/* A scalar, or the opening of a container. */
static bool skip_one(struct pull *j) {
    struct str s;
    bool b;
    switch (pull_peek(j)) {
    case PULL_STRING: return pull_string(j, &s);
    case PULL_NUMBER: return pull_number(j, &s);
    case PULL_BOOL:   return pull_bool(j, &b);
    case PULL_NULL:   return pull_null(j);
    case PULL_ARRAY:  return pull_array(j);
    case PULL_OBJECT: return pull_object(j);
    case PULL_NONE:   break;
    }
    return pull_fail(j, "expected a value");
}

bool pull_skip(struct pull *j) {
    int floor = j->depth;
    struct str key;
    if (!skip_one(j)) return false;
    while (j->depth > floor && !j->error) {
        bool object = j->in_object >> (j->depth - 1) & 1;
        if (object ? pull_key(j, &key) : pull_next(j)) skip_one(j);
    }
    return !j->error;
}

bool pull_value(struct pull *j, struct str *out) {
    look(j);
    size_t begin = j->offset;
    if (!pull_skip(j)) return false;
    *out = str_cut(j->text, begin, j->offset);
    return true;
}

bool pull_end(struct pull *j) {
    if (!j->error && j->depth) pull_fail(j, "unexpected end");
    look(j);
    if (!j->error && j->offset < j->text.len) pull_fail(j, "something follows the value");
    return !j->error;
}
