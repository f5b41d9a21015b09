/* chat.c - POST /v1/chat/completions: a call's events as chunks of a stream, or gathered into one
 * reply. What the request says is chat_read.c's. */
#include "api/openai.h"
#include "api/routes.h"
#include "api/server.h"

static const char chunk_object[] = "chat.completion.chunk";

/* {"content":[...],"refusal":null}, or null; the entries are then gone. */
static void put_logprobs(struct buf *b, struct choice *o) {
    if (!o->own.len) {
        buf_str(b, S("null"));
        return;
    }
    buf_str(b, S("{\"content\":["));
    buf_str(b, buf_view(&o->own));
    buf_str(b, S("],\"refusal\":null}"));
    buf_clear(&o->own);
}

static void chunk_with(struct choice *o, struct str delta, const char *finish, bool progress) {
    struct call *c = o->call;
    struct buf b = { 0 };
    openai_head(&b, c, chunk_object);
    buf_format(&b, ",\"choices\":[{\"index\":%d,\"delta\":", o->index);
    buf_str(&b, delta);
    buf_str(&b, S(",\"logprobs\":"));
    put_logprobs(&b, o);
    if (finish) buf_format(&b, ",\"finish_reason\":\"%s\"}]", finish);
    else buf_str(&b, S(",\"finish_reason\":null}]"));
    if (c->usage) buf_str(&b, S(",\"usage\":null"));
    if (finish || c->timings) {
        buf_str(&b, S(",\"timings\":"));
        openai_timings(&b, c, o);
    }
    if (progress) openai_progress(&b, o);
    buf_char(&b, '}');
    stream_data(c->x, buf_view(&b));
    buf_free(&b);
}

static void chunk(struct choice *o, struct str delta, const char *finish) {
    chunk_with(o, delta, finish, false);
}

/* ---- deltas ---- */

static void put_reasoning(struct buf *b, const struct server *s, struct str text) {
    if (!s->only_reasoning) {
        buf_str(b, S("\"reasoning_content\":"));
        buf_json(b, text);
    }
    if (s->only_reasoning_content) return;
    buf_str(b, s->only_reasoning ? S("\"reasoning\":") : S(",\"reasoning\":"));
    buf_json(b, text);
}

