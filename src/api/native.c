/* native.c - POST /completion, llama-server's own format, and its errors.
 *
 * A stream is one object for each piece of text with "stop": false, then one with "stop": true that
 * has the counts, and no [DONE]. choice->own holds the probabilities and choice->own_n the number
 * of tokens that were sent already. */
#include "api/native.h"
#include "api/routes.h"
#include "api/server.h"
#include "base/utf8.h"

#include <json-c/json.h>
#include <string.h>

enum { NATIVE_TOKENS = 2 };            /* in wire_flags, beside WIRE_LOGPROBS */

void fault_native(struct buf *json, const struct fault *f, const char *request_id) {
    struct buf message = { 0 };
    const char *type = f->n_ctx ? "exceed_context_size_error" : f->type ? f->type
                       : openai_type(f->status);
    utf8_repair(&message, str_of(f->err.text));
    buf_format(json, "{\"error\":{\"code\":%d,\"message\":", f->status);
    buf_json(json, buf_view(&message));
    buf_format(json, ",\"type\":\"%s\"", type);
    if (f->n_ctx)
        buf_format(json, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d", f->n_prompt, f->n_ctx);
    buf_char(json, '}');
    if (request_id && *request_id) {
        buf_str(json, S(",\"request_id\":"));
        buf_json(json, str_of(request_id));
    }
    buf_char(json, '}');
    buf_free(&message);
}

/* ---- parts ---- */

/* Those since the last chunk; the end of the text is none of the answer. */
static void put_tokens(struct buf *b, struct choice *o, bool wanted) {
    bool any = false;
    buf_str(b, S(",\"tokens\":["));
    for (; wanted && o->own_n < (size_t)o->ids.len; o->own_n++) {
        int id = o->ids.at[o->own_n];
        if (!openai_shows(o->call, id)) continue;
        buf_format(b, any ? ",%d" : "%d", id);
        any = true;
    }
    buf_char(b, ']');
}

static void put_probs(struct buf *b, struct choice *o) {
    if (!o->own.len) return;
    buf_str(b, S(",\"completion_probabilities\":["));
    buf_str(b, buf_view(&o->own));
    buf_char(b, ']');
    buf_clear(&o->own);
}

static void keep_probs(struct choice *o, const struct engine_event *e) {
    struct buf *list = &o->own, piece = { 0 };
    int n = MIN(openai_top(o->call), e->n_top);
    buf_format(list, "%s{\"id\":%d,", list->len ? "," : "", e->token);
    openai_entry(list, e->piece, e->logprob);
    buf_str(list, S(",\"top_logprobs\":["));
    for (int i = 0; i < n; i++) {
        buf_clear(&piece);
        engine_token_text(o->call->x->server->engine, e->top[i].token, &piece);
        buf_format(list, "%s{\"id\":%d,", i ? "," : "", e->top[i].token);
        openai_entry(list, buf_view(&piece), e->top[i].logprob);
        buf_char(list, '}');
    }
    buf_str(list, S("]}"));
    buf_free(&piece);
}

static bool has_new_line(const struct choice *o) {
    return o->content.len && memchr(o->content.at, '\n', o->content.len);
}

/* ---- the wire ---- */

static void chunk(struct choice *o, struct str text, bool progress) {
    struct call *c = o->call;
    struct buf b = { 0 };
    buf_format(&b, "{\"index\":%d,\"content\":", o->index);
    buf_json(&b, text);
    put_tokens(&b, o, !progress);
    buf_format(&b, ",\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":%d,\"tokens_evaluated\":%d",
               o->n_generated, o->n_prompt);
    if (c->timings) {
        buf_str(&b, S(",\"timings\":"));
        openai_timings(&b, c, o);
    }
    if (progress) openai_progress(&b, o);
    put_probs(&b, o);
    buf_char(&b, '}');
    stream_data(c->x, buf_view(&b));
    buf_free(&b);
}

static void put_end(struct buf *b, struct choice *o) {
    const struct call *c = o->call;
    const struct server *s = c->x->server;
    bool limit = o->finish == FINISH_LENGTH;
    bool tokens = !c->stream && c->wire_flags & NATIVE_TOKENS;
    buf_format(b, "{\"index\":%d,\"content\":", o->index);
    buf_json(b, c->stream ? (struct str){ 0 } : buf_view(&o->content));
    put_tokens(b, o, tokens);
    buf_str(b, S(",\"id_slot\":-1,\"stop\":true,\"model\":"));
    buf_json(b, str_of(s->model));
    buf_format(b, ",\"tokens_predicted\":%d,\"tokens_evaluated\":%d,\"generation_settings\":",
               o->n_generated, o->n_prompt);
    native_settings(b, s, c, true);
    buf_str(b, S(",\"prompt\":"));
    buf_json(b, buf_view(&c->prompt[o->prompt].echo));
    buf_format(b, ",\"has_new_line\":%s,\"truncated\":%s,\"stop_type\":\"%s\",\"stopping_word\":",
               has_new_line(o) ? "true" : "false",
               limit && o->n_prompt + o->n_generated >= s->info.context ? "true" : "false",
               limit ? "limit" : o->stop.len ? "word" : "eos");
    buf_json(b, buf_view(&o->stop));
    buf_format(b, ",\"tokens_cached\":%d,\"timings\":", o->n_cached);
    openai_timings(b, c, o);
    put_probs(b, o);
    buf_char(b, '}');
}

static void put_wanted(struct buf *b, struct choice *o) {
    struct fields f = { o->call->json, NULL };
    struct json_object *wanted = field_any(&f, "response_fields");
    struct buf json = { 0 };
    put_end(&json, o);
    if (wanted && json_object_array_length(wanted)) native_pick(&json, wanted);
    buf_str(b, buf_view(&json));
    buf_free(&json);
}

static void progress(struct choice *o) {
    chunk(o, (struct str){ 0 }, true);
}

static void begin(struct call *c) {
    if (!c->stream) return;
    stream_begin(c->x);
    for (int i = 0; c->progress && i < c->n_choices; i++) progress(&c->choice[i]);
}

static void put_pieces(struct choice *o, struct pieces p) {
    for (int i = 0; i < p.n; i++)
        if (p.at[i].text.len) chunk(o, p.at[i].text, false);
}

static void token(struct choice *o, const struct engine_event *e, struct pieces p) {
    struct call *c = o->call;
    if (e->kind != EVENT_TOKEN) return;
    if (c->progress && o->n_generated == 1) progress(o);
    if (c->wire_flags & WIRE_LOGPROBS && openai_shows(c, e->token)) keep_probs(o, e);
    if (c->stream) put_pieces(o, p);
    if (c->line_ms && o->decode_s * 1e3 >= c->line_ms && has_new_line(o)) choice_enough(o);
}

/* Tokens without a text of their own must not be lost with the last chunk. */
static void done(struct choice *o, struct pieces p) {
    struct buf b = { 0 };
    if (!o->call->stream) return;
    put_pieces(o, p);
    size_t left = o->own_n;
    while (left < (size_t)o->ids.len && !openai_shows(o->call, o->ids.at[left])) left++;
    if (left < (size_t)o->ids.len || o->own.len) chunk(o, (struct str){ 0 }, false);
    put_wanted(&b, o);
    stream_data(o->call->x, buf_view(&b));
    buf_free(&b);
}

static void end(struct call *c) {
    struct buf b = { 0 };
    if (c->stream) {
        stream_end(c->x, false);
        return;
    }
    if (c->n_choices > 1) buf_char(&b, '[');
    for (int i = 0; i < c->n_choices; i++) {
        if (i) buf_char(&b, ',');
        put_wanted(&b, &c->choice[i]);
    }
    if (c->n_choices > 1) buf_char(&b, ']');
    reply_json(c->x, 200, &b);
}

static const struct wire native_wire = { begin, progress, token, done, end };

/* ---- the request ---- */

static void refuse_above(struct fields *f, const char *name, int64_t most) {
    if (field_int(f, name, INT32_MIN, INT32_MAX, 0) > most)
        fault_unsupported(f->fault, name, "'%s' is not supported by this server.", name);
}

/* n_keep, n_discard and id_slot, which params.c looks at, are about a server with shifting contexts
 * and fixed slots: they change no answer here. */
static void native_read(struct call *c, struct fields *f) {
    int n_probs = (int)field_int(f, "n_probs", 0, NATIVE_PROBS_MAX, 0);
    if (n_probs) openai_ask_logprobs(c, n_probs);
    if (n_probs && field_bool(f, "post_sampling_probs", false))
        fault_unsupported(f->fault, "post_sampling_probs", "'post_sampling_probs' is not "
                          "supported: probabilities are the model's own.");
    if (field_bool(f, "return_tokens", false)) c->wire_flags |= NATIVE_TOKENS;
    c->n = (int)field_int(f, "n_cmpl", 1, CHOICES_MAX, c->n);
    if (field_has(f, "n_predict"))
        c->options.n_max = (int)MIN(MAX(field_int(f, "n_predict", -2, INT64_MAX, -1), -1),
                                    INT32_MAX);
    c->line_ms = (int)MAX(field_int(f, "t_max_predict_ms", -1, INT32_MAX, 0), 0);
    refuse_above(f, "n_indent", 0);
    refuse_above(f, "min_keep", 1);
}

/* Whether the reply may have to show the prompt. */
static bool read_wanted(struct fields *f) {
    struct json_object *wanted = field_list(f, "response_fields");
    size_t n = wanted ? json_object_array_length(wanted) : 0;
    bool prompt = !n;
    if (n > NATIVE_FIELDS_MAX)
        fault_set(f->fault, 400, "response_fields", "'response_fields' has more than %d.",
                  NATIVE_FIELDS_MAX);
    for (size_t i = 0; i < n; i++) {
        struct json_object *path = json_object_array_get_idx(wanted, i);
        if (!json_object_is_type(path, json_type_string))
            fault_set(f->fault, 400, "response_fields",
                      "Invalid type for 'response_fields[%zu]': expected a string.", i);
        else prompt |= str_is(json_str(path), "prompt");
    }
    return prompt;
}

void native_completion(struct exchange *x) {
    struct fault f = { 0 };
    struct json_object *json = body_json(x, &f);
    if (!json) {
        reply_fault(x, &f);
        return;
    }
    struct call *c = call_new(x, &native_wire, "cmpl-", json);
    struct fields r = { json, &f };
    openai_model(c, &r);
    params_read(c, &r);
    native_read(c, &r);
    bool prompt = read_wanted(&r);
    if (!f.status && native_prompts(c, &r, prompt) && call_start(c, &f)) return;
    reply_fault(x, &f);
    call_free(c);
}
