/* pattern.h - what a case expects of a JSON value: JSON in which strings may be wildcards.
 *
 * "<any>" "<string>" "<text>" (not empty) "<int>" "<number>" "<bool>" "<object>" "<list>"
 * "<1..5>" (a number within) "<has WORDS>" "<starts WORDS>" "<absent>" (no such key)
 * "<same NAME>": the first one is remembered, later ones must equal it.
 * An object has exactly the keys of its pattern, or more when "..." is one of them. A list has
 * exactly the items; a last "..." allows more; ["<each>", P] is a list, not empty, of P. */
#pragma once
#include "base/buf.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_NAMES = 16, PATTERN_DEPTH = 48 };

struct pattern {
    struct buf why;                  /* what did not match, with its path */
    struct { char *name; struct json_object *value; } same[PATTERN_NAMES];
    int n_same, depth;
};

static inline void pattern_free(struct pattern *p) {
    for (int i = 0; i < p->n_same; i++) {
        free(p->same[i].name);
        json_object_put(p->same[i].value);
    }
    buf_free(&p->why);
    *p = (struct pattern){ 0 };
}

/* JSON, all of it; `ok` tells a NULL that is "null" from text that is none. json-c's strict mode
 * still takes keys in single quotes: what a server accepts is not tested with this. */
static inline struct json_object *json_read(struct str text, bool *ok) {
    struct json_tokener *t = json_tokener_new_ex(64);
    char *copy = mem_str(text);
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    /* With the terminator, or a number at the end would wait for more digits. */
    struct json_object *o = json_tokener_parse_ex(t, copy, (int)text.len + 1);
    size_t end = json_tokener_get_parse_end(t);
    *ok = json_tokener_get_error(t) == json_tokener_success;
    while (*ok && end < text.len && strchr(" \n\r\t", copy[end])) end++;
    *ok = *ok && end >= text.len;
    json_tokener_free(t);
    free(copy);
    return o;
}

static inline bool pattern_fail(struct pattern *p, const char *path, const char *want,
                                struct json_object *got) {
    if (!p->why.len)
        buf_format(&p->why, "at %s: wanted %s, got %.600s", *path ? path : "the top", want,
                   json_object_to_json_string_ext(got, JSON_C_TO_STRING_PLAIN));
    return false;
}

static inline bool pattern_json(struct pattern *, struct json_object *want, struct json_object *got,
                                const char *path);

static inline bool pattern_same(struct pattern *p, const char *name, struct json_object *got,
                                const char *path) {
    for (int i = 0; i < p->n_same; i++)
        if (!strcmp(p->same[i].name, name))
            return json_object_equal(p->same[i].value, got) ||
                   pattern_fail(p, path, json_object_to_json_string(p->same[i].value), got);
    if (p->n_same == PATTERN_NAMES) return pattern_fail(p, path, "fewer names", got);
    p->same[p->n_same].name = mem_str(str_of(name));
    p->same[p->n_same++].value = json_object_get(got);
    return true;
}

/* "<1..5>": false also when `word` is no range. */
static inline bool pattern_range(const char *word, struct json_object *got) {
    const char *dots = strstr(word, "..");
    char text[128];
    if (!dots || !(json_object_is_type(got, json_type_int) ||
                   json_object_is_type(got, json_type_double)))
        return false;
    snprintf(text, sizeof text, "[%.*s,%.*s]", (int)(dots - word - 1), word + 1,
             (int)strcspn(dots + 2, ">"), dots + 2);
    struct json_object *ends = json_tokener_parse(text);
    double value = json_object_get_double(got);
    bool within = ends && value >= json_object_get_double(json_object_array_get_idx(ends, 0)) &&
                  value <= json_object_get_double(json_object_array_get_idx(ends, 1));
    json_object_put(ends);
    return within;
}

/* `w` begins with '<' and ends with '>'. */
static inline bool pattern_wild(struct pattern *p, const char *w, struct json_object *got,
                                const char *path) {
    enum json_type type = json_object_get_type(got);
    size_t n = strlen(w);
    char words[512];
    const char *value = type == json_type_string ? json_object_get_string(got) : "";
    const char *space = strchr(w, ' ');
    snprintf(words, sizeof words, "%s", space ? space + 1 : "");
    if (space) words[MIN(n - (size_t)(space + 1 - w) - 1, sizeof words - 1)] = 0;
    if (!strncmp(w, "<same ", 6)) return pattern_same(p, words, got, path);
    bool ok = !strcmp(w, "<any>") ||
              (!strcmp(w, "<string>") && type == json_type_string) ||
              (!strcmp(w, "<text>") && type == json_type_string && *value) ||
              (!strcmp(w, "<int>") && type == json_type_int) ||
              (!strcmp(w, "<number>") && (type == json_type_int || type == json_type_double)) ||
              (!strcmp(w, "<bool>") && type == json_type_boolean) ||
              (!strcmp(w, "<object>") && type == json_type_object) ||
              (!strcmp(w, "<list>") && type == json_type_array) ||
              (!strncmp(w, "<has ", 5) && strstr(value, words)) ||
              (!strncmp(w, "<starts ", 8) && !strncmp(value, words, strlen(words))) ||
              pattern_range(w, got);
    return ok || pattern_fail(p, path, w, got);
}

