/* chat.c - messages to an answer, shown as it comes. */
#include "cli/chat.h"
#include "cli/dialog.h"
#include <json-c/json.h>
#include <limits.h>
#include <string.h>

/* What is on the screen: thinking and calls are dimmed and on standard error, the answer is not. */
struct showing {
    const struct conversation *c;
    bool silent, thinking, calling, arguments;
    bool ends_line;                  /* the last piece did */
    bool text_open;                  /* the answer has no newline at its end */
};

static void end_thinking(struct showing *s) {
    if (!s->thinking) return;
    fprintf(stderr, "%s%s", dim_off(s->c->s->term.err_color), s->ends_line ? "\n" : "\n\n");
    fflush(stderr);
    s->thinking = false;
}

static void end_call(struct showing *s) {
    if (!s->calling) return;
    fprintf(stderr, "]%s\n", dim_off(s->c->s->term.err_color));
    fflush(stderr);
    s->calling = false;
    s->ends_line = true;
}

/* On a line of its own: "[calls name {arguments}]". */
static void begin_call(struct showing *s, struct str name) {
    const struct term *term = &s->c->s->term;
    end_thinking(s);
    end_call(s);
    if (s->text_open && term->out) {
        term_text(stdout, true, S("\n"));
        s->text_open = false;
    }
    fprintf(stderr, "%s[calls ", dim_on(term->err_color));
    term_text(stderr, true, name);
    s->calling = true;
    s->arguments = false;
}

static void show(void *to, enum chat_kind kind, struct str piece) {
    struct showing *s = to;
    const struct term *term = &s->c->s->term;
    if (s->silent) return;
    if (kind == CHAT_REASONING && piece.len) {
        if (s->c->a->hide_thinking || s->c->a->quiet || !term->err) return;
        end_call(s);
        if (!s->thinking) fputs(dim_on(term->err_color), stderr);
        s->thinking = true;
        term_text(stderr, true, piece);
    } else if (kind == CHAT_TEXT && piece.len) {
        /* Templates put empty lines between thinking and answer; on a screen one is there. */
        if (s->thinking && term->out)
            while (piece.len && piece.at[0] == '\n') piece = str_from(piece, 1);
        if (!piece.len) return;
        end_thinking(s);
        end_call(s);
        term_text(stdout, term->out, piece);
        s->text_open = piece.at[piece.len - 1] != '\n';
    } else if (kind == CHAT_TOOL_NAME && piece.len && term->err) {
        begin_call(s, piece);
    } else if (kind == CHAT_TOOL_ARGS && piece.len && s->calling) {
        if (!s->arguments) fputc(' ', stderr);
        s->arguments = true;
        term_text(stderr, true, piece);
    }
    if (piece.len) s->ends_line = piece.at[piece.len - 1] == '\n';
}

static bool render(const struct conversation *c, struct prompt *prompt, struct ids *ids,
                   struct err *err) {
    struct dialog d = { .messages = c->messages, .tools = c->tools, .vars = c->vars };
    if (!chat_render(c->chat, &d, prompt, err)) return false;
    tok_encode(engine_tokenizer(c->s->engine), buf_view(&prompt->text), TOK_SPECIALS, prompt->span,
               prompt->n_spans, ids);
    return true;
}

int conversation_tokens(const struct conversation *c, struct err *err) {
    struct prompt prompt = { 0 };
    struct ids ids = { 0 };
    int n = render(c, &prompt, &ids, err) ? ids.len : -1;
    prompt_free(&prompt);
    ids_free(&ids);
    return n;
}

static struct json_object *string_of(const struct buf *b) {
    return json_object_new_string_len(b->at ? b->at : "", (int)MIN(b->len, (size_t)INT_MAX));
}

/* As OpenAI's API has it, but with arguments as an object where they are one: templates write
 * an object out again, and would quote a string twice. */
static struct json_object *calls_of(const struct answer *a) {
    struct json_object *list = json_object_new_array();
    for (int i = 0; i < a->n_calls; i++) {
        struct json_object *call = json_object_new_object(), *function = json_object_new_object();
        struct str text = buf_view(&a->call[i].arguments);
        struct err ignored = { 0 };
        struct json_object *arguments = input_json_text(text, "arguments", &ignored);
        json_object_object_add(function, "name", string_of(&a->call[i].name));
        json_object_object_add(function, "arguments",
                               arguments ? arguments : string_of(&a->call[i].arguments));
        json_object_object_add(call, "id", string_of(&a->call[i].id));
        json_object_object_add(call, "type", json_object_new_string("function"));
        json_object_object_add(call, "function", function);
        json_object_array_add(list, call);
    }
    return list;
}

