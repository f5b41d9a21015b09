/* regex_rewrite.c - from Oniguruma's Ruby syntax to PCRE2's, where they differ.
 *
 * One pass over the pattern, copying atoms; the start of the last atom is kept, as a
 * possessive-looking `{n,m}+` must wrap it. Classes are read to a list of operands
 * (`a&&b`), each without nested brackets, and written as look-aheads. */
#include "tokens/regex.h"
#include <string.h>

#define SPACE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
              "\\x{205f}\\x{3000}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define HEX "0-9a-fA-F"

enum { GROUPS_MAX = 64, CLASS_DEPTH_MAX = 8 };

struct rewrite {
    struct str in;
    size_t at;
    struct buf *out;
    size_t atom;                     /* where in out the last atom begins */
    bool has_atom;
    size_t open[GROUPS_MAX];         /* where in out each open group begins */
    int n_open;
    struct err *err;
};

/* Long names of general categories, and names that are properties rather than scripts. */
static const struct { const char *from, *to; } names[] = {
    { "Letter", "L" }, { "Mark", "M" }, { "Number", "N" }, { "Punctuation", "P" },
    { "Symbol", "S" }, { "Separator", "Z" }, { "Other", "C" }, { "Uppercase_Letter", "Lu" },
    { "Lowercase_Letter", "Ll" }, { "Titlecase_Letter", "Lt" }, { "Modifier_Letter", "Lm" },
    { "Other_Letter", "Lo" }, { "Nonspacing_Mark", "Mn" }, { "Spacing_Mark", "Mc" },
    { "Enclosing_Mark", "Me" }, { "Decimal_Number", "Nd" }, { "Letter_Number", "Nl" },
    { "Other_Number", "No" }, { "Alphabetic", "Alphabetic" }, { "Alpha", "Alphabetic" },
    { "Uppercase", "Uppercase" }, { "Lowercase", "Lowercase" }, { "Upper", "Uppercase" },
    { "Lower", "Lowercase" }, { "Digit", "Nd" }, { "Emoji", "Emoji" }, { "Any", "Any" },
    { "White_Space", "White_Space" }, { "Join_Control", "Join_Control" },
    { "Ideographic", "Ideographic" },
    { "Extended_Pictographic", "Extended_Pictographic" },
};

static bool fail(struct rewrite *r, const char *what) {
    return err_set(r->err, "the regex \"%.*s\" is not supported: %s", STR_ARG(r->in), what);
}

/* \p{...} or \P{...}; at is behind the p. */
static bool property(struct rewrite *r, char p, struct buf *out) {
    size_t begin = r->at + 1, end = begin;
    if (r->at >= r->in.len || r->in.at[r->at] != '{')
        return fail(r, "a property without braces");
    while (end < r->in.len && r->in.at[end] != '}')
        end++;
    if (end == r->in.len)
        return fail(r, "a property without an end");
    struct str name = str_cut(r->in, begin, end);
    r->at = end + 1;
    if (str_starts(name, "^")) {
        p = p == 'p' ? 'P' : 'p';
        name = str_from(name, 1);
    }
    buf_format(out, "\\%c{", p);
    size_t i = 0;
    while (i < COUNT(names) && !str_is(name, names[i].from))
        i++;
    if (i < COUNT(names)) {
        buf_str(out, str_of(names[i].to));
    } else {
        /* Oniguruma's scripts are without extensions; PCRE2's bare names are with them. */
        bool plain = name.len <= 2 || memchr(name.at, '=', name.len)
            || memchr(name.at, ':', name.len);
        buf_str(out, plain ? S("") : S("sc:"));
        buf_str(out, name);
    }
    buf_char(out, '}');
    return true;
}

/* \uHHHH, which PCRE2 does not know; at is behind the u. */
static bool four_hex(struct rewrite *r, struct buf *out) {
    if (r->in.len - r->at < 4)
        return fail(r, "a \\u without four digits");
    buf_str(out, S("\\x{"));
    buf_str(out, str_cut(r->in, r->at, r->at + 4));
    buf_char(out, '}');
    r->at += 4;
    return true;
}

