/* dialog.c - messages, checked and turned into values: what came from outside is
 * marked as input, reasoning is known under all its names, and the last message
 * of the assistant may be left open. */
#include "prompt/dialog.h"
#include "prompt/builtins.h"
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

/* Stands at the end of a message that is to be continued; its last blank shows whether the
 * template strips what it is given. */
static const char end_mark[] = "END_OF_OPEN_MESSAGE_7c1f9e ";

static struct json_object *member(struct json_object *j, const char *key) {
    struct json_object *value = NULL;
    if (json_object_is_type(j, json_type_object)) json_object_object_get_ex(j, key, &value);
    return value;
}

static bool check_content(struct json_object *content, size_t i, struct err *err) {
    if (!content || json_object_is_type(content, json_type_string)) return true;
    if (!json_object_is_type(content, json_type_array))
        return err_set(err, "messages[%zu]: content is neither a string nor a list of parts", i);
    size_t n = json_object_array_length(content);
    for (size_t k = 0; k < n; k++)
        if (!json_object_is_type(json_object_array_get_idx(content, k), json_type_object))
            return err_set(err,
                           "messages[%zu]: content[%zu] is not a part like {\"type\": \"text\"}",
                           i, k);
    return true;
}

static bool check_calls(struct json_object *calls, size_t i, struct err *err) {
    if (!calls) return true;
    if (!json_object_is_type(calls, json_type_array))
        return err_set(err, "messages[%zu]: tool_calls is not a list", i);
    size_t n = json_object_array_length(calls);
    for (size_t k = 0; k < n; k++)
        if (!json_object_is_type(json_object_array_get_idx(calls, k), json_type_object))
            return err_set(err, "messages[%zu]: tool_calls[%zu] is not an object", i, k);
    return true;
}

static bool check_list(struct json_object *list, const char *name, struct err *err) {
    if (!list) return true;
    if (!json_object_is_type(list, json_type_array)) return err_set(err, "%s is not a list", name);
    size_t n = json_object_array_length(list);
    for (size_t i = 0; i < n; i++)
        if (!json_object_is_type(json_object_array_get_idx(list, i), json_type_object))
            return err_set(err, "%s[%zu] is not an object", name, i);
    return true;
}

bool dialog_check(const struct dialog *d, struct err *err) {
    if (!json_object_is_type(d->messages, json_type_array))
        return err_set(err, "messages is not a list");
    size_t n = json_object_array_length(d->messages);
    for (size_t i = 0; i < n; i++) {
        struct json_object *message = json_object_array_get_idx(d->messages, i);
        if (!json_object_is_type(message, json_type_object))
            return err_set(err, "messages[%zu] is not an object", i);
        if (!member(message, "role")) return err_set(err, "messages[%zu]: role is missing", i);
        if (!json_object_is_type(member(message, "role"), json_type_string))
            return err_set(err, "messages[%zu]: role is not a string", i);
        if (!check_content(member(message, "content"), i, err) ||
            !check_calls(member(message, "tool_calls"), i, err)) return false;
    }
    if (d->vars && !json_object_is_type(d->vars, json_type_object))
        return err_set(err, "the template's variables are not an object");
    return check_list(d->tools, "tools", err) && check_list(d->documents, "documents", err);
}

static struct json_object *call_arguments(struct json_object *call) {
    struct json_object *function = member(call, "function");
    return member(function ? function : call, "arguments");
}

static struct json_object *parse_object(struct json_object *text) {
    enum { ARGUMENT_DEPTH_MAX = 128 };
    int n = json_object_get_string_len(text);
    struct json_tokener *tokener = json_tokener_new_ex(ARGUMENT_DEPTH_MAX);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    struct json_object *j = json_tokener_parse_ex(tokener, json_object_get_string(text), n);
    bool whole = json_tokener_get_error(tokener) == json_tokener_success &&
                 json_tokener_get_parse_end(tokener) == (size_t)n;
    json_tokener_free(tokener);
    if (whole && json_object_is_type(j, json_type_object)) return j;
    json_object_put(j);
    return NULL;
}

void arguments_parse(struct arguments *a, const struct dialog *d) {
    size_t n = json_object_array_length(d->messages);
    for (size_t i = 0; i < n; i++) {
        struct json_object *calls = member(json_object_array_get_idx(d->messages, i), "tool_calls");
        size_t n_calls = calls ? json_object_array_length(calls) : 0;
        for (size_t k = 0; k < n_calls; k++) {
            struct json_object *text = call_arguments(json_object_array_get_idx(calls, k));
            if (!json_object_is_type(text, json_type_string)) continue;
            if (a->n == a->cap)
                a->at = mem_grow(a->at, a->cap = MAX(2 * a->cap, (size_t)8), sizeof *a->at);
            a->at[a->n] = parse_object(text);
            a->objects += a->at[a->n++] != NULL;
        }
    }
}

void arguments_free(struct arguments *a) {
    for (size_t i = 0; i < a->n; i++) json_object_put(a->at[i]);
    free(a->at);
    *a = (struct arguments){ 0 };
}

static struct value *find(struct vm *vm, struct value v, const char *key) {
    return v.kind == V_DICT ? dict_find(&vm->box, v.u.dict, key) : NULL;
}

static bool some(const struct value *v) {
    return v && v->kind != V_NONE;
}

/* A role that everyone uses is a word, not a text of the user's: some templates build control
 * tokens from it ("<|" + role + "|>"), which must then be seen as such. */