/* A call's first delta has its id and name, and no later one repeats them: clients concatenate. */
static void put_piece(struct buf *b, const struct choice *o, const struct chat_event *e) {
    switch (e->kind) {
    case CHAT_TEXT:
        buf_str(b, S("{\"content\":"));
        buf_json(b, e->text);
        buf_char(b, '}');
        return;
    case CHAT_REASONING:
        buf_char(b, '{');
        put_reasoning(b, o->call->x->server, e->text);
        buf_char(b, '}');
        return;
    case CHAT_TOOL_NAME:
        buf_format(b, "{\"tool_calls\":[{\"index\":%d,\"id\":", e->index);
        buf_json(b, buf_view(&o->tool[e->index].id));
        buf_str(b, S(",\"type\":\"function\",\"function\":{\"name\":"));
        buf_json(b, e->text);
        buf_str(b, S(",\"arguments\":\"\"}}]}"));
        return;
    case CHAT_TOOL_ARGS:
        buf_format(b, "{\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":", e->index);
        buf_json(b, e->text);
        buf_str(b, S("}}]}"));
        return;
    case CHAT_END:
        return;
    }
}

static void put_pieces(struct choice *o, struct pieces p) {
    struct buf delta = { 0 };
    for (int i = 0; i < p.n; i++) {
        const struct chat_event *e = &p.at[i];
        bool call = e->kind == CHAT_TOOL_NAME || e->kind == CHAT_TOOL_ARGS;
        /* Calls beyond call.c's limit are not kept, and so have no id. */
        if (call && e->index >= o->n_tools) continue;
        buf_clear(&delta);
        put_piece(&delta, o, e);
        if (delta.len) chunk(o, buf_view(&delta), NULL);
    }
    buf_free(&delta);
}

/* ---- the wire ---- */

static void begin(struct call *c) {
    if (!c->stream) return;
    stream_begin(c->x);
    for (int i = 0; i < c->n_choices; i++)
        chunk_with(&c->choice[i], S("{\"role\":\"assistant\",\"content\":\"\"}"), NULL,
                   c->progress);
}

static void progress(struct choice *o) {
    chunk_with(o, S("{}"), NULL, true);
}

static void token(struct choice *o, const struct engine_event *e, struct pieces p) {
    struct call *c = o->call;
    if (e->kind != EVENT_TOKEN) return;
    if (c->progress && o->n_generated == 1) progress(o);
    if (c->wire_flags & WIRE_LOGPROBS && openai_shows(c, e->token)) openai_token(&o->own, c, e);
    if (c->stream) put_pieces(o, p);
}

static void done(struct choice *o, struct pieces p) {
    if (!o->call->stream) return;
    put_pieces(o, p);
    chunk(o, S("{}"), choice_finish(o));
}

static void put_tools(struct buf *b, const struct choice *o) {
    buf_str(b, S(",\"tool_calls\":["));
    for (int i = 0; i < o->n_tools; i++) {
        const struct tool_call *t = &o->tool[i];
        buf_str(b, i ? S(",{\"id\":") : S("{\"id\":"));
        buf_json(b, buf_view(&t->id));
        buf_str(b, S(",\"type\":\"function\",\"function\":{\"name\":"));
        buf_json(b, buf_view(&t->name));
        buf_str(b, S(",\"arguments\":"));
        buf_json(b, buf_view(&t->arguments));
        buf_str(b, S("}}"));
    }
    buf_char(b, ']');
}

static void put_choice(struct buf *b, struct choice *o) {
    buf_format(b, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", o->index);
    if (o->n_tools && !o->content.len) buf_str(b, S("null"));
    else buf_json(b, buf_view(&o->content));
    if (o->reasoning.len) {
        buf_char(b, ',');
        put_reasoning(b, o->call->x->server, buf_view(&o->reasoning));
    }
    if (o->n_tools) put_tools(b, o);
    buf_str(b, S(",\"refusal\":null},\"logprobs\":"));
    put_logprobs(b, o);
    buf_format(b, ",\"finish_reason\":\"%s\"}", choice_finish(o));
}

static void end_stream(struct call *c) {
    struct buf b = { 0 };
    if (c->usage) {
        openai_head(&b, c, chunk_object);
        buf_str(&b, S(",\"choices\":[],\"usage\":"));
        openai_usage(&b, c);
        buf_char(&b, '}');
        stream_data(c->x, buf_view(&b));
        buf_free(&b);
    }
    stream_end(c->x, true);
}

static void end(struct call *c) {
    struct buf b = { 0 };
    if (c->stream) {
        end_stream(c);
        return;
    }
    openai_head(&b, c, "chat.completion");
    buf_str(&b, S(",\"choices\":["));
    for (int i = 0; i < c->n_choices; i++) {
        if (i) buf_char(&b, ',');
        put_choice(&b, &c->choice[i]);
    }
    buf_str(&b, S("],\"usage\":"));
    openai_usage(&b, c);
    buf_str(&b, S(",\"timings\":"));
    openai_timings(&b, c, NULL);
    buf_char(&b, '}');
    reply_json(c->x, 200, &b);
}

static const struct wire chat_wire = { begin, progress, token, done, end };

void chat_completions(struct exchange *x) {
    struct fault f = { 0 };
    struct json_object *json = body_json(x, &f);
    if (!json) {
        reply_fault(x, &f);
        return;
    }
    struct call *c = call_new(x, &chat_wire, "chatcmpl-", json);
    struct fields r = { json, &f };
    struct chat_in in;
    openai_model(c, &r);
    params_read(c, &r);
    chat_read(c, &r, &in);
    bool ok = !f.status && call_add_dialog(c, &in.dialog, &f);
    /* Before the start: afterwards the request's JSON is the engine thread's, and json-c counts
     * references without locks. */
    chat_in_free(&in);
    if (ok && call_start(c, &f)) return;
    reply_fault(x, &f);
    call_free(c);
}
