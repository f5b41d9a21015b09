/* schema.c - see schema.h. Schemas are the client's: nothing in them is taken for granted. */
#include "prompt/schema.h"
#include "base/pull.h"
#include "prompt/literal.h"
#include <stdlib.h>
#include <string.h>

enum { ALTERNATIVES_MAX = 64 };

static struct json_object *member(struct json_object *o, const char *key) {
    struct json_object *value = NULL;
    if (json_object_is_type(o, json_type_object)) json_object_object_get_ex(o, key, &value);
    return value;
}

static bool text_equals(struct json_object *j, struct str s) {
    return json_object_is_type(j, json_type_string) &&
           (size_t)json_object_get_string_len(j) == s.len &&
           (!s.len || !memcmp(json_object_get_string(j), s.at, s.len));
}

struct json_object *schema_tool(struct json_object *tools, struct str name) {
    size_t n = json_object_is_type(tools, json_type_array) ? json_object_array_length(tools) : 0;
    for (size_t i = 0; i < n; i++) {
        struct json_object *tool = json_object_array_get_idx(tools, i);
        struct json_object *function = member(tool, "function");
        if (!function) function = tool;
        if (text_equals(member(function, "name"), name)) return function;
    }
    return NULL;
}

struct str schema_only(struct json_object *tools) {
    struct str none = { 0 };
    if (!json_object_is_type(tools, json_type_array) || json_object_array_length(tools) != 1)
        return none;
    struct json_object *tool = json_object_array_get_idx(tools, 0);
    struct json_object *function = member(tool, "function");
    struct json_object *name = member(function ? function : tool, "name");
    if (!json_object_is_type(name, json_type_string)) return none;
    return (struct str){ json_object_get_string(name), (size_t)json_object_get_string_len(name) };
}

static void add_type(struct types *t, struct json_object *name) {
    const char *s = json_object_is_type(name, json_type_string) ? json_object_get_string(name) : "";
    if (!strcmp(s, "string") || !strcmp(s, "str")) t->string = true;
    else if (!strcmp(s, "integer") || !strcmp(s, "number") || !strcmp(s, "int") ||
             !strcmp(s, "float")) t->number = true;
    else if (!strcmp(s, "boolean") || !strcmp(s, "bool")) t->boolean = true;
    else if (!strcmp(s, "array") || !strcmp(s, "list")) t->array = true;
    else if (!strcmp(s, "object") || !strcmp(s, "dict")) t->object = true;
    else if (!strcmp(s, "null")) t->null = true;
    else return;
    t->known = true;
}

static void add_value_type(struct types *t, struct json_object *value) {
    t->known = true;
    switch (json_object_get_type(value)) {
    case json_type_string: t->string = true; break;
    case json_type_int: case json_type_double: t->number = true; break;
    case json_type_boolean: t->boolean = true; break;
    case json_type_array: t->array = true; break;
    case json_type_object: t->object = true; break;
    case json_type_null: t->null = true; break;
    }
}

/* "type" is a name or a list of them; without one, the values of an enum say it. */
static void add_schema(struct types *t, struct json_object *schema) {
    struct json_object *type = member(schema, "type"), *values = member(schema, "enum");
    if (json_object_is_type(type, json_type_array)) {
        size_t n = MIN(json_object_array_length(type), (size_t)ALTERNATIVES_MAX);
        for (size_t i = 0; i < n; i++) add_type(t, json_object_array_get_idx(type, i));
    } else if (type) {
        add_type(t, type);
    } else if (json_object_is_type(values, json_type_array)) {
        size_t n = MIN(json_object_array_length(values), (size_t)ALTERNATIVES_MAX);
        for (size_t i = 0; i < n; i++) add_value_type(t, json_object_array_get_idx(values, i));
    }
}

struct types schema_types(struct json_object *tools, struct str tool, struct str parameter) {
    static const char *const lists[] = { "anyOf", "oneOf" };
    struct types t = { 0 };
    struct json_object *function = schema_tool(tools, tool);
    struct json_object *parameters = member(function, "parameters");
    if (!parameters) parameters = member(function, "input_schema");
    struct json_object *properties = member(parameters, "properties");
    char *key = mem_str(parameter);
    struct json_object *schema = strlen(key) == parameter.len ? member(properties, key) : NULL;
    free(key);
    add_schema(&t, schema);
    for (size_t k = 0; k < COUNT(lists); k++) {
        struct json_object *list = member(schema, lists[k]);
        if (!json_object_is_type(list, json_type_array)) continue;
        size_t n = MIN(json_object_array_length(list), (size_t)ALTERNATIVES_MAX);
        for (size_t i = 0; i < n; i++) add_schema(&t, json_object_array_get_idx(list, i));
    }
    return t;
}

bool types_string_only(const struct types *t) {
    return t->known && t->string && !t->number && !t->boolean && !t->array && !t->object &&
           !t->null;
}

static struct str bare_of(struct str s) {
    while (s.len && said_blank(s.at[0])) s = str_from(s, 1);
    while (s.len && said_blank(s.at[s.len - 1])) s.len--;
    return s;
}

/* The kind of a text that is one JSON value as a whole, else PULL_NONE. */
static enum pull_kind json_kind(struct str s) {
    struct pull j = pull_open(s);
    enum pull_kind kind = s.len ? pull_peek(&j) : PULL_NONE;
    bool whole = kind != PULL_NONE && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    return whole ? kind : PULL_NONE;
}

/* True, None, {'a': 1}: models that know Python write so where JSON was asked for. */
static bool put_python(struct buf *b, struct str s, enum pull_kind *kind) {
    struct literal l = { 0 };
    struct said said = { .text = s, .last = true };
    size_t at = 0;
    literal_open(&l, LITERAL_PYTHON);
    bool whole = literal_read(&l, &said, &at) == LITERAL_DONE && at == s.len;
    *kind = whole ? json_kind(buf_view(&l.json)) : PULL_NONE;
    if (*kind != PULL_NONE) buf_str(b, buf_view(&l.json));
    literal_free(&l);
    return *kind != PULL_NONE;
}

static bool fits(const struct types *t, enum pull_kind kind) {
    switch (kind) {
    case PULL_NUMBER: return t->number;
    case PULL_BOOL: return t->boolean;
    case PULL_ARRAY: return t->array;
    case PULL_OBJECT: return t->object;
    case PULL_NULL: return t->null || !t->string;
    case PULL_STRING: return t->string && (t->number || t->boolean || t->array || t->object);
    case PULL_NONE: break;
    }
    return false;
}

void schema_put(struct buf *b, const struct types *t, struct str text) {
    struct str bare = bare_of(text);
    struct buf python = { 0 };
    enum pull_kind kind = json_kind(bare), other = PULL_NONE;
    if (!t->known) {
        if (kind != PULL_NONE && kind != PULL_STRING) {
            buf_str(b, bare);
            return;
        }
    } else if (fits(t, kind)) {
        buf_str(b, bare);
        return;
    } else if (kind == PULL_NONE && bare.len && !types_string_only(t) &&
               put_python(&python, bare, &other) && other != PULL_STRING && fits(t, other)) {
        buf_str(b, buf_view(&python));
        buf_free(&python);
        return;
    }
    buf_free(&python);
    buf_char(b, '"');
    literal_put(b, text);
    buf_char(b, '"');
}
