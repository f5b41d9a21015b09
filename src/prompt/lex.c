/* lex.c - template source to tokens. The rules of white space are Jinja's: a
 * newline after a block tag goes (trim_blocks), blanks before one that begins
 * its line go (lstrip_blocks), `-` takes all, `+` keeps. */
#include "prompt/template.h"
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct box *box;
    struct str s;
    size_t i;
    bool line_starts;                /* the last tag took the newline behind it */
    struct tokens *out;
};

static struct token *token(struct lexer *x, enum token_kind kind, size_t at) {
    struct tokens *out = x->out;
    if (out->n == out->cap) {
        size_t cap = MAX(2 * out->cap, (size_t)256);
        struct token *more = box_array(x->box, cap, sizeof *more);
        if (out->n) memcpy(more, out->at, out->n * sizeof *more);
        out->at = more;
        out->cap = cap;
    }
    struct token *t = &out->at[out->n++];
    t->kind = kind;
    t->at = (uint32_t)at;
    x->box->at = (uint32_t)at;
    return t;
}

static _Noreturn void fail_at(struct lexer *x, size_t at, const char *what) {
    x->box->at = (uint32_t)at;
    box_fail(x->box, "%s", what);
}

static bool at_literal(const struct lexer *x, size_t i, const char *what) {
    size_t n = strlen(what);
    return x->s.len - i >= n && !memcmp(x->s.at + i, what, n);
}

static size_t skip_space(const struct lexer *x, size_t i) {
    size_t n;
    while (i < x->s.len && point_is_space(point_at(x->s, i, &n))) i += n;
    return i;
}

/* Template text up to a tag at `end`, whose sign may eat white space before it. */
static void data(struct lexer *x, size_t begin, size_t end, char sign, bool block) {
    struct text t = { .at = x->s.at + begin, .len = (uint32_t)(end - begin) };
    size_t from, to;
    text_strip(&t, NULL, false, true, &from, &to);
    if (sign == '-') {
        end = begin + to;
    } else if (sign != '+' && block) {
        size_t line = end;
        while (line > begin && x->s.at[line - 1] != '\n') line--;
        if ((line > begin || x->line_starts) && begin + to <= line) end = line;
    }
    if (end > begin)
        token(x, T_DATA, begin)->u.text = (struct str){ x->s.at + begin, end - begin };
}

/* After `%}` or `#}` at i: what else the tag takes. */
static void tag_end(struct lexer *x, size_t i, char sign, bool trims) {
    if (sign == '-') i = skip_space(x, i);
    else if (sign != '+' && trims && i < x->s.len && x->s.at[i] == '\n') i++;
    x->i = i;
    x->line_starts = i > 0 && x->s.at[i - 1] == '\n';
}

static void comment(struct lexer *x, size_t tag, size_t body) {
    size_t end = str_find(x->s, S("#}"), body, SIZE_MAX);
    if (end == SIZE_MAX) fail_at(x, tag, "a comment is not closed");
    tag_end(x, end + 2, end > body ? x->s.at[end - 1] : 0, true);
}

/* `{% word %}` at the `{%` of `tag`: the offset of its end with *sign set, or SIZE_MAX. */
static size_t bare_tag(const struct lexer *x, size_t tag, const char *word, char *open,
                       char *close) {
    size_t i = tag + 2;
    *open = i < x->s.len && (x->s.at[i] == '-' || x->s.at[i] == '+') ? x->s.at[i++] : 0;
    i = skip_space(x, i);
    if (!at_literal(x, i, word)) return SIZE_MAX;
    i = skip_space(x, i + strlen(word));
    *close = i < x->s.len && (x->s.at[i] == '-' || x->s.at[i] == '+') ? x->s.at[i++] : 0;
    return at_literal(x, i, "%}") ? i + 2 : SIZE_MAX;
}

static void raw(struct lexer *x, size_t tag, size_t body, char close) {
    char open;
    tag_end(x, body, close, false);
    for (size_t begin = x->i, i = begin;; i++) {
        i = str_find(x->s, S("{%"), i, SIZE_MAX);
        if (i == SIZE_MAX) fail_at(x, tag, "a raw block is not closed");
        size_t end = bare_tag(x, i, "endraw", &open, &close);
        if (end == SIZE_MAX) continue;
        data(x, begin, i, open, true);
        tag_end(x, end, close, true);
        return;
    }
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool name_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || digit(c) || (c & 0x80);
}