static inline bool pattern_object(struct pattern *p, struct json_object *want,
                                  struct json_object *got, const char *path) {
    bool more = false;
    if (!json_object_is_type(got, json_type_object)) return pattern_fail(p, path, "object", got);
    json_object_object_foreach(want, key, value) {
        char inner[512];
        struct json_object *has = NULL;
        bool there = json_object_object_get_ex(got, key, &has);
        snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", key);
        const char *word = json_object_is_type(value, json_type_string)
                               ? json_object_get_string(value) : "";
        if (!strcmp(key, "...")) {
            more = true;
            continue;
        }
        if (!strcmp(word, "<absent>")) {
            if (there) return pattern_fail(p, inner, "no such key", has);
            continue;
        }
        if (!there) return pattern_fail(p, inner, "this key", got);
        if (!pattern_json(p, value, has, inner)) return false;
    }
    if (more) return true;
    json_object_object_foreach(got, name, unused) {
        char inner[512];
        snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", name);
        if (!json_object_object_get_ex(want, name, NULL))
            return pattern_fail(p, inner, "no key that the pattern lacks", unused);
    }
    return true;
}

static inline bool pattern_list(struct pattern *p, struct json_object *want,
                                struct json_object *got, const char *path) {
    if (!json_object_is_type(got, json_type_array)) return pattern_fail(p, path, "list", got);
    size_t n = json_object_array_length(want), has = json_object_array_length(got);
    const char *first = n ? json_object_get_string(json_object_array_get_idx(want, 0)) : "";
    const char *last = n ? json_object_get_string(json_object_array_get_idx(want, n - 1)) : "";
    bool each = n == 2 && first && !strcmp(first, "<each>");
    bool more = n && last && !strcmp(last, "...");
    if (more) n--;
    if (each ? !has : more ? has < n : has != n)
        return pattern_fail(p, path, each ? "one item or more" : "a list of this length", got);
    for (size_t i = 0; i < (each ? has : n); i++) {
        char inner[512];
        snprintf(inner, sizeof inner, "%s[%zu]", path, i);
        if (!pattern_json(p, json_object_array_get_idx(want, each ? 1 : i),
                          json_object_array_get_idx(got, i), inner))
            return false;
    }
    return true;
}

/* False: p->why says what differs. */
static inline bool pattern_json(struct pattern *p, struct json_object *want,
                                struct json_object *got, const char *path) {
    enum json_type type = json_object_get_type(want);
    bool ok;
    if (++p->depth > PATTERN_DEPTH) return pattern_fail(p, path, "less depth", got);
    if (type == json_type_string) {
        const char *w = json_object_get_string(want);
        size_t n = strlen(w);
        ok = n > 2 && w[0] == '<' && w[n - 1] == '>' && w[1] != '|'
                 ? pattern_wild(p, w, got, path)
                 : json_object_equal(want, got) ||
                       pattern_fail(p, path, json_object_to_json_string(want), got);
    } else if (type == json_type_object) {
        ok = pattern_object(p, want, got, path);
    } else if (type == json_type_array) {
        ok = pattern_list(p, want, got, path);
    } else {
        bool numbers = (type == json_type_int || type == json_type_double) &&
                       (json_object_is_type(got, json_type_int) ||
                        json_object_is_type(got, json_type_double));
        ok = json_object_equal(want, got) ||
             (numbers && json_object_get_double(want) == json_object_get_double(got)) ||
             pattern_fail(p, path, json_object_to_json_string(want), got);
    }
    p->depth--;
    return ok;
}

/* The value at "choices.0.delta.content"; NULL: not there (or null). */
static inline struct json_object *json_at(struct json_object *o, const char *path) {
    while (o && *path) {
        size_t n = strcspn(path, ".");
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)MIN(n, sizeof key - 1), path);
        uint64_t i = 0;
        if (json_object_is_type(o, json_type_array)) {
            if (!str_u64(str_of(key), 1 << 20, &i)) return NULL;
            o = json_object_array_get_idx(o, (size_t)i);
        } else if (!json_object_object_get_ex(o, key, &o)) {
            return NULL;
        }
        path += n + (path[n] == '.');
    }
    return o;
}
