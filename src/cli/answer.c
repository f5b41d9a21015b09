/* answer.c - one request from submit to done, split into text, reasoning and tool
 * calls as it comes, and told afterwards as JSON or as a line of speeds. */
#include "cli/session.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS_MAX = 256 };

struct asking {
    const struct question *q;
    struct session *s;
    struct answer *a;
    struct chat_stream *stream;
    const struct engine *engine;
    const struct tokenizer *tokenizer;
    bool done;
};

static void put_piece(struct buf *to, struct str piece) { buf_put(to, piece.at, piece.len); }

static struct call *call_at(struct answer *a, int index) {
    if (index < 0 || index >= CALLS_MAX) return NULL;
    if (index >= a->n_calls) {
        a->call = mem_grow(a->call, (size_t)index + 1, sizeof *a->call);
        memset(a->call + a->n_calls, 0, (size_t)(index + 1 - a->n_calls) * sizeof *a->call);
        a->n_calls = index + 1;
    }
    return &a->call[index];
}

static void on_chat(void *to, const struct chat_event *e) {
    struct asking *k = to;
    struct call *call;
    switch (e->kind) {
    case CHAT_TEXT: put_piece(&k->a->text, e->text); break;
    case CHAT_REASONING: put_piece(&k->a->reasoning, e->text); break;
    case CHAT_TOOL_NAME:
        call = call_at(k->a, e->index);
        if (!call) break;
        put_piece(&call->name, e->text);
        if (e->id.len) put_piece(&call->id, e->id);
        else buf_format(&call->id, "call%05u", k->s->n_calls++ % 100000);
        break;
    case CHAT_TOOL_ARGS:
        call = call_at(k->a, e->index);
        if (call) put_piece(&call->arguments, e->text);
        break;
    case CHAT_END: break;
    }
    if (k->q->show) k->q->show(k->q->to, e->kind, e->text);
}

/* token -1: none that gives text, only what was held back. */
static void on_text(struct asking *k, struct str text, int token, bool last) {
    put_piece(&k->a->raw, text);
    if (k->stream) {
        chat_stream_token(k->stream, k->tokenizer, token, text, last, on_chat, k);
        return;
    }
    if (text.len) on_chat(k, &(struct chat_event){ .kind = CHAT_TEXT, .text = text });
    if (last) on_chat(k, &(struct chat_event){ .kind = CHAT_END });
}

static void on_event(void *to, const struct engine_event *e) {
    struct asking *k = to;
    struct answer *a = k->a;
    switch (e->kind) {
    case EVENT_PROMPT:
    case EVENT_PROGRESS:
        break;
    case EVENT_LOGITS:
        if (k->q->logits) k->q->logits(k->q->to, e->logits, e->vocab, e->position);
        break;
    case EVENT_TOKEN:
        ids_put(&a->ids, e->token);
        on_text(k, e->text, engine_is_eos(k->engine, e->token) ? -1 : e->token, false);
        break;
    case EVENT_DONE:
        on_text(k, e->text, -1, true);
        a->finish = e->finish;
        if (e->error) snprintf(a->error, sizeof a->error, "%s", e->error);
        a->n_prompt = e->n_prompt;
        a->n_cached = e->n_cached;
        a->n_generated = e->n_generated;
        a->queue_s = e->queue_s;
        a->prefill_s = e->prefill_s;
        a->decode_s = e->decode_s;
        a->first_token_s = e->first_token_s;
        k->done = true;
        break;
    }
}

bool session_ask(struct session *s, const struct question *q, struct answer *a, struct err *err) {
    struct asking k = { .q = q, .s = s, .a = a, .engine = s->engine,
                        .tokenizer = engine_tokenizer(s->engine) };
    if (q->chat) k.stream = chat_stream_open(q->chat, q->prompt, q->tools);
    uint64_t id = engine_submit(s->engine, q->ids, q->n_ids, &q->options, on_event, &k, err);
    bool ok = id != 0, cancelled = false;
    while (ok && !k.done) {
        if (signal_seen() && !cancelled) {
            engine_cancel(s->engine, id);
            cancelled = true;
        }
        int rows = engine_step(s->engine, err);
        if (rows < 0) ok = false;
        if (!rows && !k.done) engine_wait(s->engine, 0.05);
    }
    chat_stream_close(k.stream);
    if (ok && a->finish == FINISH_ERROR)
        return err_set(err, "%s", a->error[0] ? a->error : "the answer failed");
    return ok;
}