static void add_answer(struct conversation *c, const struct answer *a) {
    struct json_object *m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string("assistant"));
    json_object_object_add(m, "content", string_of(&a->text));
    if (a->reasoning.len) json_object_object_add(m, "reasoning_content", string_of(&a->reasoning));
    if (a->n_calls) json_object_object_add(m, "tool_calls", calls_of(a));
    json_object_array_add(c->messages, m);
}

bool conversation_turn(struct conversation *c, const struct str *message, bool silent,
                       struct err *err) {
    struct prompt prompt = { 0 };
    struct ids ids = { 0 };
    struct showing s = { .c = c, .silent = silent, .ends_line = true };
    if (message) dialog_say(c->messages, "user", *message);
    answer_free(&c->last);
    bool ok = render(c, &prompt, &ids, err);
    if (ok) {
        struct question q = {
            .ids = ids.at, .n_ids = ids.len, .options = session_options(c->s, c->a),
            .chat = c->chat, .prompt = &prompt, .tools = c->tools, .show = show, .to = &s,
        };
        /* The parsers look for tags that may be control tokens. */
        q.options.specials = true;
        ok = session_ask(c->s, &q, &c->last, err);
        end_thinking(&s);
        end_call(&s);
        if (!silent && s.text_open) term_text(stdout, false, S("\n"));
    }
    if (ok) {
        add_answer(c, &c->last);
        c->answers++;
        c->total_in += c->last.n_prompt;
        c->total_cached += c->last.n_cached;
        c->total_out += c->last.n_generated;
    } else if (message) {
        conversation_drop_last(c);
    }
    prompt_free(&prompt);
    ids_free(&ids);
    return ok;
}

const char *message_role(struct json_object *m) {
    struct json_object *role;
    return json_object_object_get_ex(m, "role", &role) ? json_object_get_string(role) : "";
}

struct str message_text(struct json_object *m) {
    struct json_object *content;
    if (!json_object_object_get_ex(m, "content", &content) || !content) return S("");
    const char *text = json_object_get_string(content);
    return json_object_is_type(content, json_type_string)
               ? (struct str){ text, (size_t)json_object_get_string_len(content) }
               : str_of(text);
}

void conversation_drop_last(struct conversation *c) {
    size_t n = json_object_array_length(c->messages);
    if (n) json_object_array_del_idx(c->messages, n - 1, 1);
}

const char *conversation_last_role(const struct conversation *c) {
    size_t n = json_object_array_length(c->messages);
    return n ? message_role(json_object_array_get_idx(c->messages, n - 1)) : "";
}

void conversation_system(struct conversation *c, struct str text) {
    struct json_object *all = json_object_new_array();
    if (text.len) dialog_say(all, "system", text);
    for (size_t i = 0; i < json_object_array_length(c->messages); i++) {
        struct json_object *m = json_object_array_get_idx(c->messages, i);
        if (i || strcmp(message_role(m), "system") != 0)
            json_object_array_add(all, json_object_get(m));
    }
    json_object_put(c->messages);
    c->messages = all;
}

bool conversation_open(struct conversation *c, struct session *s, struct args *a,
                       struct err *err) {
    struct buf system = { 0 };
    *c = (struct conversation){ .s = s, .a = a, .speeds = !a->quiet };
    c->messages = json_object_new_array();
    c->chat = engine_chat(s->engine, err);
    if (!c->chat) {
        struct err why = *err;
        *err = (struct err){ 0 };
        return err_code(err, why.code, "%s ('mlxcel generate' completes text without one)",
                        why.text);
    }
    bool ok = dialog_system(a, &system, err);
    if (ok && system.len) conversation_system(c, buf_view(&system));
    buf_free(&system);
    if (!ok) return false;
    c->vars = dialog_vars(a, err);
    if (!c->vars && err->code) return false;
    if (!c->vars) c->vars = json_object_new_object();
    if (!a->tools) return true;
    c->tools = input_json(a->tools, err);
    if (c->tools && !json_object_is_type(c->tools, json_type_array))
        return err_set(err, "%s holds no list of tools", a->tools);
    return c->tools != NULL;
}

void conversation_close(struct conversation *c) {
    editor_close(c->editor);
    answer_free(&c->last);
    buf_free(&c->pending);
    json_object_put(c->messages);
    json_object_put(c->tools);
    json_object_put(c->vars);
    *c = (struct conversation){ 0 };
}
