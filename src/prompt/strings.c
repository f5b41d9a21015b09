/* strings.c - the operations on strings that methods and filters have in
 * common, and numbers read from strings. */
#include "prompt/builtins.h"
#include "prompt/cases.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool cased(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

static bool ignored_for_case(uint32_t cp) {
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_SK: return true;
    default: return cp == '\'' || cp == '.' || cp == ':' || cp == 0xB7 || cp == 0x2018 ||
        cp == 0x2019;
    }
}

/* Whether the capital sigma at i ends a word: a letter before it and none after. */
static bool final_sigma(struct str s, size_t i) {
    uint32_t cp = 0;
    size_t n, before = i;
    bool letter_before = false;
    while (before > 0) {
        do before--; while (before > 0 && (s.at[before] & 0xC0) == 0x80);
        cp = point_at(s, before, &n);
        if (ignored_for_case(cp)) continue;
        letter_before = cased(cp);
        break;
    }
    for (size_t after = i + 2; after < s.len; after += n) {
        cp = point_at(s, after, &n);
        if (!ignored_for_case(cp)) return letter_before && !cased(cp);
    }
    return letter_before;
}

static int fold(uint32_t cp, uint32_t to[3]) {
    utf8proc_int32_t folded[8];
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, folded, 8, UTF8PROC_CASEFOLD,
                                                 &boundary);
    if (n < 1 || n > 3) return case_lower(cp, to);
    for (int i = 0; i < n; i++) to[i] = (uint32_t)folded[i];
    return (int)n;
}

struct text *string_case(struct vm *vm, struct text *t, enum string_case how) {
    struct str s = text_str(t);
    struct builder b = { .box = &vm->box };
    bool in_word = false;
    box_work(&vm->box, s.len / 8);
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n), to[3];
        bool letter = cased(cp);
        int count;
        bool up = how == CASE_UPPER || (how == CASE_SWAP && case_lower(cp, to) && to[0] == cp);
        bool first = (how == CASE_CAPITAL && i == 0) || (how == CASE_TITLE && !in_word);
        if (up) count = case_upper(cp, to);
        else if (how == CASE_FOLD) count = fold(cp, to);
        else if (first) count = case_title(cp, to);
        else if (cp == 0x3A3 && final_sigma(s, i)) count = 1, to[0] = 0x3C2;
        else count = case_lower(cp, to);
        in_word = letter;
        bool input = text_input_at(t, i);
        for (int k = 0; k < count; k++) put_point(&b, to[k], input);
    }
    return built(&b);
}

struct text *string_trim(struct vm *vm, struct text *t, struct value set, bool left, bool right) {
    size_t begin, end;
    const struct text *chars = NULL;
    if (set.kind != V_ABSENT && set.kind != V_NONE) chars = vm_text(vm, set, "what to strip");
    /* Each character stripped is looked for in the whole set, so a long set is paid for first. */
    enum { SHORT_SET = 16 };
    if (chars && chars->len > SHORT_SET)
        box_work(&vm->box, ((size_t)t->len / 8 + 1) * (chars->len / 8));
    text_strip(t, chars, left, right, &begin, &end);
    box_work(&vm->box, (t->len - (end - begin)) / 16);
    return begin == 0 && end == t->len ? t : text_cut(&vm->box, t, begin, end);
}

struct text *string_replace(struct vm *vm, struct text *t, struct text *from, struct text *to,
                            int64_t times) {
    struct str s = text_str(t);
    struct builder b = { .box = &vm->box };
    size_t at = 0;
    box_work(&vm->box, s.len / 16);
    for (uint64_t done = 0; times < 0 || done < (uint64_t)times; done++) {
        size_t found = str_find(s, text_str(from), at, SIZE_MAX), n;
        if (found == SIZE_MAX) break;
        box_work(&vm->box, 1);
        put_cut(&b, t, at, found);
        put_text(&b, to);
        at = found + from->len;
        if (from->len) continue;
        /* An empty pattern is found before every code point, and at the end. */
        if (at >= s.len) return built(&b);
        point_at(s, at, &n);
        put_cut(&b, t, at, at + n);
        at += n;
    }
    if (!at && !b.len) return t;
    put_cut(&b, t, at, s.len);
    return built(&b);
}

