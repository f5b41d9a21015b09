/* tojson.c - the tojson filter: byte for byte what Python's json.dumps writes
 * with ensure_ascii=False, as Hugging Face's template runner sets it (which is
 * not Jinja's own filter: nothing is escaped for HTML). */
#include "prompt/value.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_string(struct builder *b, const struct text *t, bool ascii) {
    struct str s = text_str(t);
    bool input = text_from_input(t);
    put_c(b, "\"");
    size_t from = 0;
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n);
        char escape[16] = "";
        const char *at = cp < 0x80 ? strchr("\"\\\n\r\t\b\f", (int)cp) : NULL;
        if (at && cp) snprintf(escape, sizeof escape, "\\%c", "\"\\nrtbf"[at - "\"\\\n\r\t\b\f"]);
        else if (cp < 0x20 || (ascii && cp > 0x7E && cp < 0x10000))
            snprintf(escape, sizeof escape, "\\u%04x", cp);
        else if (ascii && cp >= 0x10000)
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10),
                     0xDC00 + ((cp - 0x10000) & 0x3FF));
        else continue;
        put_cut(b, t, from, i);
        put(b, escape, strlen(escape), input);
        from = i + n;
    }
    put_cut(b, t, from, s.len);
    put_c(b, "\"");
}

static void put_number(struct builder *b, double f) {
    if (isnan(f)) put_c(b, "NaN");
    else if (isinf(f)) put_c(b, f < 0 ? "-Infinity" : "Infinity");
    else put_float(b, f);
}

static void new_line(struct builder *b, const struct json_style *style, size_t level) {
    if (!style->indent) return;
    put_c(b, "\n");
    put_fill(b, style->indent, level);
}

static void put_key(struct builder *b, struct value key, const struct json_style *style) {
    if (key.kind == V_TEXT) {
        put_string(b, key.u.text, style->ascii);
        return;
    }
    if (key.kind == V_LIST) box_fail(b->box, "tojson: a tuple cannot be a key in JSON");
    put_c(b, "\"");
    if (key.kind == V_NONE) put_c(b, "null");
    else if (key.kind == V_BOOL) put_c(b, key.u.truth ? "true" : "false");
    else if (key.kind == V_FLOAT) put_number(b, key.u.f);
    else put_repr(b, key);
    put_c(b, "\"");
}

/* Merge sort of pair numbers by key: stable, and the comparison may fail out of the box. */
static void sort_keys(struct box *box, const struct dict *d, size_t *order, size_t *spare,
                      size_t n) {
    if (n < 2) return;
    size_t half = n / 2;
    sort_keys(box, d, order, spare, half);
    sort_keys(box, d, order + half, spare, n - half);
    memcpy(spare, order, n * sizeof *order);
    size_t left = 0, right = half;
    for (size_t i = 0; i < n; i++) {
        bool take_right = left == half ||
            (right < n && v_less(box, d->at[spare[right]].key, d->at[spare[left]].key, "<"));
        order[i] = take_right ? spare[right++] : spare[left++];
    }
}

static void put_any(struct builder *, struct value, const struct json_style *, size_t level);

static void put_object(struct builder *b, const struct dict *d, const struct json_style *style,
                       size_t level) {
    size_t *order = NULL;
    if (style->sort) {
        order = box_array(b->box, d->n, sizeof *order);
        for (size_t i = 0; i < d->n; i++) order[i] = i;
        sort_keys(b->box, d, order, box_array(b->box, d->n, sizeof *order), d->n);
    }
    put_c(b, "{");
    for (size_t i = 0; i < d->n; i++) {
        const struct pair *pair = &d->at[order ? order[i] : i];
        if (i) put_text(b, style->comma);
        new_line(b, style, level + 1);
        put_key(b, pair->key, style);
        put_text(b, style->colon);
        put_any(b, pair->value, style, level + 1);
    }
    if (d->n) new_line(b, style, level);
    put_c(b, "}");
}

static void put_array(struct builder *b, const struct list *list, const struct json_style *style,
                      size_t level) {
    put_c(b, "[");
    for (size_t i = 0; i < list->n; i++) {
        if (i) put_text(b, style->comma);
        new_line(b, style, level + 1);
        put_any(b, list->at[i], style, level + 1);
    }
    if (list->n) new_line(b, style, level);
    put_c(b, "]");
}

static void put_any(struct builder *b, struct value v, const struct json_style *style,
                    size_t level) {
    box_work(b->box, 1);
    box_enter(b->box);
    bool array = v.kind == V_LIST && v.u.list->kind <= L_TUPLE;
    if (v.kind == V_NONE) put_c(b, "null");
    else if (v.kind == V_BOOL) put_c(b, v.u.truth ? "true" : "false");
    else if (v.kind == V_INT || v.kind == V_BIG) put_repr(b, v);
    else if (v.kind == V_FLOAT) put_number(b, v.u.f);
    else if (v.kind == V_TEXT) put_string(b, v.u.text, style->ascii);
    else if (v.kind == V_DICT) put_object(b, v.u.dict, style, level);
    else if (array) put_array(b, v.u.list, style, level);
    else box_fail(b->box, "tojson cannot write a value of type %s", v_type(v));
    b->box->depth--;
}

void put_json(struct builder *b, struct value v, const struct json_style *style) {
    put_any(b, v, style, 0);
}
