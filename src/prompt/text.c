/* text.c - strings with their marks; see text.h. Knows nothing of values. */
#include "prompt/text.h"
#include "base/utf8.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Space that texts with a common beginning share. Whoever ends where `used` ends may
 * append in place: the others keep their own length and never see the new bytes. This
 * makes `{% set ns.text = ns.text ~ piece %}` in a loop linear instead of quadratic. */
struct room { char *at; size_t used, cap; struct span *span; size_t spans_used, spans_cap; };

static const struct span whole = { 0, UINT32_MAX };

static struct text *text_new(struct box *box, const char *at, size_t len) {
    struct text *t = box_new(box, sizeof *t);
    t->at = at;
    t->len = (uint32_t)len;
    t->points = UINT32_MAX;
    return t;
}

struct text *text_view(struct box *box, struct str s, bool from_input) {
    if (s.len > BOX_OUTPUT_MAX) box_limit(box, "a string is longer than %d bytes", BOX_OUTPUT_MAX);
    struct text *t = text_new(box, s.at ? s.at : "", s.len);
    if (from_input && s.len) {
        t->span = &whole;
        t->n_spans = 1;
    }
    return t;
}

struct text *text_literal(struct box *box, const char *c_string) {
    return text_view(box, str_of(c_string), false);
}

struct str text_str(const struct text *t) {
    return (struct str){ t->at, t->len };
}

bool text_is(const struct text *t, const char *c_string) {
    return str_is(text_str(t), c_string);
}

bool text_from_input(const struct text *t) {
    return t->n_spans > 0;
}

size_t text_points(struct box *box, struct text *t) {
    if (t->points == UINT32_MAX) {
        uint32_t n = 0;
        for (size_t i = 0; i < t->len; i++) n += (t->at[i] & 0xC0) != 0x80;
        t->points = n;
        box_work(box, t->len / 64);
    }
    return t->points;
}

size_t text_offset(struct box *box, struct text *t, size_t point) {
    size_t points = text_points(box, t);
    if (point >= points) return t->len;
    if (points == t->len) return point;
    size_t i = 0;
    for (size_t seen = 0; i < t->len; i++)
        if ((t->at[i] & 0xC0) != 0x80 && seen++ == point) break;
    box_work(box, i / 64);
    return i;
}

static size_t first_span(const struct text *t, size_t begin) {
    size_t low = 0, high = t->n_spans;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->span[middle].end <= begin) low = middle + 1;
        else high = middle;
    }
    return low;
}

bool text_input_at(const struct text *t, size_t i) {
    size_t n = first_span(t, i);
    return n < t->n_spans && t->span[n].begin <= i;
}

struct text *text_cut(struct box *box, const struct text *t, size_t begin, size_t end) {
    end = MIN(end, t->len);
    begin = MIN(begin, end);
    struct text *cut = text_new(box, t->at + begin, end - begin);
    cut->markup = t->markup;
    size_t first = first_span(t, begin), last = first;
    while (last < t->n_spans && t->span[last].begin < end) last++;
    if (first == last) return cut;
    struct span *span = box_array(box, last - first, sizeof *span);
    for (size_t i = first; i < last; i++) {
        size_t from = MAX(t->span[i].begin, begin) - begin, to = MIN(t->span[i].end, end) - begin;
        span[i - first] = (struct span){ (uint32_t)from, (uint32_t)to };
    }
    cut->span = span;
    cut->n_spans = (uint32_t)(last - first);
    return cut;
}

/* Appends spans of `from`, moved by `at`; touching ones become one. */
static size_t copy_spans(struct span *to, size_t n, const struct text *from, size_t at) {
    for (size_t i = 0; i < from->n_spans; i++) {
        uint32_t begin = (uint32_t)(from->span[i].begin + at);
        uint32_t end = (uint32_t)(MIN(from->span[i].end, from->len) + at);
        if (n && to[n - 1].end >= begin) to[n - 1].end = end;
        else to[n++] = (struct span){ begin, end };
    }
    return n;
}