void answer_free(struct answer *a) {
    for (int i = 0; i < a->n_calls; i++) {
        buf_free(&a->call[i].id);
        buf_free(&a->call[i].name);
        buf_free(&a->call[i].arguments);
    }
    free(a->call);
    buf_free(&a->raw);
    buf_free(&a->text);
    buf_free(&a->reasoning);
    ids_free(&a->ids);
    *a = (struct answer){ 0 };
}

static double rate(double n, double seconds) { return n > 0 && seconds > 0 ? n / seconds : 0; }

static const char *finish_name(const struct answer *a) {
    if (a->finish == FINISH_STOP && a->n_calls) return "tool_calls";
    static const char *const name[] = {
        [FINISH_NONE] = "none", [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length",
        [FINISH_CANCELLED] = "cancelled", [FINISH_ERROR] = "error",
    };
    return name[a->finish];
}

static void put_message(struct buf *out, const struct answer *a) {
    buf_str(out, S("{\"role\":\"assistant\",\"content\":"));
    buf_json(out, buf_view(&a->text));
    buf_str(out, S(",\"reasoning_content\":"));
    if (a->reasoning.len)
        buf_json(out, buf_view(&a->reasoning));
    else
        buf_str(out, S("null"));
    buf_str(out, S(",\"tool_calls\":["));
    for (int i = 0; i < a->n_calls; i++) {
        buf_str(out, i ? S(",{\"id\":") : S("{\"id\":"));
        buf_json(out, buf_view(&a->call[i].id));
        buf_str(out, S(",\"type\":\"function\",\"function\":{\"name\":"));
        buf_json(out, buf_view(&a->call[i].name));
        buf_str(out, S(",\"arguments\":"));
        buf_json(out, buf_view(&a->call[i].arguments));
        buf_str(out, S("}}"));
    }
    buf_char(out, ']');
}

void answer_json(struct buf *out, const struct session *s, const struct answer *a, bool message) {
    if (message) {
        put_message(out, a);
    } else {
        buf_str(out, S("{\"text\":"));
        buf_json(out, buf_view(&a->text));
    }
    buf_format(out, ",\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":%d,"
               "\"cached_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}",
               finish_name(a), a->n_prompt, a->n_cached, a->n_generated,
               a->n_prompt + a->n_generated);
    buf_format(out, ",\"timings\":{\"load_s\":%.6f,\"queue_s\":%.6f,\"prefill_s\":%.6f,"
               "\"decode_s\":%.6f,\"first_token_s\":%.6f,\"prefill_tokens_per_s\":%.3f,"
               "\"decode_tokens_per_s\":%.3f}", s->load_s, a->queue_s, a->prefill_s, a->decode_s,
               a->first_token_s, rate(a->n_prompt - a->n_cached, a->prefill_s),
               rate(a->n_generated - 1, a->decode_s));
    buf_format(out, ",\"seed\":%llu}", (unsigned long long)s->sample.seed);
}

void answer_timings(const struct session *s, const struct args *args, const struct answer *a) {
    if (s->quiet || args->no_perf || (!s->term.err && !args->verbose)) return;
    fprintf(stderr, "%s%d tokens in, %d cached, %.1f tok/s; %d out, %.1f tok/s; first after %.2f s"
            "%s%s\n", dim_on(s->term.err_color), a->n_prompt, a->n_cached,
            rate(a->n_prompt - a->n_cached, a->prefill_s), a->n_generated,
            rate(a->n_generated - 1, a->decode_s), a->first_token_s,
            a->finish == FINISH_LENGTH ? "; cut at the limit"
            : a->finish == FINISH_CANCELLED ? "; stopped" : "", dim_off(s->term.err_color));
}

void put_ids(struct buf *out, const struct ids *ids) {
    for (int i = 0; i < ids->len; i++) buf_format(out, "%s%d", i ? "," : "", ids->at[i]);
}
