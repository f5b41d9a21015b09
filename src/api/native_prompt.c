/* native_prompt.c - the prompts of /completion: texts, ids, and lists that mix the two. */
#include "api/native.h"
#include "api/server.h"

#include <json-c/json.h>

static bool is_text(struct json_object *v) { return json_object_is_type(v, json_type_string); }
static bool is_id(struct json_object *v) { return json_object_is_type(v, json_type_int); }

/* Ids alone, or ids and texts, make one prompt; texts alone are as many prompts. */
static bool is_one(struct json_object *list) {
    size_t n = json_object_array_length(list), n_ids = 0;
    for (size_t i = 0; i < n; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        n_ids += is_id(item);
        if (!is_id(item) && !is_text(item)) return false;
    }
    return n_ids > 0;
}

/* What a tokenizer puts around a text comes only where a text begins the prompt. */
static bool add_mixed(struct call *c, struct json_object *list, struct fault *f) {
    const struct tokenizer *t = engine_tokenizer(c->x->server->engine);
    struct ids ids = { 0 };
    size_t n = json_object_array_length(list);
    int vocab = c->x->server->info.vocab;
    /* What is too long already need not be read to its end. */
    for (size_t i = 0; i < n && ids.len / 2 <= c->x->server->info.context; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        int64_t id = is_id(item) ? json_object_get_int64(item) : -1;
        if (is_text(item)) {
            tok_encode(t, json_str(item), TOK_SPECIALS | (i ? 0u : TOK_ADD_BOS), NULL, 0, &ids);
        } else if (!is_id(item) || id < 0 || id >= vocab) {
            ids_free(&ids);
            return fault_set(f, 400, "prompt", "Item %zu of the prompt is neither a text nor an id "
                             "below %d.", i, vocab);
        } else {
            ids_put(&ids, (int)id);
        }
    }
    return call_add_ids(c, &ids, f);
}

static bool add_object(struct call *c, struct json_object *object, struct fault *f) {
    struct fields r = { object, f };
    struct json_object *media = field_list(&r, "multimodal_data");
    struct str text = field_str(&r, "prompt_string");
    if (media && json_object_array_length(media))
        return fault_unsupported(f, "prompt", "'multimodal_data': this model takes text only.");
    if (!text.at) return fault_set(f, 400, "prompt", "A prompt that is an object needs a "
                                   "'prompt_string'.");
    return call_add_text(c, text, true, true, f);
}

static bool add_one(struct call *c, struct json_object *one, bool echo, struct fault *f) {
    bool ok;
    if (is_text(one)) ok = call_add_text(c, json_str(one), true, true, f);
    else if (json_object_is_type(one, json_type_array)) ok = add_mixed(c, one, f);
    else if (json_object_is_type(one, json_type_object)) ok = add_object(c, one, f);
    else return fault_set(f, 400, "prompt", "'prompt' must be a string, a list of ids and strings, "
                          "an object with a 'prompt_string', or a list of these.");
    if (!ok || !echo) return ok;
    struct prompt_in *p = &c->prompt[c->n_prompts - 1];
    tok_decode(engine_tokenizer(c->x->server->engine), p->ids.at, p->ids.len, true, &p->echo);
    return true;
}

bool native_prompts(struct call *c, struct fields *f, bool echo) {
    struct json_object *prompt = field_any(f, "prompt");
    if (!json_object_is_type(prompt, json_type_array) || is_one(prompt))
        return add_one(c, prompt, echo, f->fault);
    size_t n = json_object_array_length(prompt);
    if (!n || n > CHOICES_MAX)
        return fault_set(f->fault, 400, "prompt", "'prompt' is a list of %zu prompts, but must have"
                         " 1 to %d.", n, CHOICES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!add_one(c, json_object_array_get_idx(prompt, i), echo, f->fault)) return false;
    return true;
}