struct text *string_pad(struct vm *vm, struct text *t, int64_t width, struct value fill_value,
                        int left_parts, int right_parts) {
    struct text *fill = text_literal(&vm->box, " ");
    if (fill_value.kind != V_ABSENT) fill = vm_text(vm, fill_value, "the fill character");
    if (text_points(&vm->box, fill) != 1) box_fail(&vm->box, "the fill must be one character");
    int64_t points = (int64_t)text_points(&vm->box, t);
    if (width <= points) return t;
    int64_t margin = width - points, left = left_parts ? margin : 0;
    /* Python's centre puts the odd one left only when both margin and width are odd. */
    if (left_parts && right_parts) left = margin / 2 + (margin & width & 1);
    struct builder b = { .box = &vm->box };
    put_fill(&b, fill, (size_t)left);
    put_text(&b, t);
    put_fill(&b, fill, (size_t)(margin - left));
    return built(&b);
}

struct text *string_join(struct vm *vm, struct text *separator, struct list *items) {
    struct builder b = { .box = &vm->box };
    for (size_t i = 0; i < items->n; i++) {
        if (i) put_text(&b, separator);
        put_value(&b, items->at[i]);
    }
    return built(&b);
}

static struct str stripped(struct str s) {
    struct text t = { .at = s.at, .len = (uint32_t)s.len };
    size_t begin, end;
    text_strip(&t, NULL, true, true, &begin, &end);
    return str_cut(s, begin, end);
}

/* Copies without underscores, which may stand between digits only. */
static bool plain_spelling(struct str s, char *to, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        bool between = i > 0 && i + 1 < s.len && s.at[i - 1] >= '0' && s.at[i - 1] <= '9' &&
                       s.at[i + 1] >= '0' && s.at[i + 1] <= '9';
        if (s.at[i] == '_' && between) continue;
        if (n + 1 >= size) return false;
        to[n++] = s.at[i];
    }
    to[n] = 0;
    return n > 0;
}

double text_double(const char *spelling) {
    return strtod(spelling, NULL);
}

bool number_float(struct str s, double *out) {
    char spelling[400];
    if (!plain_spelling(stripped(s), spelling, sizeof spelling)) return false;
    const char *p = spelling + (*spelling == '-' || *spelling == '+');
    static const char *const words[] = { "inf", "infinity", "nan" };
    for (size_t i = 0; i < COUNT(words); i++)
        if (!strcasecmp(p, words[i])) {
            *out = copysign(i == 2 ? NAN : INFINITY, *spelling == '-' ? -1 : 1);
            return true;
        }
    size_t whole = strspn(p, "0123456789"), part = 0;
    const char *q = p + whole;
    if (*q == '.') q += 1 + (part = strspn(q + 1, "0123456789"));
    if (!whole && !part) return false;
    if (*q == 'e' || *q == 'E') {
        q += q[1] == '-' || q[1] == '+' ? 2 : 1;
        size_t digits = strspn(q, "0123456789");
        if (!digits) return false;
        q += digits;
    }
    if (*q) return false;
    *out = text_double(spelling);
    return true;
}

bool number_int(struct str s, int base, int64_t *out) {
    s = stripped(s);
    bool negative = s.len && s.at[0] == '-';
    if (s.len && (s.at[0] == '-' || s.at[0] == '+')) s = str_from(s, 1);
    char letter = s.len > 1 && s.at[0] == '0' ? (char)(s.at[1] | 0x20) : 0;
    int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix && (base == prefix || base == 0)) {
        s = str_from(s, 2);
        base = prefix;
    }
    if (base == 0) base = 10;
    if (!s.len || s.at[0] == '_' || s.at[s.len - 1] == '_') return false;
    int64_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = (char)(s.at[i] | 0x20);
        if (s.at[i] == '_' && s.at[i - 1] != '_') continue;
        int digit = s.at[i] >= '0' && s.at[i] <= '9' ? s.at[i] - '0'
                  : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (digit >= base) return false;
        if (__builtin_mul_overflow(n, base, &n) ||
            __builtin_add_overflow(n, negative ? -digit : digit, &n)) return false;
    }
    *out = n;
    return true;
}
