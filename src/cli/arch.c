/* arch.c - the families this program runs, and what each has been checked against. */
#include "cli/cli.h"
#include "engine.h"
#include <stdio.h>

static const char *text_at(struct json_object *o, const char *key) {
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static void print_types(struct json_object *family) {
    struct json_object *types;
    if (!json_object_object_get_ex(family, "model_types", &types)) return;
    for (size_t i = 0; i < json_object_array_length(types); i++)
        printf("%s%s", i ? ", " : "",
               json_object_get_string(json_object_array_get_idx(types, i)));
}

int cli_arch(struct args *a) {
    struct buf json = { 0 };
    engine_families(&json);
    struct err err = { 0 };
    struct json_object *list = a->json ? NULL : input_json_text(buf_view(&json), "arch", &err);
    if (a->json) {
        while (json.len && json.at[json.len - 1] == '\n') json.len--;
        buf_char(&json, '\n');
        fwrite(json.at, 1, json.len, stdout);
    }
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *family = json_object_array_get_idx(list, i);
        printf("%-16s", text_at(family, "name"));
        print_types(family);
        const char *evidence = text_at(family, "evidence");
        if (*evidence) printf("\n%16s%s", "", evidence);
        putchar('\n');
    }
    json_object_put(list);
    buf_free(&json);
    return err.code ? cli_fail(&err) : 0;
}
