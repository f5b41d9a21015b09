/* inspect.c - what a checkpoint holds and would need, without running it: the
 * engine's JSON as it is, or laid out for people. */
#include "cli/cli.h"
#include "engine.h"
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct json_object *at(struct json_object *o, const char *key) {
    struct json_object *v = NULL;
    if (json_object_is_type(o, json_type_object)) json_object_object_get_ex(o, key, &v);
    return v;
}

static const char *text(struct json_object *v) {
    const char *s = v ? json_object_get_string(v) : NULL;
    return s ? s : "-";
}

/* Names come from the file: a terminal must not act on what is in them. */
static void put(const char *s, int width) {
    struct buf b = { 0 };
    for (; *s; s++) buf_char(&b, (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
    printf("%-*s", width, buf_c(&b));
    buf_free(&b);
}

static void print_bytes(const char *key, int64_t n) {
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double x = (double)n;
    size_t i = 0;
    for (; x >= 1024 && i + 1 < COUNT(unit); i++) x /= 1024;
    printf("  ");
    put(key, 24);
    printf(i ? "%.1f %s\n" : "%.0f %s\n", x, unit[i]);
}

/* Layers that are alike follow each other: a line for each run of them. */
static void print_layers(struct json_object *list) {
    size_t n = json_object_array_length(list);
    for (size_t i = 0, end; i < n; i = end) {
        struct json_object *first = json_object_array_get_idx(list, i);
        for (end = i + 1; end < n; end++)
            if (!json_object_equal(first, json_object_array_get_idx(list, end))) break;
        if (end > i + 1)
            printf("  layers %zu to %zu\n   ", i, end - 1);
        else
            printf("  layer %zu\n   ", i);
        json_object_object_foreach(first, key, v) {
            bool text_value = json_object_is_type(v, json_type_string);
            putchar(' ');
            put(key, 0);
            putchar(' ');
            put(text_value ? json_object_get_string(v)
                           : json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), 0);
        }
        putchar('\n');
    }
}

static void print_spec(struct json_object *o) {
    json_object_object_foreach(o, key, v) {
        if (!strcmp(key, "layer") && json_object_is_type(v, json_type_array)) {
            print_layers(v);
            continue;
        }
        printf("  ");
        put(key, 24);
        const char *s = json_object_is_type(v, json_type_string)
                            ? json_object_get_string(v)
                            : json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN);
        put(s, 0);
        putchar('\n');
    }
}

static void print_memory(struct json_object *o) {
    json_object_object_foreach(o, key, v) {
        bool count = strstr(key, "tokens") || !strcmp(key, "context");
        if (count) {
            printf("  ");
            put(key, 24);
            printf("%lld\n", (long long)json_object_get_int64(v));
        } else {
            print_bytes(key, json_object_get_int64(v));
        }
    }
}

static void print_tensors(struct json_object *list) {
    size_t n = json_object_array_length(list);
    printf("\ntensors: %zu\n", n);
    for (size_t i = 0; i < n; i++) {
        struct json_object *t = json_object_array_get_idx(list, i), *shape = at(t, "shape");
        printf("  ");
        put(text(at(t, "name")), 52);
        printf(" ");
        put(text(at(t, "dtype")), 10);
        printf(" ");
        put(shape ? json_object_to_json_string_ext(shape, JSON_C_TO_STRING_PLAIN) : "-", 20);
        printf(" ");
        put(text(at(t, "slot")), 0);
        putchar('\n');
    }
}

static void print_readable(struct json_object *o) {
    json_object_object_foreach(o, key, v) {
        if (json_object_is_type(v, json_type_object) || json_object_is_type(v, json_type_array))
            continue;
        put(key, 26);
        put(text(v), 0);
        putchar('\n');
    }
    struct json_object *spec = at(o, "spec"), *memory = at(o, "memory"), *unread = at(o, "unread"),
                       *tensors = at(o, "tensors");
    if (json_object_is_type(spec, json_type_object)) {
        printf("\nspec\n");
        print_spec(spec);
    }
    if (json_object_is_type(memory, json_type_object)) {
        printf("\nmemory\n");
        print_memory(memory);
    }
    if (json_object_is_type(unread, json_type_array) && json_object_array_length(unread)) {
        printf("\nkeys of config.json that nobody read\n");
        for (size_t i = 0; i < json_object_array_length(unread); i++) {
            printf("  ");
            put(text(json_object_array_get_idx(unread, i)), 0);
            putchar('\n');
        }
    }
    if (json_object_is_type(tensors, json_type_array)) print_tensors(tensors);
}

int cli_inspect(struct args *a) {
    struct err err = { 0 };
    struct buf dir = { 0 }, json = { 0 };
    model_from_words(a, true);
    bool ok = model_find(a->model, &dir, &err)
           && engine_inspect(buf_c(&dir), a->context, a->kv, &json, &err);
    if (ok && a->json) {
        while (json.len && json.at[json.len - 1] == '\n') json.len--;
        buf_char(&json, '\n');
        fwrite(json.at, 1, json.len, stdout);
    } else if (ok) {
        struct json_object *o = input_json_text(buf_view(&json), "inspect", &err);
        ok = o != NULL;
        if (ok) print_readable(o);
        json_object_put(o);
    }
    buf_free(&json);
    buf_free(&dir);
    return ok ? 0 : cli_fail(&err);
}
