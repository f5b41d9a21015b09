/* dialog.c - messages and template variables as a command line gives them. */
#include "cli/dialog.h"
#include <json-c/linkhash.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

bool dialog_template(const struct args *a, struct buf *text, const char **chosen,
                     struct err *err) {
    *chosen = NULL;
    if (a->template_text && a->template_file)
        return err_code(err, ERR_USAGE,
                        "--chat-template and --chat-template-file exclude each other");
    /* As text a name would be the whole prompt. */
    if (a->template_text && !a->model && !strchr(a->template_text, '{'))
        return err_code(err, ERR_USAGE, "--chat-template takes Jinja text, and '%s' has no {{ or "
                        "{%% in it; as a name it needs the model that has templates with names",
                        a->template_text);
    if (a->template_text) *chosen = a->template_text;
    if (!a->template_file) return true;
    if (!input_file(text, a->template_file, err)) return false;
    *chosen = buf_c(text);
    return true;
}

void dialog_blame(const struct args *a, struct err *err) {
    struct err in = *err;
    if (!a->template_file || !str_starts(str_of(in.text), "chat template")) return;
    *err = (struct err){ 0 };
    err_code(err, in.code, "%s: %s", a->template_file, in.text);
}

bool dialog_set_var(struct json_object *vars, struct str name, struct str value) {
    struct err ignored = { 0 };
    struct json_object *v = NULL;
    if (!str_is(value, "null")) {
        v = input_json_text(value, "value", &ignored);
        if (!v) v = json_object_new_string_len(value.at, (int)MIN(value.len, (size_t)INT_MAX));
    }
    char *key = mem_str(name);
    bool ok = !json_object_object_add(vars, key, v);
    free(key);
    return ok;
}

void dialog_set_think(struct json_object *vars, const char *how) {
    bool on = strcmp(how, "off") != 0;
    json_object_object_add(vars, "enable_thinking", json_object_new_boolean(on));
    json_object_object_add(vars, "thinking", json_object_new_boolean(on));
    if (on && strcmp(how, "on") != 0)
        json_object_object_add(vars, "reasoning_effort", json_object_new_string(how));
}

static bool add_kwargs(struct json_object *vars, const char *text, struct err *err) {
    struct json_object *more = input_json_text(str_of(text), "--chat-template-kwargs", err);
    if (!more) return false;
    bool ok = json_object_is_type(more, json_type_object);
    if (ok) {
        json_object_object_foreach(more, key, value)
            json_object_object_add(vars, key, json_object_get(value));
    } else {
        err_code(err, ERR_USAGE, "--chat-template-kwargs takes a JSON object");
    }
    json_object_put(more);
    return ok;
}

struct json_object *dialog_vars(const struct args *a, struct err *err) {
    struct json_object *vars = json_object_new_object();
    if (a->think) dialog_set_think(vars, a->think);
    if (a->reasoning_effort)
        json_object_object_add(vars, "reasoning_effort",
                               json_object_new_string(a->reasoning_effort));
    bool ok = !a->template_vars || add_kwargs(vars, a->template_vars, err);
    for (int i = 0; ok && i < a->vars.n; i++) {
        struct str word = str_of(a->vars.at[i]);
        const char *equals = memchr(word.at, '=', word.len);
        if (!equals || equals == word.at) {
            ok = err_code(err, ERR_USAGE, "--var takes NAME=JSON, not '%s'", word.at);
            break;
        }
        size_t n = (size_t)(equals - word.at);
        dialog_set_var(vars, str_cut(word, 0, n), str_from(word, n + 1));
    }
    if (ok && json_object_object_length(vars)) return vars;
    json_object_put(vars);
    return NULL;
}

bool dialog_system(const struct args *a, struct buf *text, struct err *err) {
    if (a->system && a->system_file)
        return err_code(err, ERR_USAGE, "--system and --system-file exclude each other");
    if (a->system) buf_str(text, str_of(a->system));
    return !a->system_file || input_file(text, a->system_file, err);
}

void dialog_say(struct json_object *messages, const char *role, struct str content) {
    struct json_object *m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string(role));
    json_object_object_add(m, "content", json_object_new_string_len(
        content.at ? content.at : "", (int)MIN(content.len, (size_t)INT_MAX)));
    json_object_array_add(messages, m);
}