static int digit_value(char c) {
    return digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

static void whole_number(struct lexer *x, size_t begin, size_t end, int base) {
    uint64_t n = 0;
    for (size_t i = begin; i < end; i++) {
        if (x->s.at[i] == '_') continue;
        uint64_t d = (uint64_t)digit_value(x->s.at[i]);
        if (n > (INT64_MAX - d) / (uint64_t)base) fail_at(x, begin, "an integer beyond 64 bits");
        n = n * (uint64_t)base + d;
    }
    token(x, T_INT, begin)->u.i = (int64_t)n;
}

static size_t digits(const struct lexer *x, size_t i, int base) {
    while (i < x->s.len && (digit_value(x->s.at[i]) < base ||
           (x->s.at[i] == '_' && i + 1 < x->s.len && digit_value(x->s.at[i + 1]) < base))) i++;
    return i;
}

static void number(struct lexer *x) {
    size_t begin = x->i, i = begin;
    char second = i + 1 < x->s.len ? (char)(x->s.at[i + 1] | 0x20) : 0;
    int base = x->s.at[i] != '0' ? 10 : second == 'x' ? 16 : second == 'o' ? 8 : second == 'b' ? 2
        : 10;
    if (base != 10) {
        x->i = digits(x, i + 2, base);
        whole_number(x, begin + 2, x->i, base);
        return;
    }
    i = digits(x, i, 10);
    size_t end = i;
    /* After a dot it is an index ("a.0.1"), never a fraction. */
    bool may_be_float = begin == 0 || x->s.at[begin - 1] != '.';
    if (i + 1 < x->s.len && x->s.at[i] == '.' && digit(x->s.at[i + 1])) end = digits(x, i + 1, 10);
    size_t e = end;
    if (e < x->s.len && (x->s.at[e] | 0x20) == 'e') {
        e++;
        if (e < x->s.len && (x->s.at[e] == '+' || x->s.at[e] == '-')) e++;
        if (e < x->s.len && digit(x->s.at[e])) end = digits(x, e, 10);
    }
    if (end == i || !may_be_float) {
        x->i = i;
        whole_number(x, begin, i, 10);
        return;
    }
    char spelling[128];
    size_t n = 0;
    for (size_t k = begin; k < end && n + 1 < sizeof spelling; k++)
        if (x->s.at[k] != '_') spelling[n++] = x->s.at[k];
    spelling[n] = 0;
    x->i = end;
    token(x, T_FLOAT, begin)->u.f = text_double(spelling);
}

/* The code point of \xHH and the like with `n` digits at i; SIZE_MAX: not that. */
static uint32_t hex(struct lexer *x, size_t i, int n) {
    uint32_t cp = 0;
    for (int k = 0; k < n; k++) {
        int d = i + (size_t)k < x->s.len ? digit_value(x->s.at[i + (size_t)k]) : 99;
        if (d > 15) fail_at(x, i, "a broken escape in a string");
        cp = cp << 4 | (uint32_t)d;
    }
    if (cp > 0x10FFFF) fail_at(x, i, "an escape beyond U+10FFFF");
    return cp;
}

/* The escape whose letter is at i; gives the offset behind it. */
static size_t escape(struct lexer *x, struct builder *b, size_t i) {
    char c = x->s.at[i];
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        put(b, &to[simple - from], 1, false);
        return i + 1;
    }
    int n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n) {
        put_point(b, hex(x, i + 1, n), false);
        return i + 1 + (size_t)n;
    }
    if (c >= '0' && c <= '7') {
        uint32_t cp = 0;
        size_t k = i;
        while (k < i + 3 && k < x->s.len && x->s.at[k] >= '0' && x->s.at[k] <= '7')
            cp = cp * 8 + (uint32_t)(x->s.at[k++] - '0');
        put_point(b, cp, false);
        return k;
    }
    if (c == '\n') return i + 1;
    if (c == 'N') fail_at(x, i, "\\N escapes are not supported");
    put(b, "\\", 1, false);
    return i;
}