static struct room *room_new(struct box *box, const struct text *a, size_t more,
                             size_t more_spans) {
    enum { WORTH_SPARE_BYTES = 512 };
    struct room *room = box_new(box, sizeof *room);
    size_t len = a->len + more, n = a->n_spans + more_spans;
    bool spare = a->len > WORTH_SPARE_BYTES;
    room->cap = spare ? 2 * len : len;
    room->spans_cap = spare ? 2 * n : n;
    room->at = box_new(box, room->cap);
    room->span = box_array(box, room->spans_cap, sizeof *room->span);
    memcpy(room->at, a->at, a->len);
    room->used = a->len;
    room->spans_used = copy_spans(room->span, 0, a, 0);
    box_work(box, len / 64 + n / 8);
    return room;
}

struct text *text_join(struct box *box, struct text *a, struct text *b) {
    if (!b->len) return a;
    if (!a->len) return b;
    if ((size_t)a->len + b->len > BOX_OUTPUT_MAX)
        box_limit(box, "a string is longer than %d bytes", BOX_OUTPUT_MAX);
    struct room *room = a->room;
    if (!room || room->used != a->len || room->cap - room->used < b->len ||
        room->spans_used != a->n_spans || room->spans_cap - room->spans_used < b->n_spans)
        room = room_new(box, a, b->len, b->n_spans);
    memcpy(room->at + room->used, b->at, b->len);
    /* A merge with the last span changes what `a` sees of it, which is why readers clamp. */
    if (room->spans_used) {
        struct span *last = &room->span[room->spans_used - 1];
        last->end = MIN(last->end, a->len);
    }
    room->spans_used = copy_spans(room->span, room->spans_used, b, a->len);
    room->used += b->len;
    struct text *joined = text_new(box, room->at, room->used);
    joined->span = room->span;
    joined->n_spans = (uint32_t)room->spans_used;
    joined->room = room;
    if (a->points != UINT32_MAX && b->points != UINT32_MAX) joined->points = a->points + b->points;
    box_work(box, b->len / 64);
    return joined;
}

struct text *text_escaped(struct box *box, const struct text *t) {
    struct builder b = { .box = box };
    for (size_t i = 0; i < t->len; i++) {
        const char *entity = t->at[i] == '&' ? "&amp;" : t->at[i] == '<' ? "&lt;"
                           : t->at[i] == '>' ? "&gt;" : t->at[i] == '"' ? "&#34;"
                           : t->at[i] == '\'' ? "&#39;" : NULL;
        if (entity) put(&b, entity, strlen(entity), text_from_input(t));
        else put_cut(&b, t, i, i + 1);
    }
    struct text *escaped = built(&b);
    escaped->markup = true;
    return escaped;
}

/* UTF-8 sorts by bytes as it does by code points. */
int text_compare(struct str a, struct str b) {
    int order = memcmp(a.at, b.at, MIN(a.len, b.len));
    return order ? order : a.len < b.len ? -1 : a.len > b.len;
}

static void more_room(struct builder *b, size_t n) {
    if (n > BOX_OUTPUT_MAX - b->len)
        box_limit(b->box, "a string is longer than %d bytes", BOX_OUTPUT_MAX);
    box_work(b->box, n / 64);
    if (n <= b->cap - b->len) return;
    size_t cap = MAX(b->len + n, MAX(2 * b->cap, (size_t)64));
    char *at = box_new(b->box, cap);
    if (b->len) memcpy(at, b->at, b->len);
    b->at = at;
    b->cap = cap;
}

static void mark(struct builder *b, size_t begin, size_t end) {
    if (begin == end) return;
    if (b->n_spans && b->span[b->n_spans - 1].end >= begin) {
        b->span[b->n_spans - 1].end = (uint32_t)end;
        return;
    }
    if (b->n_spans == b->spans_cap) {
        size_t cap = MAX(2 * b->spans_cap, (size_t)8);
        struct span *span = box_array(b->box, cap, sizeof *span);
        if (b->n_spans) memcpy(span, b->span, b->n_spans * sizeof *span);
        b->span = span;
        b->spans_cap = cap;
    }
    b->span[b->n_spans++] = (struct span){ (uint32_t)begin, (uint32_t)end };
}

void put(struct builder *b, const char *bytes, size_t n, bool from_input) {
    if (!n) return;
    more_room(b, n);
    memcpy(b->at + b->len, bytes, n);
    if (from_input) mark(b, b->len, b->len + n);
    b->len += n;
}

void put_c(struct builder *b, const char *c_string) {
    put(b, c_string, strlen(c_string), false);
}

