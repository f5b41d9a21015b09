/* chat_read.c - what a chat request says: messages made plain for the template, tools, and the
 * variables that templates know. Nothing here needs an engine.
 *
 * Templates are written for the newest spelling of everything and fail on others, so old names and
 * lists of parts are rewritten in the request's own JSON before a template sees them. */
#include "api/openai.h"
#include "api/server.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

static struct json_object *member(struct json_object *object, const char *name) {
    struct json_object *value = NULL;
    if (json_object_is_type(object, json_type_object))
        json_object_object_get_ex(object, name, &value);
    return value;
}

static bool is_text(struct json_object *value, const char *text) {
    return json_object_is_type(value, json_type_string) && str_is(json_str(value), text);
}

static void set(struct json_object *object, const char *name, struct json_object *value) {
    json_object_object_add(object, name, value);
}

/* ---- content ---- */

/* {"type": "text", "text": ...}, or a part that says the same in other words. */
static bool read_part(struct json_object *part, size_t i, size_t k, struct fault *f) {
    char param[64];
    struct json_object *type = member(part, "type"), *text = member(part, "text");
    snprintf(param, sizeof param, "messages[%zu].content[%zu]", i, k);
    if (is_text(type, "refusal")) text = member(part, "refusal");
    else if (json_object_is_type(type, json_type_string) && !is_text(type, "text") &&
             !is_text(type, "input_text") && !is_text(type, "output_text"))
        return fault_unsupported(f, param, "%s: a part of type '%.*s' cannot be read: this model "
                                 "takes text only.", param, STR_ARG(json_str(type)));
    if (!json_object_is_type(text, json_type_string))
        return fault_set(f, 400, param, "%s: expected a part like "
                         "{\"type\": \"text\", \"text\": \"...\"}.", param);
    if (is_text(type, "text") && json_object_object_length(part) == 2) return true;
    json_object_get(text);
    set(part, "type", json_object_new_string("text"));
    set(part, "text", text);
    return true;
}

/* No content is an empty text, but stays null beside tool calls, as templates ask for that. */
static bool read_content(struct json_object *message, size_t i, struct fault *f) {
    char param[64];
    struct json_object *content = member(message, "content");
    struct json_object *calls = member(message, "tool_calls");
    if (json_object_is_type(content, json_type_string)) return true;
    size_t n = content && json_object_is_type(content, json_type_array)
             ? json_object_array_length(content) : 0;
    if (content && !json_object_is_type(content, json_type_array)) {
        snprintf(param, sizeof param, "messages[%zu].content", i);
        return fault_set(f, 400, param,
                         "Invalid type for '%s': expected a string or a list of parts.", param);
    }
    if (!n) set(message, "content", calls ? NULL : json_object_new_string(""));
    for (size_t k = 0; k < n; k++)
        if (!read_part(json_object_array_get_idx(content, k), i, k, f)) return false;
    return true;
}

/* ---- tool calls of earlier answers ---- */

static bool read_call(struct json_object *call, size_t i, size_t k, struct fault *f) {
    char param[64];
    struct json_object *function = member(call, "function");
    struct json_object *arguments = member(function, "arguments");
    snprintf(param, sizeof param, "messages[%zu].tool_calls[%zu].function", i, k);
    if (!json_object_is_type(member(function, "name"), json_type_string))
        return fault_set(f, 400, param, "'%s' needs a name.", param);
    if (!arguments) set(function, "arguments", json_object_new_string("{}"));
    else if (!json_object_is_type(arguments, json_type_string) &&
             !json_object_is_type(arguments, json_type_object))
        return fault_set(f, 400, param, "'%s': arguments are neither a string nor an object.",
                         param);
    if (!member(call, "type")) set(call, "type", json_object_new_string("function"));
    return true;
}

