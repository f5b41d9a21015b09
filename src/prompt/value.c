/* value.c - making values, lists and dicts; truth, equality, order; see value.h.
 * How values look as text is in repr.c and tojson.c. */
#include "prompt/value.h"
#include "base/utf8.h"
#include <json-c/json.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { SMALL_DICT = 12 };

struct value v_undefined(void) {
    return (struct value){ .kind = V_UNDEFINED };
}

struct value v_missing(struct box *box, const char *format, ...) {
    char sentence[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    struct builder b = { .box = box };
    put(&b, sentence, n < 0 ? 0 : MIN((size_t)n, sizeof sentence - 1), false);
    return (struct value){ .kind = V_UNDEFINED, .u.missing = built(&b) };
}

struct value v_none(void) {
    return (struct value){ .kind = V_NONE };
}

struct value v_bool(bool truth) {
    return (struct value){ .kind = V_BOOL, .u.truth = truth };
}

struct value v_int(int64_t i) {
    return (struct value){ .kind = V_INT, .u.i = i };
}

struct value v_float(double f) {
    return (struct value){ .kind = V_FLOAT, .u.f = f };
}

struct value v_text(struct text *text) {
    return (struct value){ .kind = V_TEXT, .u.text = text };
}

struct value v_list(struct list *list) {
    return (struct value){ .kind = V_LIST, .u.list = list };
}

struct value v_dict(struct dict *dict) {
    return (struct value){ .kind = V_DICT, .u.dict = dict };
}

struct list *list_new(struct box *box, enum list_kind kind, size_t cap) {
    struct list *list = box_new(box, sizeof *list);
    list->kind = kind;
    list->cap = cap;
    if (cap) list->at = box_array(box, cap, sizeof *list->at);
    return list;
}

void list_put(struct box *box, struct list *list, struct value v) {
    if (list->n == list->cap) {
        size_t cap = MAX(2 * list->cap, (size_t)4);
        struct value *at = box_array(box, cap, sizeof *at);
        if (list->n) memcpy(at, list->at, list->n * sizeof *at);
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = v;
}

struct dict *dict_new(struct box *box) {
    return box_new(box, sizeof(struct dict));
}

/* Equal keys hash alike: 1, 1.0 and True are one key. Seeded, as keys come from requests. */
static uint64_t hash(struct box *box, struct value key) {
    uint64_t seed = (uint64_t)(uintptr_t)box;
    box_work(box, 1);
    if (key.kind == V_TEXT || key.kind == V_BIG)
        return XXH3_64bits_withSeed(key.u.text->at, key.u.text->len, seed);
    if (v_number(key)) {
        double f = v_as_float(key);
        if (f == 0) f = 0;               /* -0.0 is 0.0 */
        return XXH3_64bits_withSeed(&f, sizeof f, seed);
    }
    if (key.kind == V_NONE || key.kind == V_UNDEFINED) return (uint64_t)key.kind;
    if (key.kind == V_LIST && (key.u.list->kind == L_TUPLE || key.u.list->kind == L_RANGE)) {
        uint64_t mixed = seed;
        box_enter(box);
        for (size_t i = 0; i < key.u.list->n; i++)
            mixed = mixed * 0x9E3779B97F4A7C15u + hash(box, key.u.list->at[i]);
        box->depth--;
        return mixed;
    }
    box_fail(box, "a value of type %s cannot be a dict's key", v_type(key));
}

static void index_put(struct box *box, struct dict *d, size_t i) {
    size_t slot = hash(box, d->at[i].key) & (d->index_cap - 1);
    while (d->index[slot]) slot = (slot + 1) & (d->index_cap - 1);
    d->index[slot] = (uint32_t)(i + 1);
}

static struct pair *lookup(struct box *box, const struct dict *d, struct value key) {
    uint64_t h = hash(box, key);
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (v_equal(box, d->at[i].key, key)) return &d->at[i];
        return NULL;
    }
    for (size_t slot = h & (d->index_cap - 1); d->index[slot]; slot =
         (slot + 1) & (d->index_cap - 1)) {
        struct pair *pair = &d->at[d->index[slot] - 1];
        box_work(box, 1);
        if (v_equal(box, pair->key, key)) return pair;
    }
    return NULL;
}

void dict_put(struct box *box, struct dict *d, struct value key, struct value v) {
    struct pair *there = lookup(box, d, key);
    if (there) {
        there->value = v;
        return;
    }
    if (d->n == d->cap) {
        d->cap = MAX(2 * d->cap, (size_t)4);
        struct pair *at = box_array(box, d->cap, sizeof *at);
        if (d->n) memcpy(at, d->at, d->n * sizeof *at);
        d->at = at;
    }
    d->at[d->n++] = (struct pair){ key, v };
    if (d->n <= SMALL_DICT) return;
    if (2 * d->n > d->index_cap) {
        d->index_cap = MAX(4 * d->index_cap, (size_t)64);
        d->index = box_array(box, d->index_cap, sizeof *d->index);
        for (size_t i = 0; i + 1 < d->n; i++) index_put(box, d, i);
    }
    index_put(box, d, d->n - 1);
}

struct value *dict_get(struct box *box, const struct dict *d, struct value key) {
    struct pair *pair = lookup(box, d, key);
    return pair ? &pair->value : NULL;
}

struct value *dict_find(struct box *box, const struct dict *d, const char *key) {
    struct text text = { .at = key, .len = (uint32_t)strlen(key) };
    return dict_get(box, d, v_text(&text));
}

static struct text *json_text(struct box *box, struct str s, bool from_input) {
    if (utf8_valid(s)) return text_view(box, s, from_input);
    struct buf repaired = { 0 };
    utf8_repair(&repaired, s);
    struct builder b = { .box = box };
    /* The box's limits leave by longjmp, so the buffer must be gone before they can strike. */
    char *copy = arena_new(&box->arena, repaired.len);
    memcpy(copy, repaired.at, repaired.len);
    size_t len = repaired.len;
    buf_free(&repaired);
    put(&b, copy, len, from_input);
    return built(&b);
}

static struct value json_int(struct box *box, struct json_object *j) {
    uint64_t large = json_object_get_uint64(j);
    if (json_object_get_int64(j) < 0 || large <= INT64_MAX) return v_int(json_object_get_int64(j));
    struct builder b = { .box = box };
    put_format(&b, "%llu", (unsigned long long)large);
    return (struct value){ .kind = V_BIG, .u.text = built(&b) };
}

struct value v_json(struct box *box, struct json_object *j, bool from_input) {
    box_work(box, 1);
    switch (json_object_get_type(j)) {
    case json_type_null:
        return v_none();
    case json_type_boolean:
        return v_bool(json_object_get_boolean(j));
    case json_type_int:
        return json_int(box, j);
    case json_type_double:
        return v_float(json_object_get_double(j));
    case json_type_string: {
        struct str s = { json_object_get_string(j), (size_t)json_object_get_string_len(j) };
        return v_text(json_text(box, s, from_input));
    }
    case json_type_array: {
        size_t n = json_object_array_length(j);
        struct list *list = list_new(box, L_LIST, n);
        box_enter(box);
        for (size_t i = 0; i < n; i++)
            list_put(box, list, v_json(box, json_object_array_get_idx(j, i), from_input));
        box->depth--;
        return v_list(list);
    }
    default:
        break;
    }
    struct dict *dict = dict_new(box);
    box_enter(box);
    json_object_object_foreach(j, key, item) {
        struct text *name = json_text(box, str_of(key), from_input);
        dict_put(box, dict, v_text(name), v_json(box, item, from_input));
    }
    box->depth--;
    return v_dict(dict);
}

const char *v_type(struct value v) {
    static const char *const names[] = {
        [V_UNDEFINED] = "undefined", [V_NONE] = "none", [V_BOOL] = "bool", [V_INT] = "int",
        [V_FLOAT] = "float", [V_TEXT] = "str", [V_DICT] = "dict", [V_BIG] = "int",
        [V_SPACE] = "namespace", [V_MACRO] = "macro", [V_BUILTIN] = "function",
        [V_LOOP] = "loop", [V_CYCLER] = "cycler", [V_JOINER] = "joiner",
    };
    static const char *const lists[] = {
        [L_LIST] = "list", [L_TUPLE] = "tuple", [L_GENERATOR] = "generator",
        [L_ITEMS] = "dict_items", [L_KEYS] = "dict_keys", [L_VALUES] = "dict_values",
        [L_RANGE] = "range",
    };
    return v.kind == V_LIST ? lists[v.u.list->kind] : names[v.kind];
}

bool v_truth(struct value v) {
    switch (v.kind) {
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.u.truth;
    case V_INT: return v.u.i != 0;
    case V_FLOAT: return v.u.f != 0;
    case V_TEXT: return v.u.text->len > 0;
    case V_LIST: return v.u.list->n > 0 || v.u.list->kind == L_GENERATOR;
    case V_DICT: return v.u.dict->n > 0;
    default: return true;
    }
}

bool v_is_int(struct value v) {
    return v.kind == V_INT || v.kind == V_BOOL;
}

bool v_number(struct value v) {
    return v_is_int(v) || v.kind == V_FLOAT;
}

int64_t v_as_int(struct value v) {
    return v.kind == V_BOOL ? v.u.truth : v.u.i;
}

double v_as_float(struct value v) {
    return v.kind == V_FLOAT ? v.u.f : (double)v_as_int(v);
}

static int int_against_float(int64_t i, double f) {
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

/* Exact, also where an int has no double. Neither may be NaN. */
static int number_order(struct value a, struct value b) {
    if (v_is_int(a) && v_is_int(b)) {
        int64_t x = v_as_int(a), y = v_as_int(b);
        return x < y ? -1 : x > y;
    }
    if (v_is_int(a)) return int_against_float(v_as_int(a), b.u.f);
    if (v_is_int(b)) return -int_against_float(v_as_int(b), a.u.f);
    return a.u.f < b.u.f ? -1 : a.u.f > b.u.f;
}

static bool is_nan(struct value v) {
    return v.kind == V_FLOAT && isnan(v.u.f);
}

static bool lists_equal(struct box *box, const struct list *a, const struct list *b) {
    if (a == b) return true;
    if (a->kind != b->kind || a->n != b->n || a->kind == L_GENERATOR) return false;
    box_enter(box);
    bool equal = true;
    for (size_t i = 0; equal && i < a->n; i++) equal = v_equal(box, a->at[i], b->at[i]);
    box->depth--;
    return equal;
}

static bool dicts_equal(struct box *box, const struct dict *a, const struct dict *b) {
    if (a == b) return true;
    if (a->n != b->n) return false;
    box_enter(box);
    bool equal = true;
    for (size_t i = 0; equal && i < a->n; i++) {
        struct value *other = dict_get(box, b, a->at[i].key);
        equal = other && v_equal(box, a->at[i].value, *other);
    }
    box->depth--;
    return equal;
}

bool v_equal(struct box *box, struct value a, struct value b) {
    box_work(box, 1);
    if (v_number(a) && v_number(b)) return !is_nan(a) && !is_nan(b) && !number_order(a, b);
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case V_UNDEFINED:
    case V_NONE: return true;
    case V_TEXT:
    case V_BIG:
        box_work(box, MIN(a.u.text->len, b.u.text->len) / 64);
        return str_eq(text_str(a.u.text), text_str(b.u.text));
    case V_LIST: return lists_equal(box, a.u.list, b.u.list);
    case V_DICT: return dicts_equal(box, a.u.dict, b.u.dict);
    default: return a.u.dict == b.u.dict;
    }
}

int v_compare(struct box *box, struct value a, struct value b, const char *op) {
    box_work(box, 1);
    if (v_number(a) && v_number(b)) return number_order(a, b);
    if (a.kind == V_TEXT && b.kind == V_TEXT) {
        box_work(box, MIN(a.u.text->len, b.u.text->len) / 64);
        return text_compare(text_str(a.u.text), text_str(b.u.text));
    }
    bool lists = a.kind == V_LIST && b.kind == V_LIST && a.u.list->kind == b.u.list->kind &&
                 a.u.list->kind <= L_TUPLE;
    if (!lists) {
        if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
            box_fail(box, "'%s' with an undefined value", op);
        box_fail(box, "'%s' cannot compare %s with %s", op, v_type(a), v_type(b));
    }
    const struct list *x = a.u.list, *y = b.u.list;
    box_enter(box);
    int order = 0;
    size_t i = 0;
    while (i < x->n && i < y->n && v_equal(box, x->at[i], y->at[i])) i++;
    if (i < x->n && i < y->n) order = v_compare(box, x->at[i], y->at[i], op);
    else order = x->n < y->n ? -1 : x->n > y->n;
    box->depth--;
    return order;
}

bool v_less(struct box *box, struct value a, struct value b, const char *op) {
    if (v_number(a) && v_number(b) && (is_nan(a) || is_nan(b))) return false;
    return v_compare(box, a, b, op) < 0;
}

bool v_contains(struct box *box, struct value in, struct value item) {
    switch (in.kind) {
    case V_UNDEFINED: return false;
    case V_TEXT:
        if (item.kind != V_TEXT)
            box_fail(box, "'in' a string needs a string, not %s", v_type(item));
        box_work(box, in.u.text->len / 64);
        return str_find(text_str(in.u.text), text_str(item.u.text), 0, SIZE_MAX) != SIZE_MAX;
    case V_DICT: return dict_get(box, in.u.dict, item) != NULL;
    case V_LIST: {
        struct list *items = v_items(box, in);
        if (items->kind == L_KEYS) hash(box, item);          /* for what cannot be a key */
        for (size_t i = 0; i < items->n; i++)
            if (v_equal(box, items->at[i], item)) return true;
        return false;
    }
    default: box_fail(box, "'in' needs a list, dict or string, not %s", v_type(in));
    }
}

bool v_iterable(struct value v) {
    return v.kind == V_UNDEFINED || v.kind == V_TEXT || v.kind == V_LIST || v.kind == V_DICT;
}

/* A generator is empty once it was gone through: the items move to a list. */
static struct list *drained(struct box *box, struct list *generator) {
    struct list *list = list_new(box, L_LIST, 0);
    *list = *generator;
    list->kind = L_LIST;
    generator->n = generator->cap = 0;
    return list;
}

struct list *v_items(struct box *box, struct value v) {
    if (v.kind == V_LIST)
        return v.u.list->kind == L_GENERATOR ? drained(box, v.u.list) : v.u.list;
    if (!v_iterable(v)) box_fail(box, "a value of type %s has no items to go through", v_type(v));
    struct list *list = list_new(box, L_LIST, v.kind == V_DICT ? v.u.dict->n : 0);
    if (v.kind == V_DICT)
        for (size_t i = 0; i < v.u.dict->n; i++) list_put(box, list, v.u.dict->at[i].key);
    if (v.kind == V_TEXT) {
        struct str s = text_str(v.u.text);
        box_work(box, s.len);
        for (size_t i = 0, n; i < s.len; i += n) {
            point_at(s, i, &n);
            struct text *one = text_cut(box, v.u.text, i, i + n);
            one->markup = false;
            list_put(box, list, v_text(one));
        }
    }
    return list;
}