void put_point(struct builder *b, uint32_t cp, bool from_input) {
    char bytes[4];
    size_t n = 0;
    if (cp >= 0xD800 && cp < 0xE000) cp = 0xFFFD;
    if (cp < 0x80) bytes[n++] = (char)cp;
    else {
        int extra = cp < 0x800 ? 1 : cp < 0x10000 ? 2 : 3;
        bytes[n++] = (char)(extra == 1 ? 0xC0 | cp >> 6 : extra == 2 ? 0xE0 | cp >> 12
                                                                     : 0xF0 | cp >> 18);
        while (extra--) bytes[n++] = (char)(0x80 | (cp >> 6 * extra & 0x3F));
    }
    put(b, bytes, n, from_input);
}

void put_cut(struct builder *b, const struct text *t, size_t begin, size_t end) {
    if (begin >= end) return;
    size_t at = b->len;
    put(b, t->at + begin, end - begin, false);
    if (!t->n_spans) return;
    for (size_t i = first_span(t, begin); i < t->n_spans && t->span[i].begin < end; i++)
        mark(b, at + MAX(t->span[i].begin, begin) - begin, at + MIN(t->span[i].end, end) - begin);
}

void put_text(struct builder *b, const struct text *t) {
    put_cut(b, t, 0, t->len);
}

void put_fill(struct builder *b, const struct text *fill, size_t times) {
    if (!fill->len || !times) return;
    if (times > BOX_OUTPUT_MAX / fill->len)
        box_limit(b->box, "a string is longer than %d bytes", BOX_OUTPUT_MAX);
    more_room(b, times * fill->len);
    if (fill->n_spans) {
        box_work(b->box, times);
        while (times--) put_text(b, fill);
        return;
    }
    if (fill->len == 1) {
        memset(b->at + b->len, fill->at[0], times);
    } else {
        box_work(b->box, times / 8);
        for (size_t i = 0; i < times; i++)
            memcpy(b->at + b->len + i * fill->len, fill->at, fill->len);
    }
    b->len += times * fill->len;
}

void put_format(struct builder *b, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(b, text, n < 0 ? 0 : MIN((size_t)n, sizeof text - 1), false);
}

struct text *built(struct builder *b) {
    struct text *t = text_new(b->box, b->at ? b->at : "", b->len);
    t->span = b->span;
    t->n_spans = (uint32_t)b->n_spans;
    *b = (struct builder){ .box = b->box };
    return t;
}

uint32_t point_at(struct str s, size_t i, size_t *n) {
    unsigned char c = (unsigned char)s.at[i];
    int extra = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    uint32_t cp = extra == 0 ? c : c & (0x3Fu >> extra);
    for (int k = 1; k <= extra; k++) cp = cp << 6 | ((unsigned char)s.at[i + (size_t)k] & 0x3F);
    *n = (size_t)extra + 1;
    return cp;
}

bool point_is_space(uint32_t cp) {
    return (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static bool strippable(struct str s, size_t i, size_t *n, const struct text *set) {
    uint32_t cp = point_at(s, i, n);
    if (!set) return point_is_space(cp);
    struct str chars = text_str(set);
    for (size_t k = 0, step; k < chars.len; k += step)
        if (point_at(chars, k, &step) == cp) return true;
    return false;
}

void text_strip(const struct text *t, const struct text *set, bool left, bool right,
                size_t *begin, size_t *end) {
    struct str s = text_str(t);
    size_t n;
    *begin = 0;
    *end = s.len;
    while (left && *begin < *end && strippable(s, *begin, &n, set)) *begin += n;
    while (right && *end > *begin) {
        size_t last = *end - 1;
        while (last > *begin && (s.at[last] & 0xC0) == 0x80) last--;
        if (!strippable(s, last, &n, set)) break;
        *end = last;
    }
}

size_t str_find(struct str s, struct str what, size_t from, size_t to) {
    to = MIN(to, s.len);
    if (from > to || what.len > to - from) return SIZE_MAX;
    if (!what.len) return from;
    const char *found = memmem(s.at + from, to - from, what.at, what.len);
    return found ? (size_t)(found - s.at) : SIZE_MAX;
}

size_t str_rfind(struct str s, struct str what, size_t from, size_t to) {
    to = MIN(to, s.len);
    if (from > to || what.len > to - from) return SIZE_MAX;
    for (size_t i = to - what.len + 1; i-- > from;)
        if (!memcmp(s.at + i, what.at, what.len)) return i;
    return SIZE_MAX;
}