static bool read_calls(struct json_object *message, size_t i, struct fault *f) {
    char param[64];
    struct json_object *calls = member(message, "tool_calls");
    struct json_object *old = member(message, "function_call");
    if (!calls && json_object_is_type(old, json_type_object)) {
        struct json_object *call = json_object_new_object();
        set(call, "type", json_object_new_string("function"));
        set(call, "function", json_object_get(old));
        calls = json_object_new_array();
        json_object_array_add(calls, call);
        set(message, "tool_calls", calls);
    }
    json_object_object_del(message, "function_call");
    snprintf(param, sizeof param, "messages[%zu].tool_calls", i);
    if (calls && !json_object_is_type(calls, json_type_array))
        return fault_set(f, 400, param, "Invalid type for '%s': expected a list.", param);
    size_t n = calls ? json_object_array_length(calls) : 0;
    for (size_t k = 0; k < n; k++)
        if (!read_call(json_object_array_get_idx(calls, k), i, k, f)) return false;
    /* Null and an empty list are no calls; some templates only ask whether the key is there. */
    if (!n) json_object_object_del(message, "tool_calls");
    return true;
}

/* ---- messages ---- */

static const struct { const char *name, *as; } roles[] = {
    { "system", "system" }, { "developer", "system" }, { "user", "user" },
    { "assistant", "assistant" }, { "tool", "tool" }, { "function", "tool" },
};

static bool read_role(struct json_object *message, size_t i, struct fault *f) {
    char param[64];
    struct json_object *role = member(message, "role");
    snprintf(param, sizeof param, "messages[%zu].role", i);
    if (!json_object_is_type(role, json_type_string))
        return fault_set(f, 400, param, "'%s' is missing or no string.", param);
    for (size_t k = 0; k < COUNT(roles); k++) {
        if (!is_text(role, roles[k].name)) continue;
        if (strcmp(roles[k].name, roles[k].as) != 0)
            set(message, "role", json_object_new_string(roles[k].as));
        return true;
    }
    return fault_set(f, 400, param, "'%s' is '%.*s', but must be system, developer, user, "
                     "assistant, tool or function.", param, STR_ARG(json_str(role)));
}

/* Absent is null, so that a template does not print "None" for a name. */
static bool read_strings(struct json_object *message, size_t i, struct fault *f) {
    static const char *const names[] = { "name", "tool_call_id", "reasoning_content", "reasoning",
                                         "refusal" };
    for (size_t k = 0; k < COUNT(names); k++) {
        char param[64];
        struct json_object *value = member(message, names[k]);
        snprintf(param, sizeof param, "messages[%zu].%s", i, names[k]);
        if (!value) json_object_object_del(message, names[k]);
        else if (!json_object_is_type(value, json_type_string))
            return fault_set(f, 400, param, "Invalid type for '%s': expected a string.", param);
    }
    return true;
}

static struct json_object *read_messages(struct fields *f) {
    struct json_object *messages = field_list(f, "messages");
    size_t n = messages ? json_object_array_length(messages) : 0;
    if (!n || n > MESSAGES_MAX) {
        fault_set(f->fault, 400, "messages", n ? "'messages' has more than %d messages."
                  : "'messages' must be a list of at least 1 and at most %d messages.",
                  MESSAGES_MAX);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        struct json_object *m = json_object_array_get_idx(messages, i);
        char param[64];
        snprintf(param, sizeof param, "messages[%zu]", i);
        if (!json_object_is_type(m, json_type_object))
            fault_set(f->fault, 400, param, "Invalid type for '%s': expected an object.", param);
        else if (read_role(m, i, f->fault) && read_strings(m, i, f->fault) &&
                 read_calls(m, i, f->fault) && read_content(m, i, f->fault)) continue;
        return NULL;
    }
    return messages;
}

/* ---- tools ---- */

/* Some agents send tools of types of their own beside functions; those are not ours to call. */
static bool add_tool(struct json_object *tools, struct json_object *tool, const char *field,
                     size_t i, struct fault *f) {
    bool old = !strcmp(field, "functions");
    struct json_object *type = member(tool, "type"), *function = tool;
    if (!old) {
        if (json_object_is_type(type, json_type_string) && !is_text(type, "function")) return true;
        function = member(tool, "function");
    }
    if (!json_object_is_type(member(function, "name"), json_type_string)) {
        char param[64];
        snprintf(param, sizeof param, "%s[%zu]", field, i);
        return fault_set(f, 400, param, "'%s' is no function with a name.", param);
    }
    struct json_object *plain = json_object_new_object();
    set(plain, "type", json_object_new_string("function"));
    set(plain, "function", json_object_get(function));
    json_object_array_add(tools, plain);
    return true;
}

