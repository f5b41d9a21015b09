/* body.c - the JSON of a request: a scan that accepts or refuses it, then json-c's tree.
 *
 * json-c drops the first of two equal keys, cuts a key at a NUL, and clamps a number that is too
 * large. A client and a proxy in front of us could then read one body in two ways, so the scan
 * refuses what json-c would change, and knows the byte to name. */
#include "api/body.h"
#include "base/pull.h"

#include <json-c/json.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* An empty object of json-c takes 750 bytes and a number 60, so it counts for several values. */
enum { OBJECT_VALUES = 8, NUMBER_MAX = 1000 };

struct key { uint64_t hash; size_t offset; };

struct scan {
    struct pull j;
    struct key *key; size_t n_keys, cap_keys;        /* of all objects that are open */
    size_t begin[PULL_DEPTH_MAX + 1];                /* where the keys of each level begin */
    int64_t n_values;
    locale_t plain;                  /* "C", made when a number needs it */
    size_t second;                   /* byte of a key's second occurrence; 0: none */
};

static bool add_key(struct scan *s, struct str key) {
    if (key.len && memchr(key.at, 0, key.len)) return pull_fail(&s->j, "NUL character in a key");
    if (s->n_keys == s->cap_keys)
        s->key = mem_grow(s->key, s->cap_keys = 2 * s->cap_keys + 32, sizeof *s->key);
    s->key[s->n_keys++] = (struct key){ XXH3_64bits(key.len ? key.at : "", key.len), s->j.offset };
    return true;
}

static int by_hash(const void *a, const void *b) {
    const struct key *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The keys of the object that was just left, which are the last ones: equal neighbours after
 * sorting. Equal hashes of different keys do not happen by accident; who makes them on purpose
 * gets a refusal. */
static bool check_keys(struct scan *s, size_t begin) {
    size_t n = s->n_keys - begin;
    if (n > 1) qsort(s->key + begin, n, sizeof *s->key, by_hash);
    for (size_t i = begin + 1; i < s->n_keys; i++)
        if (s->key[i].hash == s->key[i - 1].hash) {
            s->j.offset = s->key[i].offset;
            return pull_fail(&s->j, "a key that the object has already");
        }
    s->n_keys = begin;
    return true;
}

/* Whole numbers must fit 64 bits and others a double. Only long spellings and exponents can
 * be out of range. */
static bool check_number(struct scan *s, struct str text) {
    char copy[NUMBER_MAX + 1];
    bool whole = true, exponent = false;
    for (size_t i = 0; i < text.len; i++) {
        exponent |= text.at[i] == 'e' || text.at[i] == 'E';
        whole &= text.at[i] != '.';
    }
    whole &= !exponent;
    if (whole) {
        uint64_t magnitude;
        bool minus = text.at[0] == '-';
        uint64_t max = minus ? (uint64_t)INT64_MAX + 1 : UINT64_MAX;
        return str_u64(str_from(text, minus), max, &magnitude) ||
               pull_fail(&s->j, "a whole number out of range");
    }
    if (text.len > NUMBER_MAX) return pull_fail(&s->j, "a number that is too long");
    if (!exponent && text.len < 300) return true;
    memcpy(copy, text.at, text.len);
    copy[text.len] = 0;
    if (!s->plain) s->plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return isfinite(strtod_l(copy, NULL, s->plain)) || pull_fail(&s->j, "a number out of range");
}

/* A scalar, or the opening of a container. */
static bool scan_one(struct scan *s) {
    struct pull *j = &s->j;
    struct str text;
    bool b;
    enum pull_kind kind = pull_peek(j);
    s->n_values += kind == PULL_OBJECT ? OBJECT_VALUES : 1;
    if (s->n_values > JSON_VALUES_MAX) return pull_fail(j, "too many values");
    switch (kind) {
    case PULL_STRING: return pull_string(j, &text);
    case PULL_BOOL:   return pull_bool(j, &b);
    case PULL_NULL:   return pull_null(j);
    case PULL_ARRAY:  return pull_array(j);
    case PULL_NUMBER: return pull_number(j, &text) && check_number(s, text);
    case PULL_OBJECT:
        s->begin[j->depth] = s->n_keys;
        return pull_object(j);
    case PULL_NONE:   break;
    }
    return pull_fail(j, "expected a value");
}

static bool scan_all(struct scan *s) {
    struct pull *j = &s->j;
    struct str key;
    if (!scan_one(s)) return false;
    while (j->depth && !j->error) {
        bool object = j->in_object >> (j->depth - 1) & 1;
        if (object ? pull_key(j, &key) && add_key(s, key) : pull_next(j)) scan_one(s);
        else if (object && !j->error) check_keys(s, s->begin[j->depth]);
    }
    return pull_end(j);
}

static bool scan(struct str text, struct fault *f) {
    struct scan s = { .j = pull_open(text) };
    bool ok = scan_all(&s);
    if (!ok) fault_set(f, 400, NULL, "The body is not JSON that can be read: %s at byte %zu.",
                       s.j.error, s.j.offset);
    pull_close(&s.j);
    if (s.plain) freelocale(s.plain);
    free(s.key);
    return ok;
}

struct json_object *body_parse(struct str text, struct fault *f) {
    struct pull start = pull_open(text);
    bool object = pull_peek(&start) == PULL_OBJECT;
    if (start.offset >= text.len || text.len > INT_MAX) {
        fault_set(f, 400, NULL, "The request has no body: a JSON object is expected.");
        return NULL;
    }
    if (!scan(text, f)) return NULL;
    if (!object) {
        fault_set(f, 400, NULL, "The body must be a JSON object.");
        return NULL;
    }
    /* json-c counts what is inside of the deepest level as one more. */
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 2);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    struct json_object *body = json_tokener_parse_ex(tokener, text.at, (int)text.len);
    if (!body)
        fault_set(f, 400, NULL, "The body is not JSON that can be read, at byte %zu.",
                  json_tokener_get_parse_end(tokener));
    json_tokener_free(tokener);
    return body;
}

