/* text.h - strings of a template run: UTF-8, counted in code points as Python
 * counts, each knowing which of its bytes came from outside.
 *
 * A span marks bytes that a user or a tool wrote. Every operation carries the
 * marks along, so that the finished prompt can say where control tokens must
 * not be recognised. Texts never change once made and are always valid UTF-8. */
#pragma once
#include "prompt/box.h"

struct span { uint32_t begin, end; };        /* bytes; ordered, neither empty nor touching */

struct text {
    const char *at;
    uint32_t len;                            /* bytes */
    uint32_t points;                         /* code points; UINT32_MAX: not counted yet */
    const struct span *span;                 /* the last one may reach past len: clamp it */
    uint32_t n_spans;
    bool markup;                             /* `safe`: what is added to it is escaped */
    struct room *room;                       /* spare space behind it, for appending; or NULL */
};

struct builder {                             /* pieces in, one text out; zero it but for box */
    struct box *box;
    char *at;
    size_t len, cap;
    struct span *span;
    size_t n_spans, spans_cap;
};

/* Borrows the bytes, which must be valid UTF-8 and outlive the box. */
struct text *text_view(struct box *, struct str, bool from_input);
struct text *text_literal(struct box *, const char *c_string);     /* borrowed too */
struct str text_str(const struct text *);
bool text_is(const struct text *, const char *c_string);
bool text_from_input(const struct text *);   /* any byte of it */
bool text_input_at(const struct text *, size_t i);                 /* this byte */

size_t text_points(struct box *, struct text *);
size_t text_offset(struct box *, struct text *, size_t point);     /* bytes; clamped to len */
struct text *text_cut(struct box *, const struct text *, size_t begin, size_t end);    /* bytes */
struct text *text_join(struct box *, struct text *, struct text *); /* cheap to repeat */
struct text *text_escaped(struct box *, const struct text *);      /* HTML; the result is markup */
int text_compare(struct str, struct str);    /* by code point */
double text_double(const char *spelling);    /* checked before; terminated */

void put(struct builder *, const char *bytes, size_t n, bool from_input);
void put_c(struct builder *, const char *c_string);                /* not from input */
void put_point(struct builder *, uint32_t cp, bool from_input);
void put_text(struct builder *, const struct text *);
void put_cut(struct builder *, const struct text *, size_t begin, size_t end);
void put_fill(struct builder *, const struct text *fill, size_t times);
void put_format(struct builder *, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct text *built(struct builder *);        /* the builder is empty after */

/* The code point at `i` and, in *n, its bytes. Valid text only. */
uint32_t point_at(struct str, size_t i, size_t *n);
bool point_is_space(uint32_t cp);            /* Python's str.isspace */
bool point_is_printable(uint32_t cp);        /* and its str.isprintable */
/* Bytes [*begin, *end) narrowed by white space, or by the characters of `set`, at either side. */
void text_strip(const struct text *, const struct text *set, bool left, bool right,
                size_t *begin, size_t *end);
/* First place of `what` in [from, to), or SIZE_MAX. rfind: the last. */
size_t str_find(struct str, struct str what, size_t from, size_t to);
size_t str_rfind(struct str, struct str what, size_t from, size_t to);
