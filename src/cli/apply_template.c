/* apply_template.c - the exact prompt text that messages become. */
#include "cli/dialog.h"
#include <stdio.h>

/* A list of messages, or an object with "messages" and perhaps "tools" and "documents", as a
 * request to a server has them. */
static bool messages_of(struct json_object *file, struct dialog *d, const char *name,
                        struct err *err) {
    d->messages = file;
    if (json_object_is_type(file, json_type_object)) {
        json_object_object_get_ex(file, "messages", &d->messages);
        json_object_object_get_ex(file, "tools", &d->tools);
        json_object_object_get_ex(file, "documents", &d->documents);
    }
    if (!json_object_is_type(d->messages, json_type_array))
        return err_set(err, "%s: neither a list of messages, [{\"role\": \"user\", \"content\": "
                       "\"...\"}], nor an object with a list \"messages\"", name);
    return json_object_array_length(d->messages)
        || err_set(err, "%s: the list of messages is empty", name);
}

static bool render(const struct args *a, const struct chat *chat, struct err *err) {
    struct dialog d = { .no_generation_prompt = a->no_generation_prompt };
    struct json_object *tools = NULL, *vars = NULL, *file = input_json(a->messages, err);
    struct prompt prompt = { 0 };
    bool ok = file && messages_of(file, &d, a->messages, err);
    if (ok && a->tools) {
        d.tools = tools = input_json(a->tools, err);
        ok = tools && (json_object_is_type(tools, json_type_array)
                       || err_set(err, "%s holds no list of tools", a->tools));
    }
    if (ok) {
        d.vars = vars = dialog_vars(a, err);
        ok = vars || !err->code;
    }
    ok = ok && chat_render(chat, &d, &prompt, err);
    if (ok) fwrite(prompt.text.at, 1, prompt.text.len, stdout);
    prompt_free(&prompt);
    json_object_put(vars);
    json_object_put(tools);
    json_object_put(file);
    return ok;
}

int cli_apply_template(struct args *a) {
    struct err err = { 0 };
    struct buf dir = { 0 }, text = { 0 };
    const char *override = NULL;
    bool ok = false;
    model_from_words(a, true);
    /* A template alone needs no model; what only a tokenizer knows, bos for one, is then empty. */
    bool alone = !a->model && (a->template_file || a->template_text);
    if (!a->messages)
        err_code(&err, ERR_USAGE, "apply-template needs --messages FILE");
    else
        ok = dialog_template(a, &text, &override, &err)
          && (alone || model_find(a->model, &dir, &err));
    if (ok) {
        struct chat *chat = chat_open(alone ? NULL : buf_c(&dir), override, NULL, &err);
        ok = chat && render(a, chat, &err);
        chat_close(chat);
    }
    buf_free(&dir);
    if (!ok) dialog_blame(a, &err);
    buf_free(&text);
    return ok ? 0 : cli_fail(&err);
}
