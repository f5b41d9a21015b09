/* find.c - looks through a checkpoint's folder for chat templates, the newest
 * convention first, and for the special tokens that templates name. */
#include "prompt/find.h"
#include "base/buf.h"
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_BYTES_MAX = 64 << 20, NAMES_MAX = 64, JSON_DEPTH_MAX = 64 };

static void add(struct arena *arena, struct named_text **list, int *n, struct str name,
                struct str text) {
    for (int i = 0; i < *n; i++)
        if (str_eq((*list)[i].name, name)) return;           /* the first one found stands */
    if (!*list) *list = arena_new(arena, NAMES_MAX * sizeof **list);
    if (*n == NAMES_MAX) return;
    (*list)[(*n)++] = (struct named_text){ { arena_str(arena, name), name.len },
                                           { arena_str(arena, text), text.len } };
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

/* A single template, or a list of {name, template}. */
static bool add_templates(struct found *f, struct json_object *j, const char *dir, const char *file,
                          struct err *err) {
    struct json_object *templates, *name, *text;
    if (!json_object_object_get_ex(j, "chat_template", &templates) || !templates) return true;
    if (json_object_is_type(templates, json_type_string)) {
        add(&f->arena, &f->templates, &f->n_templates, S("default"), json_str(templates));
        return true;
    }
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
        add(&f->arena, &f->templates, &f->n_templates, json_str(name), json_str(text));
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
        if (text.at) add(&f->arena, &f->tokens, &f->n_tokens, str_of(key), text);
    }
}

static bool read_json(struct found *f, const char *dir, const char *name, bool templates,
                      bool tokens,
                      struct err *err) {
    struct buf text = { 0 };
    if (!read_if_there(&text, dir, name, err)) {
        buf_free(&text);
        return false;
    }
    if (!text.len) {
        buf_free(&text);
        return true;
    }
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    struct json_object *j = json_tokener_parse_ex(tokener, buf_c(&text), (int)text.len + 1);
    bool ok = json_object_is_type(j, json_type_object);
    if (!ok)
        err_set(err, "%s/%s: not a JSON object (%s)", dir, name,
                json_tokener_error_desc(json_tokener_get_error(tokener)));
    if (ok && templates) ok = add_templates(f, j, dir, name, err);
    if (ok && tokens) add_tokens(f, j);
    json_object_put(j);
    json_tokener_free(tokener);
    buf_free(&text);
    return ok;
}

static bool read_template(struct found *f, const char *dir, const char *file, const char *name,
                          struct err *err) {
    struct buf text = { 0 };
    bool ok = read_if_there(&text, dir, file, err);
    if (ok && text.len)
        add(&f->arena, &f->templates, &f->n_templates, str_of(name), buf_view(&text));
    buf_free(&text);
    return ok;
}

bool find_chat(const char *dir, struct found *f, struct err *err) {
    *f = (struct found){ 0 };
    if (!dir) return true;
    bool ok = read_template(f, dir, "chat_template.jinja", "default", err) &&
              read_template(f, dir, "chat_templates/default.jinja", "default", err) &&
              read_template(f, dir, "chat_templates/tool_use.jinja", "tool_use", err);
    bool files = f->n_templates > 0;
    ok = ok && read_json(f, dir, "tokenizer_config.json", !files, true, err);
    bool configs = f->n_templates > 0;
    ok = ok && read_json(f, dir, "chat_template.json", !configs, false, err) &&
         read_json(f, dir, "special_tokens_map.json", false, true, err);
    if (!ok) found_free(f);
    return ok;
}

void found_free(struct found *f) {
    arena_free(&f->arena);
    *f = (struct found){ 0 };
}
