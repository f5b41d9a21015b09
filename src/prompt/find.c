/* find.c - looks through a checkpoint's folder for chat templates, the newest
 * convention first, and for the special tokens that templates name. */
#include "prompt/find.h"
#include "base/buf.h"
#include <dirent.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_BYTES_MAX = 64 << 20, NAMES_MAX = 64, JSON_DEPTH_MAX = 64 };

static void add(struct arena *arena, struct named_text **list, int *n, struct str name,
                struct str text, const char *file) {
    for (int i = 0; i < *n; i++)
        if (str_eq((*list)[i].name, name)) return;           /* the first one found stands */
    if (!*list) *list = arena_new(arena, NAMES_MAX * sizeof **list);
    if (*n == NAMES_MAX) return;
    (*list)[(*n)++] = (struct named_text){ { arena_str(arena, name), name.len },
                                           { arena_str(arena, text), text.len },
                                           arena_str(arena, str_of(file)) };
}

static void add_template(struct found *f, struct str name, struct str text, const char *file) {
    add(&f->arena, &f->templates, &f->n_templates, name, text, file);
}

static bool path_in(char *path, size_t size, const char *dir, const char *name, struct err *err) {
    int n = snprintf(path, size, "%s/%s", dir, name);
    return n > 0 && (size_t)n < size ? true : err_set(err, "%s: the path is too long", dir);
}

/* True with an empty buffer when there is no such file. */
static bool read_if_there(struct buf *b, const char *dir, const char *name, struct err *err) {
    char path[4096];
    struct stat st;
    if (!path_in(path, sizeof path, dir, name, err)) return false;
    if (stat(path, &st) != 0) return true;
    return buf_read_file(b, path, FILE_BYTES_MAX, err);
}

static struct str json_str(struct json_object *j) {
    if (!json_object_is_type(j, json_type_string)) return (struct str){ 0 };
    return (struct str){ json_object_get_string(j), (size_t)json_object_get_string_len(j) };
}

/* {"default": text, ...} */
static bool add_by_name(struct found *f, struct json_object *templates, const char *dir,
                        const char *file, struct err *err) {
    json_object_object_foreach(templates, name, text) {
        if (!json_str(text).at)
            return err_set(err, "%s/%s: chat_template.%s is not a string", dir, file, name);
        add_template(f, str_of(name), json_str(text), file);
    }
    return true;
}

/* A single template, a list of {name, template}, or an object. */
static bool add_templates(struct found *f, struct json_object *j, const char *dir, const char *file,
                          struct err *err) {
    struct json_object *templates, *name, *text;
    if (!json_object_object_get_ex(j, "chat_template", &templates) || !templates) return true;
    if (json_object_is_type(templates, json_type_string)) {
        add_template(f, S("default"), json_str(templates), file);
        return true;
    }
    if (json_object_is_type(templates, json_type_object))
        return add_by_name(f, templates, dir, file, err);
    if (!json_object_is_type(templates, json_type_array))
        return err_set(err, "%s/%s: chat_template is neither a string nor a list", dir, file);
    size_t n = json_object_array_length(templates);
    for (size_t i = 0; i < n; i++) {
        struct json_object *one = json_object_array_get_idx(templates, i);
        bool good = json_object_is_type(one, json_type_object) &&
                    json_object_object_get_ex(one, "name", &name) && json_str(name).at &&
                    json_object_object_get_ex(one, "template", &text) && json_str(text).at;
        if (!good)
            return err_set(err, "%s/%s: chat_template[%zu] has no name and template", dir, file, i);
        add_template(f, json_str(name), json_str(text), file);
    }
    return true;
}

/* "bos_token": "<s>", or {"content": "<s>", ...}. */
static void add_tokens(struct found *f, struct json_object *j) {
    json_object_object_foreach(j, key, value) {
        struct json_object *content = value;
        if (!str_ends(str_of(key), "_token")) continue;
        if (json_object_is_type(value, json_type_object) &&
            !json_object_object_get_ex(value, "content", &content)) continue;
        struct str text = json_str(content);
        if (text.at) add(&f->arena, &f->tokens, &f->n_tokens, str_of(key), text, "");
    }
}