/* False: no tools shall be used. */
static bool may_call(struct fields *f) {
    const char *name = field_has(f, "tool_choice") ? "tool_choice" : "function_call";
    struct json_object *choice = field_any(f, name), *type = member(choice, "type");
    if (is_text(type, "auto") || is_text(type, "none")) choice = type;
    if (!choice || is_text(choice, "auto")) return true;
    if (is_text(choice, "none")) return false;
    if (is_text(choice, "required") || json_object_is_type(choice, json_type_object))
        fault_unsupported(f->fault, name, "A forced call is not supported yet: '%s' must be 'auto' "
                          "or 'none'.", name);
    else fault_set(f->fault, 400, name, "Invalid value for '%s': expected 'auto' or 'none'.", name);
    return false;
}

struct json_object *chat_tools(struct fields *f) {
    const char *name = field_has(f, "tools") ? "tools" : "functions";
    struct json_object *list = field_list(f, name);
    bool may = may_call(f);
    size_t n = list ? json_object_array_length(list) : 0;
    if (n > TOOL_LIST_MAX)
        fault_set(f->fault, 400, name, "'%s' has more than %d tools.", name, TOOL_LIST_MAX);
    if (!n || f->fault->status) return NULL;
    struct json_object *tools = json_object_new_array();
    for (size_t i = 0; i < n; i++)
        if (!add_tool(tools, json_object_array_get_idx(list, i), name, i, f->fault)) break;
    if (may && json_object_array_length(tools) && !f->fault->status) return tools;
    json_object_put(tools);
    return NULL;
}

/* ---- template variables ---- */

static void think(struct json_object *vars, bool on) {
    set(vars, "enable_thinking", json_object_new_boolean(on));
    set(vars, "thinking", json_object_new_boolean(on));
}

/* "none" or a level. Templates that know levels know three. */
static void set_effort(struct json_object *vars, struct str effort, const char *name,
                       struct fault *f) {
    static const struct { const char *name, *as; } levels[] = {
        { "minimal", "low" }, { "low", "low" }, { "medium", "medium" }, { "high", "high" },
        { "xhigh", "high" }, { "max", "high" },
    };
    if (str_is(effort, "none")) {
        think(vars, false);
        return;
    }
    for (size_t i = 0; i < COUNT(levels); i++) {
        if (!str_is(effort, levels[i].name)) continue;
        think(vars, true);
        set(vars, "reasoning_effort", json_object_new_string(levels[i].as));
        return;
    }
    fault_set(f, 400, name, "Invalid value for '%s': '%.*s' is none of none, minimal, low, medium, "
              "high, xhigh.", name, STR_ARG(effort));
}

/* true, false, or a level. */
static void read_think(struct json_object *vars, struct fields *f, const char *name) {
    struct json_object *value = field_any(f, name);
    if (!value) return;
    if (json_object_is_type(value, json_type_boolean)) think(vars, json_object_get_boolean(value));
    else if (json_object_is_type(value, json_type_string))
        set_effort(vars, json_str(value), name, f->fault);
    else fault_set(f->fault, 400, name, "Invalid type for '%s': expected true or false.", name);
}

/* How many tokens of thoughts: 0 is none, -1 no limit. Another number is for the template: some
 * families were taught to keep to one. */
static void read_budget(struct json_object *vars, struct fields *f, const char *name) {
    int64_t n = field_int(f, name, -1, INT64_MAX, -1);
    if (n >= 0) think(vars, n > 0);
    if (n > 0) set(vars, "thinking_budget", json_object_new_int64(n));
}

static void read_budgets(struct json_object *vars, struct fields *f) {
    static const char *const names[] = { "thinking_token_budget", "thinking_budget",
                                         "thinking_budget_tokens" };
    for (size_t i = 0; i < COUNT(names); i++) read_budget(vars, f, names[i]);
}