static void trust_role(struct vm *vm, struct value *role) {
    static const char *const known[] = { "system", "developer", "user", "assistant", "tool",
        "function", "ipython", "model", "observation", "environment", "context", "documents" };
    for (size_t i = 0; role && role->kind == V_TEXT && i < COUNT(known); i++)
        if (text_is(role->u.text, known[i])) *role = v_text(text_literal(&vm->box, known[i]));
}

static void parsed_arguments(struct vm *vm, struct value *calls, const struct arguments *a,
                             size_t *next) {
    if (!calls || calls->kind != V_LIST) return;
    for (size_t i = 0; i < calls->u.list->n; i++) {
        struct value call = calls->u.list->at[i], *function = find(vm, call, "function");
        struct value *text = find(vm, function && function->kind == V_DICT ? *function : call,
                                  "arguments");
        if (!text || text->kind != V_TEXT) continue;
        struct json_object *object = a && *next < a->n ? a->at[*next] : NULL;
        ++*next;
        if (object) *text = v_json(&vm->box, object, true);
    }
}

/* For a template that takes content as a string: parts of text, one per line. */
static void flatten(struct vm *vm, struct value *content) {
    if (!content || content->kind != V_LIST) return;
    struct list *texts = list_new(&vm->box, L_LIST, content->u.list->n);
    for (size_t i = 0; i < content->u.list->n; i++) {
        struct value part = content->u.list->at[i];
        struct value *type = find(vm, part, "type"), *text = find(vm, part, "text");
        bool plain = text && text->kind == V_TEXT &&
                     (!type || (type->kind == V_TEXT && text_is(type->u.text, "text")));
        if (!plain) return;
        list_put(&vm->box, texts, *text);
    }
    *content = v_text(string_join(vm, text_literal(&vm->box, "\n"), texts));
}

/* Clients and templates have three names for what a model thought. transformers gives it by the
 * name that most templates read and by the one that gpt-oss reads, in this order. */
static struct value with_reasoning(struct vm *vm, struct value message) {
    static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
    struct value *found = NULL, thought;
    for (size_t i = 0; !some(found) && i < COUNT(names); i++) found = find(vm, message, names[i]);
    if (!some(found)) return message;
    thought = *found;
    struct dict *d = dict_new(&vm->box);
    dict_put(&vm->box, d, v_text(text_literal(&vm->box, "thinking")), thought);
    for (size_t i = 0; i < message.u.dict->n; i++)
        dict_put(&vm->box, d, message.u.dict->at[i].key, message.u.dict->at[i].value);
    dict_put(&vm->box, d, v_text(text_literal(&vm->box, "reasoning_content")), thought);
    return v_dict(d);
}

struct list *dialog_messages(struct vm *vm, const struct dialog *d, const struct arguments *a) {
    size_t n = json_object_array_length(d->messages), next = 0;
    struct list *messages = list_new(&vm->box, L_LIST, n);
    for (size_t i = 0; i < n; i++) {
        struct value message = v_json(&vm->box, json_object_array_get_idx(d->messages, i), true);
        trust_role(vm, find(vm, message, "role"));
        if (!d->as_given) {
            parsed_arguments(vm, find(vm, message, "tool_calls"), a, &next);
            if (!vm->t->reads_parts) flatten(vm, find(vm, message, "content"));
        }
        list_put(&vm->box, messages, with_reasoning(vm, message));
    }
    return messages;
}

/* Appends the mark to a text and gives what it was without. */
static struct text *mark(struct vm *vm, struct value *text) {
    if (!text || text->kind != V_TEXT) return NULL;
    struct text *said = text->u.text;
    struct builder b = { .box = &vm->box };
    put_text(&b, said);
    put_c(&b, end_mark);
    *text = v_text(built(&b));
    return said;
}

struct text *dialog_mark_end(struct vm *vm, const struct dialog *d, struct list *messages) {
    struct text *said = NULL;
    if (d->no_generation_prompt || !messages->n) return NULL;
    struct value last = messages->at[messages->n - 1];
    struct value *role = find(vm, last, "role"), *content = find(vm, last, "content");
    struct value *calls = find(vm, last, "tool_calls");
    if (!text_is(role->u.text, "assistant") || !some(content) || (calls && v_truth(*calls)))
        return NULL;
    if (content->kind == V_TEXT) return mark(vm, content);
    for (size_t i = content->u.list->n; !said && i-- > 0;)
        said = mark(vm, find(vm, content->u.list->at[i], "text"));
    return said;
}

struct text *dialog_cut_at_mark(struct vm *vm, struct text *t, struct text *said) {
    struct str whole = S(end_mark), word = str_cut(whole, 0, whole.len - 1);
    size_t at = str_rfind(text_str(t), word, 0, SIZE_MAX), begin, end;
    text_strip(said, NULL, true, true, &begin, &end);
    /* A message that shows in part only cannot be gone on with. */
    struct str wanted = str_cut(text_str(said), begin, end);
    if (at == SIZE_MAX || str_find(text_str(t), wanted, 0, SIZE_MAX) == SIZE_MAX)
        box_fail(&vm->box, "the template changes or leaves out the last message, which is an "
                 "assistant's and is to be continued");
    bool kept = str_find(text_str(t), whole, at, at + whole.len) == at;
    struct text *cut = text_cut(&vm->box, t, 0, at);
    if (kept) return cut;
    text_strip(cut, NULL, false, true, &begin, &end);
    return text_cut(&vm->box, cut, 0, end);
}