/* True with NULL when there is no such file. */
static bool read_json(struct json_object **j, const char *dir, const char *name, struct err *err) {
    struct buf text = { 0 };
    bool ok = read_if_there(&text, dir, name, err);
    *j = NULL;
    if (ok && text.len) {
        struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
        *j = json_tokener_parse_ex(tokener, buf_c(&text), (int)text.len + 1);
        ok = json_object_is_type(*j, json_type_object);
        if (!ok)
            err_set(err, "%s/%s: not a JSON object (%s)", dir, name,
                    json_tokener_error_desc(json_tokener_get_error(tokener)));
        json_tokener_free(tokener);
    }
    buf_free(&text);
    return ok;
}

static bool read_template(struct found *f, const char *dir, const char *file, struct str name,
                          struct err *err) {
    struct buf text = { 0 };
    struct stat st;
    char path[4096];
    bool ok = path_in(path, sizeof path, dir, file, err);
    bool there = ok && stat(path, &st) == 0;
    if (there) ok = buf_read_file(&text, path, FILE_BYTES_MAX, err);
    if (there && ok) add_template(f, name, buf_view(&text), file);
    buf_free(&text);
    return ok;
}

static int is_template(const struct dirent *entry) {
    struct str name = str_of(entry->d_name);
    return name.len > strlen(".jinja") && str_ends(name, ".jinja");
}

/* NAME.jinja of a folder below DIR, in the order of their names. */
static bool read_folder(struct found *f, const char *dir, const char *folder, struct err *err) {
    struct dirent **entries = NULL;
    char path[4096], file[512];
    if (!path_in(path, sizeof path, dir, folder, err)) return false;
    int n = scandir(path, &entries, is_template, alphasort);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        struct str name = str_of(entries[i]->d_name);
        name.len -= strlen(".jinja");
        snprintf(file, sizeof file, "%s/%s", folder, entries[i]->d_name);
        ok = ok && read_template(f, dir, file, name, err);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

/* special_tokens_map.json is older than added_tokens_decoder in tokenizer_config.json, and is not
 * looked at beside it; without, what it says goes first. */
static bool read_tokens(struct found *f, const char *dir, struct json_object *config,
                        struct err *err) {
    struct json_object *map = NULL;
    bool ok = json_object_object_get_ex(config, "added_tokens_decoder", NULL) ||
              read_json(&map, dir, "special_tokens_map.json", err);
    if (ok && map) add_tokens(f, map);
    if (ok && config) add_tokens(f, config);
    json_object_put(map);
    return ok;
}

bool find_chat(const char *dir, struct found *f, struct err *err) {
    struct json_object *config = NULL, *processor = NULL;
    *f = (struct found){ 0 };
    if (!dir) return true;
    bool ok = read_template(f, dir, "chat_template.jinja", S("default"), err) &&
              read_folder(f, dir, "additional_chat_templates", err) &&
              read_folder(f, dir, "chat_templates", err) &&
              read_json(&config, dir, "tokenizer_config.json", err);
    /* Files of their own stand for all templates; a processor's file stands before the config. */
    if (ok && !f->n_templates)
        ok = read_json(&processor, dir, "chat_template.json", err) &&
             add_templates(f, processor, dir, "chat_template.json", err);
    if (ok && !f->n_templates) ok = add_templates(f, config, dir, "tokenizer_config.json", err);
    ok = ok && read_tokens(f, dir, config, err);
    json_object_put(config);
    json_object_put(processor);
    if (!ok) found_free(f);
    return ok;
}

void found_free(struct found *f) {
    arena_free(&f->arena);
    *f = (struct found){ 0 };
}