static bool class_escape(struct rewrite *r, struct buf *out) {
    char c = r->in.at[r->at++];
    switch (c) {
    case 's': buf_str(out, S(SPACE)); return true;
    case 'w': buf_str(out, S(WORD)); return true;
    case 'h': buf_str(out, S(HEX)); return true;
    case 'S': buf_str(out, S("\\S\\x{180e}")); return true;
    case 'p': case 'P': return property(r, c, out);
    case 'u': return four_hex(r, out);
    case 'W': case 'H': case 'R': case 'X':
        return fail(r, "\\W, \\H, \\R or \\X inside of a class");
    default:
        buf_char(out, '\\');
        buf_char(out, c);
        return true;
    }
}

/* One operand of a class as PCRE2 would have it between brackets, or several joined by &&.
 * Nested classes are allowed as a union (when not negated) and as a whole operand. */
struct operand { struct buf body; bool negated; };
enum { OPERANDS_MAX = 8 };

static bool class_items(struct rewrite *r, struct operand *part, int *n) {
    int depth = 0;
    bool first = true, nested_whole = false;
    for (;; first = false) {
        if (r->at >= r->in.len)
            return fail(r, "a class without an end");
        struct operand *now = &part[*n];
        char c = r->in.at[r->at++];
        if (c == ']' && (!first || depth)) {
            if (!depth)
                return ++*n, true;
            depth--;
        } else if (c == '&' && r->at < r->in.len && r->in.at[r->at] == '&') {
            r->at++;
            if (depth || *n + 1 >= OPERANDS_MAX)
                return fail(r, "&& inside of a nested class");
            ++*n;
            nested_whole = false;
        } else if (c == '[' && r->at < r->in.len && r->in.at[r->at] == ':') {
            return fail(r, "a POSIX class");
        } else if (c == '[') {
            if (++depth > CLASS_DEPTH_MAX)
                return fail(r, "classes nested too deeply");
            if (r->at < r->in.len && r->in.at[r->at] == '^') {
                if (now->body.len || depth > 1)
                    return fail(r, "a negated class in a union");
                now->negated = nested_whole = true;
                r->at++;
            }
        } else if (nested_whole && !depth) {
            return fail(r, "a negated class in a union");
        } else if (c == '\\' && r->at < r->in.len) {
            if (!class_escape(r, &now->body))
                return false;
        } else {
            if (c == '[' || (c == ']' && first))
                buf_char(&now->body, '\\');
            buf_char(&now->body, c);
        }
    }
}

static void put_class(struct buf *out, const struct operand *part, bool negated) {
    buf_str(out, negated ? S("[^") : S("["));
    buf_str(out, buf_view(&part->body));
    buf_char(out, ']');
}

static bool class(struct rewrite *r) {
    struct operand part[OPERANDS_MAX] = { 0 };
    int n = 0;
    bool negated = r->at < r->in.len && r->in.at[r->at] == '^';
    r->at += negated;
    bool done = class_items(r, part, &n);
    for (int i = 0; done && i < n; i++)
        if (!part[i].body.len)
            done = fail(r, "an empty class");
    if (done && n == 1) {
        put_class(r->out, part, negated != part[0].negated);
    } else if (done) {
        buf_str(r->out, negated ? S("(?:(?!") : S("(?:"));
        for (int i = 0; i < n; i++) {
            buf_str(r->out, S("(?="));
            put_class(r->out, &part[i], part[i].negated);
            buf_char(r->out, ')');
        }
        buf_str(r->out, negated ? S(")(?s:.))") : S("(?s:.))"));
    }
    for (int i = 0; i < OPERANDS_MAX; i++)
        buf_free(&part[i].body);
    return done;
}

static bool escape(struct rewrite *r) {
    if (r->at >= r->in.len)
        return fail(r, "a backslash at the end");
    char c = r->in.at[r->at++];
    switch (c) {
    case 's': buf_str(r->out, S("[" SPACE "]")); return true;
    case 'S': buf_str(r->out, S("[^" SPACE "]")); return true;
    case 'w': buf_str(r->out, S("[" WORD "]")); return true;
    case 'W': buf_str(r->out, S("[^" WORD "]")); return true;
    case 'h': buf_str(r->out, S("[" HEX "]")); return true;
    case 'H': buf_str(r->out, S("[^" HEX "]")); return true;
    case 'b':
        buf_str(r->out, S("(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))"));
        return true;
    case 'B':
        buf_str(r->out, S("(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))"));
        return true;
    case 'p': case 'P': return property(r, c, r->out);
    case 'u': return four_hex(r, r->out);
    default:
        buf_char(r->out, '\\');
        buf_char(r->out, c);
        return true;
    }
}