static void string(struct lexer *x) {
    size_t begin = x->i, end = begin + 1;
    char quote = x->s.at[begin];
    bool plain = true;
    for (; end < x->s.len && x->s.at[end] != quote; end++)
        if (x->s.at[end] == '\\') {
            plain = false;
            end++;
        }
    if (end >= x->s.len) fail_at(x, begin, "a string is not closed");
    struct str text = str_cut(x->s, begin + 1, end);
    if (!plain) {
        struct builder b = { .box = x->box };
        for (size_t i = begin + 1; i < end;) {
            if (x->s.at[i] == '\\') i = escape(x, &b, i + 1);
            else put(&b, &x->s.at[i++], 1, false);
        }
        text = text_str(built(&b));
    }
    token(x, T_STRING, begin)->u.text = text;
    x->i = end + 1;
}

static void operator(struct lexer *x, struct str *open) {
    size_t at = x->i;
    char c = x->s.at[at], d = at + 1 < x->s.len ? x->s.at[at + 1] : 0;
    if (!c || !strchr("+-/*%~[](){}!<>=.:|,;", c)) fail_at(x, at, "an unexpected character");
    bool two = (d == '=' && strchr("=!<>", c)) || (d == c && (c == '/' || c == '*'));
    if (c == '!' && !two) fail_at(x, at, "an unexpected '!'");
    x->i += two ? 2 : 1;
    /* Brackets are matched here, as inside of them "}}" ends nothing. */
    if (strchr("([{", c)) {
        enum { BRACKETS_MAX = 200 };
        if (open->len >= BRACKETS_MAX) fail_at(x, at, "brackets nested too deeply");
        ((char *)open->at)[open->len++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!open->len && c == '}')
            fail_at(x, at, "an unexpected '}': {{ ends with }}, and {% with %}");
        if (!open->len) fail_at(x, at, "a bracket was not opened");
        if (open->at[open->len - 1] != c) fail_at(x, at, "another bracket is still open");
        open->len--;
    }
    token(x, T_OP, at)->op = two ? OP2(c, d) : c;
}

/* The inside of {{ }} or {% %}, its end included. */
static void tag(struct lexer *x, size_t begin, bool block) {
    char brackets[256];
    struct str open = { brackets, 0 };
    const char *close = block ? "%}" : "}}";
    for (;;) {
        x->i = skip_space(x, x->i);
        if (x->i >= x->s.len) fail_at(x, begin, "a tag is not closed");
        char c = x->s.at[x->i];
        bool sign = c == '-' || (c == '+' && block);
        if (!open.len && at_literal(x, x->i + sign, close)) {
            token(x, block ? T_BLOCK_END : T_PRINT_END, x->i);
            tag_end(x, x->i + sign + 2, sign ? c : 0, block);
            return;
        }
        if (digit(c)) {
            number(x);
        } else if (name_byte(c)) {
            size_t at = x->i;
            while (x->i < x->s.len && name_byte(x->s.at[x->i])) x->i++;
            token(x, T_NAME, at)->u.text = str_cut(x->s, at, x->i);
        } else if (c == '"' || c == '\'') {
            string(x);
        } else {
            operator(x, &open);
        }
    }
}

static size_t next_tag(const struct lexer *x, size_t i) {
    for (;; i++) {
        const char *brace = i < x->s.len ? memchr(x->s.at + i, '{', x->s.len - i) : NULL;
        if (!brace) return x->s.len;
        i = (size_t)(brace - x->s.at);
        if (i + 1 < x->s.len && strchr("%{#", x->s.at[i + 1]) && x->s.at[i + 1]) return i;
    }
}

void lex(struct box *box, struct str source, struct tokens *out) {
    struct lexer x = { .box = box, .s = source, .line_starts = true, .out = out };
    while (x.i < source.len) {
        size_t at = next_tag(&x, x.i), begin = x.i;
        if (at == source.len) {
            data(&x, begin, at, 0, false);
            break;
        }
        char kind = source.at[at + 1];
        char sign = at + 2 < source.len ? source.at[at + 2] : 0;
        bool has_sign = sign == '-' || sign == '+';
        data(&x, begin, at, has_sign ? sign : 0, kind != '{');
        char open, close;
        size_t end = kind == '%' ? bare_tag(&x, at, "raw", &open, &close) : SIZE_MAX;
        x.i = at + 2 + has_sign;
        if (end != SIZE_MAX) {
            raw(&x, at, end, close);
        } else if (kind == '#') {
            comment(&x, at, x.i);
        } else {
            token(&x, kind == '%' ? T_BLOCK : T_PRINT, at);
            tag(&x, at, kind == '%');
        }
    }
    token(&x, T_END, source.len);
}