/* {"effort": ..., "enabled": ...}, and {"type": "enabled"} as others name it. */
static void read_reasoning(struct json_object *vars, struct fields *f) {
    struct json_object *reasoning = field_object(f, "reasoning");
    struct json_object *thinking = field_any(f, "thinking");
    if (json_object_is_type(thinking, json_type_object)) {
        read_budget(vars, &(struct fields){ thinking, f->fault }, "budget_tokens");
        if (is_text(member(thinking, "type"), "enabled")) think(vars, true);
        if (is_text(member(thinking, "type"), "disabled")) think(vars, false);
    }
    if (!reasoning) return;
    struct fields inner = { reasoning, f->fault };
    read_budget(vars, &inner, "max_tokens");
    if (field_has(&inner, "enabled")) think(vars, field_bool(&inner, "enabled", true));
    struct str effort = field_str(&inner, "effort");
    if (effort.at) set_effort(vars, effort, "reasoning", f->fault);
}

/* What is more specific comes later and wins. `base` is text, as json-c's references are not to be
 * shared by threads. */
struct json_object *chat_vars(struct fields *f, const char *base) {
    struct json_object *vars = base ? json_tokener_parse(base) : json_object_new_object();
    struct str effort = field_str(f, "reasoning_effort");
    struct json_object *more = field_object(f, "chat_template_kwargs");
    /* A template is a program: who serves the model chooses it, not who asks. */
    if (field_has(f, "chat_template"))
        fault_set(f->fault, 400, "chat_template", "'chat_template' cannot be given with a request; "
                  "the server's option --chat-template sets one.");
    read_budgets(vars, f);
    read_reasoning(vars, f);
    if (effort.at) set_effort(vars, effort, "reasoning_effort", f->fault);
    read_think(vars, f, "think");
    read_think(vars, f, "enable_thinking");
    if (more) {
        struct json_object_iterator i = json_object_iter_begin(more),
                                    end = json_object_iter_end(more);
        for (; !json_object_iter_equal(&i, &end); json_object_iter_next(&i))
            set(vars, json_object_iter_peek_name(&i),
                json_object_get(json_object_iter_peek_value(&i)));
    }
    if (json_object_object_length(vars)) return vars;
    json_object_put(vars);
    return NULL;
}

/* ---- the request ---- */

static void read_logprobs(struct call *c, struct fields *f) {
    bool on = field_bool(f, "logprobs", false);
    int top = (int)field_int(f, "top_logprobs", 0, TOP_LOGPROBS_MAX, 0);
    if (top && !on)
        fault_set(f->fault, 400, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
    if (on) openai_ask_logprobs(c, top);
}

/* The last message of an assistant goes on by itself, so only contradictions are looked for. */
static void read_continuation(struct dialog *d, struct fields *f) {
    bool open = field_bool(f, "continue_final_message", false);
    bool prompt = field_bool(f, "add_generation_prompt", !open);
    d->no_generation_prompt = !prompt && !open;
    if (!open || !d->messages) return;
    size_t n = json_object_array_length(d->messages);
    struct json_object *last = json_object_array_get_idx(d->messages, n - 1);
    if (prompt)
        fault_set(f->fault, 400, "continue_final_message",
                  "'continue_final_message' and 'add_generation_prompt' exclude each other.");
    else if (!is_text(member(last, "role"), "assistant"))
        fault_set(f->fault, 400, "continue_final_message",
                  "'continue_final_message' needs a last message of the assistant.");
}

static void refuse_sound(struct fields *f) {
    struct json_object *list = field_list(f, "modalities");
    size_t n = list ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++)
        if (!is_text(json_object_array_get_idx(list, i), "text"))
            fault_unsupported(f->fault, "modalities", "This model answers with text only.");
}

void chat_read(struct call *c, struct fields *f, struct chat_in *in) {
    *in = (struct chat_in){ .dialog.messages = read_messages(f) };
    in->tools = chat_tools(f);
    in->vars = chat_vars(f, c->x->server->options.template_vars);
    in->dialog.tools = in->tools;
    in->dialog.vars = in->vars;
    in->dialog.documents = field_list(f, "documents");
    c->tools = json_object_get(in->tools);
    c->one_call = !field_bool(f, "parallel_tool_calls", true);
    read_logprobs(c, f);
    read_continuation(&in->dialog, f);
    refuse_sound(f);
}

void chat_in_free(struct chat_in *in) {
    json_object_put(in->tools);
    json_object_put(in->vars);
}
