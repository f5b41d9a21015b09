/* value.h - the values a template computes with, and Python's rules for them.
 *
 * There are no host objects: a value is data, a macro, or one of a fixed set of
 * built-in functions. Lists and dicts never change once made, but for a
 * generator that is gone through; only a namespace does, so nothing else can contain itself. */
#pragma once
#include "prompt/text.h"
#include <json-c/json_object.h>

enum value_kind {
    V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_TEXT, V_LIST, V_DICT,
    V_BIG,                           /* an integer beyond 64 bits: shown, not computed with */
    V_SPACE,                         /* namespace(...) */
    V_MACRO, V_BUILTIN, V_LOOP, V_CYCLER, V_JOINER,
    V_ABSENT                         /* no value at all: an argument not given, a name not set */
};

/* What Python would call the type of a V_LIST; it decides what can be done with it. */
enum list_kind { L_LIST, L_TUPLE, L_GENERATOR, L_ITEMS, L_KEYS, L_VALUES, L_RANGE };

struct value {
    enum value_kind kind;
    union {
        const struct text *missing;  /* V_UNDEFINED: why, as a sentence part; or NULL */
        bool truth;
        int64_t i;
        double f;
        struct text *text;           /* V_TEXT, V_BIG */
        struct list *list;
        struct dict *dict;           /* V_DICT, V_SPACE */
        const struct macro *macro;
        const struct bound *bound;   /* V_BUILTIN */
        struct loop *loop;
        struct cycler *cycler;
    } u;
};

struct list {
    struct value *at;
    size_t n, cap;
    enum list_kind kind;
    int64_t start, stop, step;       /* of a range */
    bool group;                      /* of groupby: its two items are .grouper and .list */
};
struct pair { struct value key, value; };
struct dict {
    struct pair *at;
    size_t n, cap;
    uint32_t *index;                 /* pair number + 1 by hash; NULL while small */
    size_t index_cap;
};

struct cycler { struct list *items; size_t next; };        /* a joiner counts calls with it */

/* A built-in function, perhaps taken off a value ("abc".upper). */
struct bound { struct value self; const struct builtin *builtin; };

/* A value of each kind; v_missing is undefined with the reason, for the error that may come. */
struct value v_undefined(void);
struct value v_missing(struct box *, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct value v_none(void);
struct value v_bool(bool);
struct value v_int(int64_t);
struct value v_float(double);
struct value v_text(struct text *);
struct value v_list(struct list *);
struct value v_dict(struct dict *);

struct list *list_new(struct box *, enum list_kind, size_t cap);
void list_put(struct box *, struct list *, struct value);
struct dict *dict_new(struct box *);
void dict_put(struct box *, struct dict *, struct value key, struct value);   /* replaces */
struct value *dict_get(struct box *, const struct dict *, struct value key);  /* NULL: none */
struct value *dict_find(struct box *, const struct dict *, const char *key);

/* Everything json-c may hold, strings repaired and (from_input) marked. Borrows its strings. */
struct value v_json(struct box *, struct json_object *, bool from_input);

const char *v_type(struct value);                          /* Python's name of the type */
bool v_truth(struct value);
bool v_number(struct value);                               /* int, float or bool */
bool v_is_int(struct value);                               /* int or bool */
int64_t v_as_int(struct value);                            /* of one that v_is_int */
double v_as_float(struct value);                           /* of one that v_number */
bool v_equal(struct box *, struct value, struct value);
/* Fails when the two have no order; neither may be NaN. */
int v_compare(struct box *, struct value, struct value, const char *op);
bool v_less(struct box *, struct value, struct value, const char *op);        /* false for NaN */
bool v_contains(struct box *, struct value container, struct value item);
bool v_iterable(struct value);
/* The items as a list that must not be changed: list, tuple, keys of a dict, characters. Of a
 * generator they can be had once. */
struct list *v_items(struct box *, struct value);

struct text *v_str(struct box *, struct value);            /* Python's str() */
void put_value(struct builder *, struct value);            /* the same, appended */
void put_repr(struct builder *, struct value);             /* Python's repr() */
void put_float(struct builder *, double);                  /* shortest that reads back */
void put_quoted(struct builder *, const struct text *);

/* What json.dumps' arguments say; indent NULL: all on one line. */
struct json_style { bool ascii, sort; const struct text *indent, *comma, *colon; };
void put_json(struct builder *, struct value, const struct json_style *);