struct json_object *body_json(struct exchange *x, struct fault *f) {
    return body_parse(buf_view(&x->body), f);
}

/* ---- fields ---- */

/* Python's client puts what it does not know into the body itself, others send "extra_body" as it
 * is; both are read. */
struct json_object *field_any(const struct fields *f, const char *name) {
    struct json_object *value = NULL, *extra = NULL;
    if (json_object_object_get_ex(f->object, name, &value) && value) return value;
    if (json_object_object_get_ex(f->object, "extra_body", &extra) &&
        json_object_is_type(extra, json_type_object))
        json_object_object_get_ex(extra, name, &value);
    return value;
}

bool field_has(const struct fields *f, const char *name) {
    return field_any(f, name) != NULL;
}

static const char *kind_of(struct json_object *value) {
    switch (json_object_get_type(value)) {
    case json_type_null:    return "null";
    case json_type_boolean: return "a boolean";
    case json_type_double:
    case json_type_int:     return "a number";
    case json_type_object:  return "an object";
    case json_type_array:   return "a list";
    case json_type_string:  return "a string";
    }
    return "something else";
}

static void wrong_type(struct fields *f, const char *name, const char *wanted,
                       struct json_object *got) {
    fault_set(f->fault, 400, name, "Invalid type for '%s': expected %s, but got %s.", name, wanted,
              kind_of(got));
}

static struct json_object *typed(struct fields *f, const char *name, enum json_type type,
                                 const char *wanted) {
    struct json_object *value = field_any(f, name);
    if (!value || json_object_is_type(value, type)) return value;
    wrong_type(f, name, wanted, value);
    return NULL;
}

struct json_object *field_list(struct fields *f, const char *name) {
    return typed(f, name, json_type_array, "a list");
}

struct json_object *field_object(struct fields *f, const char *name) {
    return typed(f, name, json_type_object, "an object");
}

bool field_bool(struct fields *f, const char *name, bool absent) {
    struct json_object *value = typed(f, name, json_type_boolean, "true or false");
    return value ? json_object_get_boolean(value) : absent;
}

/* 100.0 is a whole number too: some clients know no others. */
static bool whole_of(struct json_object *value, int64_t *out) {
    if (json_object_is_type(value, json_type_double)) {
        double d = json_object_get_double(value);
        if (!(fabs(d) <= 0x1p53) || d != floor(d)) return false;
        *out = (int64_t)d;
        return true;
    }
    /* Beyond 2^63 json-c clamps one getter only, so the two differ. */
    *out = json_object_get_int64(value);
    return *out < 0 || (uint64_t)*out == json_object_get_uint64(value);
}

int64_t field_int(struct fields *f, const char *name, int64_t min, int64_t max, int64_t absent) {
    struct json_object *value = field_any(f, name);
    int64_t n;
    if (!value) return absent;
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
        wrong_type(f, name, "a whole number", value);
    else if (!whole_of(value, &n))
        fault_set(f->fault, 400, name, "Invalid value for '%s': it is no whole number in range.",
                  name);
    else if (n < min || n > max)
        fault_set(f->fault, 400, name, "Invalid value for '%s': %lld is %s of %lld.", name,
                  (long long)n, n < min ? "below the minimum" : "above the maximum",
                  (long long)(n < min ? min : max));
    else return n;
    return absent;
}

double field_real(struct fields *f, const char *name, double min, double max, double absent) {
    struct json_object *value = field_any(f, name);
    if (!value) return absent;
    if (!json_object_is_type(value, json_type_int) &&
        !json_object_is_type(value, json_type_double)) {
        wrong_type(f, name, "a number", value);
        return absent;
    }
    double d = json_object_get_double(value);
    if (d >= min && d <= max) return d;
    fault_set(f->fault, 400, name, "Invalid value for '%s': %g is not between %g and %g.", name, d,
              min, max);
    return absent;
}

struct str field_str(struct fields *f, const char *name) {
    struct json_object *value = typed(f, name, json_type_string, "a string");
    return value ? json_str(value) : (struct str){ 0 };
}

struct str json_str(struct json_object *value) {
    return (struct str){ json_object_get_string(value), (size_t)json_object_get_string_len(value) };
}
