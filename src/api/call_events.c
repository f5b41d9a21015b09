/* call_events.c - what the engine says of a call's sequences, on the engine's thread: split into
 * pieces, counted, handed to the wire format, and the end of it all. */
#include "api/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { TOOLS_MAX = 256 };

/* ---- pieces ---- */

/* "call" and five at random: some templates insist on nine letters and digits, none minds them.
 * An id need not differ from those of other conversations. */
static void make_id(struct buf *id) {
    static const char from[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint64_t random = 0;
    ssize_t got = getrandom(&random, sizeof random, 0);
    (void)got;
    buf_str(id, S("call"));
    for (int i = 0; i < 5; i++, random /= strlen(from)) buf_char(id, from[random % strlen(from)]);
}

static struct tool_call *tool_at(struct choice *o, int index) {
    if (index < 0 || index >= TOOLS_MAX) return NULL;
    while (index >= o->n_tools) {
        o->tool = mem_grow(o->tool, (size_t)o->n_tools + 1, sizeof *o->tool);
        o->tool[o->n_tools++] = (struct tool_call){ 0 };
    }
    return &o->tool[index];
}

static void gather(struct choice *o, const struct chat_event *e) {
    struct tool_call *t = NULL;
    if (e->kind == CHAT_TOOL_NAME || e->kind == CHAT_TOOL_ARGS) t = tool_at(o, e->index);
    switch (e->kind) {
    case CHAT_TEXT: buf_str(&o->content, e->text); break;
    case CHAT_REASONING: buf_str(&o->reasoning, e->text); break;
    case CHAT_TOOL_NAME:
        if (!t) break;
        buf_str(&t->name, e->text);
        if (e->id.len) buf_str(&t->id, e->id);
        else make_id(&t->id);
        break;
    case CHAT_TOOL_ARGS: if (t) buf_str(&t->arguments, e->text); break;
    case CHAT_END: break;
    }
}

/* The views of a piece live only as long as the parser's call, so the bytes are copied. */
static void on_piece(void *to, const struct chat_event *e) {
    struct choice *o = to;
    bool call = e->kind == CHAT_TOOL_NAME || e->kind == CHAT_TOOL_ARGS;
    o->called |= call && e->index > 0 && o->call->one_call;
    if (o->called || e->kind == CHAT_END || (!e->text.len && e->kind != CHAT_TOOL_NAME)) return;
    gather(o, e);
    struct chat_event *last = o->n_pieces ? &o->piece[o->n_pieces - 1] : NULL;
    if (last && last->kind == e->kind && last->index == e->index) {
        last->text.len += e->text.len;
    } else {
        if (o->n_pieces == o->pieces_cap) {
            o->pieces_cap = o->pieces_cap * 2 + 4;
            o->piece = mem_grow(o->piece, (size_t)o->pieces_cap, sizeof *o->piece);
            o->piece_at = mem_grow(o->piece_at, (size_t)o->pieces_cap, sizeof *o->piece_at);
        }
        o->piece[o->n_pieces] = (struct chat_event){ e->kind, e->index, e->text, { 0 } };
        o->piece_at[o->n_pieces++] = o->piece_text.len;
    }
    buf_str(&o->piece_text, e->text);
}

static struct pieces split(struct choice *o, const struct engine_event *e) {
    bool last = e->kind == EVENT_DONE;
    o->n_pieces = 0;
    buf_clear(&o->piece_text);
    if (o->split) {
        const struct engine *engine = o->call->x->server->engine;
        bool spelt = e->kind == EVENT_TOKEN && !engine_is_eos(engine, e->token);
        chat_stream_token(o->split, engine_tokenizer(engine), spelt ? e->token : -1, e->text, last,
                          on_piece, o);
    } else if (e->text.len) {
        on_piece(o, &(struct chat_event){ .kind = CHAT_TEXT, .text = e->text });
    }
    for (int i = 0; i < o->n_pieces; i++) o->piece[i].text.at = o->piece_text.at + o->piece_at[i];
    return (struct pieces){ o->piece, o->n_pieces };
}

/* ---- ends ---- */

const char *choice_finish(const struct choice *o) {
    if (o->finish == FINISH_LENGTH) return "length";
    return o->n_tools ? "tool_calls" : "stop";
}

static const char *stage_of(const struct choice *o) {
    return o->n_generated ? "decode" : o->prefill_s > 0 ? "prefill" : "queue";
}

void choice_enough(struct choice *o) {
    o->enough = true;
    engine_cancel(o->call->x->server->engine, atomic_load(&o->id));
}

static void take_counts(struct choice *o, const struct engine_event *e) {
    o->n_prompt = e->n_prompt;
    o->n_cached = e->n_cached;
    o->n_generated = e->n_generated;
    o->queue_s = e->queue_s;
    o->prefill_s = e->prefill_s;
    o->decode_s = e->decode_s;
    o->first_token_s = e->first_token_s;
}

static void take_end(struct choice *o, const struct engine_event *e) {
    bool ours = e->finish == FINISH_CANCELLED && o->enough;
    o->finish = !ours ? e->finish : o->called ? FINISH_STOP : FINISH_LENGTH;
    buf_str(&o->stop, e->stop);
    o->over = true;
}

/* For the line in the log: the sums, and the times of the first choice. */
static void tell_exchange(const struct call *c, const struct choice *o) {
    struct exchange *x = c->x;
    if (o->index % c->n == 0) {
        x->n_prompt += o->n_prompt;
        x->n_cached += o->n_cached;
    }
    x->n_generated += o->n_generated;
    if (o->index) return;
    x->queue_s = o->queue_s;
    x->prefill_s = o->prefill_s;
    x->decode_s = o->decode_s;
    x->first_token_s = o->first_token_s;
    x->finish = o->finish == FINISH_CANCELLED ? "cancelled"
                : o->finish == FINISH_ERROR ? "error" : choice_finish(o);
}

static void fail(struct call *c, const struct choice *o, const char *error) {
    if (!c->failed && o->finish == FINISH_ERROR)
        fault_set(&c->why, 500, NULL, "%s", error ? error : "the answer failed");
    if (!c->failed && o->finish == FINISH_CANCELLED)
        fault_set(&c->why, 503, NULL, "the request was cancelled");
    c->failed = true;
    call_cancel(c);                    /* the others need not go on */
}

static void on_token(struct choice *o, const struct engine_event *e) {
    struct call *c = o->call;
    double now = clock_s();
    if (o->n_generated) metrics_gap(c->x->server->metrics, now - o->token_s);
    take_counts(o, e);
    o->token_s = now;
    ids_put(&o->ids, e->token);
    struct pieces p = split(o, e);
    for (int i = 0; i < p.n; i++)
        if (p.at[i].kind == CHAT_REASONING) {
            o->n_reasoning++;
            break;
        }
    c->wire->token(o, e, p);
    if (o->called) choice_enough(o);
}

static void on_progress(struct choice *o, const struct engine_event *e) {
    take_counts(o, e);
    o->n_read = e->position;
    o->call->wire->progress(o);
}

static void on_done(struct choice *o, const struct engine_event *e) {
    struct call *c = o->call;
    struct server *s = c->x->server;
    struct pieces p = { 0 };
    if (!c->failed) p = split(o, e);
    take_counts(o, e);
    take_end(o, e);
    tell_exchange(c, o);
    if (c->started) {
        atomic_fetch_sub(&s->n_running, 1);
        metrics_choice(s->metrics, o);
        if (o->finish == FINISH_CANCELLED) metrics_cancelled(s->metrics, stage_of(o));
    }
    if (o->finish == FINISH_ERROR || o->finish == FINISH_CANCELLED) fail(c, o, e->error);
    if (!c->failed) c->wire->done(o, p);
}

static void end(struct call *c) {
    if (!c->failed) c->wire->end(c);
    else if (c->why.status && c->stream) stream_fault(c->x, &c->why);
    else if (c->why.status) reply_fault(c->x, &c->why);
    call_forget(c);
    if (exchange_forget_gone(c->x)) call_free(c);
    call_free(c);
}

void call_event(void *to, const struct engine_event *e) {
    struct choice *o = to;
    struct call *c = o->call;
    pthread_mutex_lock(&c->lock);
    if (e->kind == EVENT_TOKEN && !c->failed && !o->enough) on_token(o, e);
    if (e->kind == EVENT_PROGRESS && !c->failed) on_progress(o, e);
    if (e->kind == EVENT_PROMPT && !c->failed) c->wire->token(o, e, (struct pieces){ 0 });
    if (e->kind == EVENT_DONE) on_done(o, e);
    bool over = e->kind == EVENT_DONE && --c->n_open == 0;
    pthread_mutex_unlock(&c->lock);
    if (over) end(c);
}
