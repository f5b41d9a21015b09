/* repr.c - values as text, the way Python's str() and repr() show them. */
#include "prompt/value.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Digits of the shortest decimal that reads back as `f`, and its exponent. */
static int shortest(double f, char *digits, int *exponent) {
    char text[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, f);
        if (text_double(text) == f) break;
    }
    int n = 0;
    char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[n++] = *p;
    *exponent = 0;
    bool negative = p[1] == '-';
    for (p += 2; *p; p++) *exponent = *exponent * 10 + (*p - '0');
    if (negative) *exponent = -*exponent;
    while (n > 1 && digits[n - 1] == '0') n--;
    return n;
}

void put_float(struct builder *b, double f) {
    if (isnan(f)) {
        put_c(b, "nan");
        return;
    }
    if (signbit(f)) put_c(b, "-");
    f = fabs(f);
    if (isinf(f)) {
        put_c(b, "inf");
        return;
    }
    char digits[40];
    int exponent, n = shortest(f, digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        put(b, digits, 1, false);
        if (n > 1) put_c(b, ".");
        put(b, digits + 1, (size_t)n - 1, false);
        put_format(b, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        put_c(b, "0.");
        for (int i = -1; i > exponent; i--) put_c(b, "0");
        put(b, digits, (size_t)n, false);
    } else {
        for (int i = 0; i <= exponent; i++) put(b, i < n ? &digits[i] : "0", 1, false);
        put_c(b, ".");
        if (n > exponent + 1) put(b, digits + exponent + 1, (size_t)(n - exponent - 1), false);
        else put_c(b, "0");
    }
}

bool point_is_printable(uint32_t cp) {
    if (cp == ' ') return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO: case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

/* Escapes stand for input bytes, so they are marked as those are. */
void put_quoted(struct builder *b, const struct text *t) {
    struct str s = text_str(t);
    bool double_quotes = memchr(s.at, '\'', s.len) && !memchr(s.at, '"', s.len);
    char quote = double_quotes ? '"' : '\'';
    bool input = text_from_input(t);
    put(b, &quote, 1, false);
    size_t from = 0;
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n);
        char escape[16] = "";
        if (cp == '\\' || cp == (uint32_t)quote) snprintf(escape, sizeof escape, "\\%c", (char)cp);
        else if (cp == '\n') memcpy(escape, "\\n", 3);
        else if (cp == '\r') memcpy(escape, "\\r", 3);
        else if (cp == '\t') memcpy(escape, "\\t", 3);
        else if (point_is_printable(cp)) continue;
        else if (cp < 0x100) snprintf(escape, sizeof escape, "\\x%02x", cp);
        else if (cp < 0x10000) snprintf(escape, sizeof escape, "\\u%04x", cp);
        else snprintf(escape, sizeof escape, "\\U%08x", cp);
        put_cut(b, t, from, i);
        put(b, escape, strlen(escape), input);
        from = i + n;
    }
    put_cut(b, t, from, s.len);
    put(b, &quote, 1, false);
}

static void put_list(struct builder *b, const struct list *list) {
    static const char *const open[] = {
        [L_LIST] = "[", [L_TUPLE] = "(", [L_ITEMS] = "dict_items([", [L_KEYS] = "dict_keys([",
        [L_VALUES] = "dict_values([",
    };
    static const char *const close[] = {
        [L_LIST] = "]", [L_TUPLE] = ")", [L_ITEMS] = "])", [L_KEYS] = "])", [L_VALUES] = "])",
    };
    if (list->kind == L_GENERATOR) {
        put_c(b, "<generator object>");
        return;
    }
    if (list->kind == L_RANGE) {
        put_format(b, "range(%lld, %lld", (long long)list->start, (long long)list->stop);
        if (list->step != 1) put_format(b, ", %lld", (long long)list->step);
        put_c(b, ")");
        return;
    }
    put_c(b, open[list->kind]);
    for (size_t i = 0; i < list->n; i++) {
        if (i) put_c(b, ", ");
        put_repr(b, list->at[i]);
    }
    if (list->kind == L_TUPLE && list->n == 1) put_c(b, ",");
    put_c(b, close[list->kind]);
}

static void put_dict(struct builder *b, const struct dict *dict) {
    put_c(b, "{");
    for (size_t i = 0; i < dict->n; i++) {
        if (i) put_c(b, ", ");
        put_repr(b, dict->at[i].key);
        put_c(b, ": ");
        put_repr(b, dict->at[i].value);
    }
    put_c(b, "}");
}

void put_repr(struct builder *b, struct value v) {
    box_work(b->box, 1);
    box_enter(b->box);
    switch (v.kind) {
    case V_UNDEFINED: put_c(b, "Undefined"); break;
    case V_NONE: put_c(b, "None"); break;
    case V_BOOL: put_c(b, v.u.truth ? "True" : "False"); break;
    case V_INT: put_format(b, "%lld", (long long)v.u.i); break;
    case V_BIG: put_text(b, v.u.text); break;
    case V_FLOAT: put_float(b, v.u.f); break;
    case V_TEXT:
        if (v.u.text->markup) put_c(b, "Markup(");
        put_quoted(b, v.u.text);
        if (v.u.text->markup) put_c(b, ")");
        break;
    case V_LIST: put_list(b, v.u.list); break;
    case V_DICT: put_dict(b, v.u.dict); break;
    case V_SPACE:
        put_c(b, "<Namespace ");
        put_dict(b, v.u.dict);
        put_c(b, ">");
        break;
    default: put_format(b, "<%s>", v_type(v));
    }
    b->box->depth--;
}

void put_value(struct builder *b, struct value v) {
    if (v.kind == V_TEXT) put_text(b, v.u.text);
    else if (v.kind != V_UNDEFINED) put_repr(b, v);
}

struct text *v_str(struct box *box, struct value v) {
    if (v.kind == V_TEXT) return v.u.text;
    struct builder b = { .box = box };
    put_value(&b, v);
    return built(&b);
}