/* The {n,m} behind an atom, with its braces; empty when the brace is a plain character. */
static struct str interval(struct rewrite *r) {
    size_t end = r->at + 1;
    bool digit = false;
    while (end < r->in.len && ((r->in.at[end] >= '0' && r->in.at[end] <= '9')
                               || r->in.at[end] == ','))
        digit |= r->in.at[end++] != ',';
    if (!digit || end >= r->in.len || r->in.at[end] != '}')
        return (struct str){ 0 };
    return str_cut(r->in, r->at, end + 1);
}

static bool repeat(struct rewrite *r, struct str braces) {
    r->at += braces.len;
    char next = r->at < r->in.len ? r->in.at[r->at] : 0;
    bool fixed = !memchr(braces.at, ',', braces.len);
    if (next != '+' && !(next == '?' && fixed)) {
        if (str_starts(braces, "{,"))         /* from 0, which PCRE2 10.42 does not know */
            buf_str(r->out, S("{0")), braces = str_from(braces, 1);
        buf_str(r->out, braces);
        return true;
    }
    struct buf atom = { 0 };
    buf_put(&atom, r->out->at + r->atom, r->out->len - r->atom);
    r->out->len = r->atom;
    buf_str(r->out, S("(?:"));
    buf_str(r->out, buf_view(&atom));
    buf_str(r->out, braces);
    buf_char(r->out, ')');
    buf_char(r->out, next);
    buf_free(&atom);
    r->at++;
    return true;
}

static bool group_or_char(struct rewrite *r, char c) {
    r->at++;
    if (c == '(') {
        if (r->n_open == GROUPS_MAX)
            return fail(r, "groups nested too deeply");
        r->open[r->n_open++] = r->out->len;
        r->has_atom = false;
        buf_char(r->out, c);
        /* The mark of a group is no quantifier: "(?" goes over together. */
        if (r->at < r->in.len && r->in.at[r->at] == '?') {
            buf_char(r->out, '?');
            r->at++;
        }
        return true;
    }
    if (c == ')') {
        if (!r->n_open)
            return fail(r, "a parenthesis without an opening one");
        r->atom = r->open[--r->n_open];
        r->has_atom = true;
    } else if (c != '*' && c != '+' && c != '?') {
        r->atom = r->out->len;
        r->has_atom = c != '|';
        while (r->at < r->in.len && ((unsigned char)r->in.at[r->at] & 0xc0) == 0x80) {
            buf_char(r->out, c);
            c = r->in.at[r->at++];
        }
    }
    buf_char(r->out, c);
    return true;
}

/* "\s+$" at the end, alone or as an alternative: in the middle of a run of white space it matches
 * only where it did so from the run's begin. Said aloud, that saves a search through every run
 * from each of its characters, which PCRE2's JIT avoids by itself, but not its interpreter. */
static bool ends_blank(struct str pattern) {
    struct str before = str_cut(pattern, 0, pattern.len - MIN(pattern.len, (size_t)4));
    return str_ends(pattern, "\\s+$")
        && (!before.len || (str_ends(before, "|") && !str_ends(before, "\\|")));
}

bool regex_rewrite(struct str pattern, struct buf *out, struct err *err) {
    bool blank = ends_blank(pattern);
    if (blank)
        pattern.len -= 4;
    struct rewrite r = { .in = pattern, .out = out, .err = err };
    while (r.at < pattern.len) {
        char c = pattern.at[r.at];
        struct str braces = c == '{' && r.has_atom ? interval(&r) : (struct str){ 0 };
        bool done;
        if (braces.len) {
            done = repeat(&r, braces);
        } else if (c == '\\' || c == '[') {
            r.at++;
            r.atom = out->len;
            r.has_atom = true;
            done = c == '[' ? class(&r) : escape(&r);
        } else {
            done = group_or_char(&r, c);
        }
        if (!done)
            return false;
    }
    if (blank)
        buf_str(out, r.n_open ? S("[" SPACE "]+$") : S("(?:\\G|(?<![" SPACE "]))[" SPACE "]+$"));
    return true;
}
