/* openai.c - what the chat and completions formats of OpenAI share: errors, names, usage, timings
 * and log probabilities. */
#include "api/openai.h"
#include "api/server.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- errors ---- */

const char *openai_type(int status) {
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 408: case 504: return "timeout_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    case 505: return "invalid_request_error";
    case 503: return "unavailable_error";
    default:  return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

bool fault_unsupported(struct fault *f, const char *param, const char *format, ...) {
    char text[sizeof f->err.text];
    if (f->status) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    f->code = "unsupported_value";
    return fault_set(f, 400, param, "%s", text);
}

static void string_or_null(struct buf *b, const char *text) {
    if (text && *text) buf_json(b, str_of(text));
    else buf_str(b, S("null"));
}

void fault_openai(struct buf *json, const struct fault *f, const char *request_id) {
    const char *code = f->code ? f->code : f->status == 401 ? "invalid_api_key" : NULL;
    /* A sentence that quotes a request may be cut inside of a character. */
    struct buf message = { 0 };
    utf8_repair(&message, str_of(f->err.text));
    buf_str(json, S("{\"error\":{\"message\":"));
    buf_json(json, buf_view(&message));
    buf_str(json, S(",\"type\":"));
    string_or_null(json, f->type ? f->type : openai_type(f->status));
    buf_str(json, S(",\"param\":"));
    string_or_null(json, f->param);
    buf_str(json, S(",\"code\":"));
    string_or_null(json, code);
    if (f->n_ctx)
        buf_format(json, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d", f->n_prompt, f->n_ctx);
    buf_char(json, '}');
    if (request_id && *request_id) {
        buf_str(json, S(",\"request_id\":"));
        buf_json(json, str_of(request_id));
    }
    if (f->progress)
        buf_format(json, ",\"progress\":%d.%03d", f->progress / 1000, f->progress % 1000);
    buf_char(json, '}');
    buf_free(&message);
}

/* ---- names ---- */

bool openai_model(struct call *c, struct fields *f) {
    const struct server *s = c->x->server;
    struct str name = field_str(f, "model");
    if (!name.len) return !f->fault->status;
    snprintf(c->x->model, sizeof c->x->model, "%.*s",
             (int)utf8_complete(str_cut(name, 0, sizeof c->x->model - 1)), name.at);
    if (!s->options.strict_model || models_have(s, name)) return true;
    fault_set(f->fault, 404, "model", "The model '%.*s' does not exist; this server has '%s'.",
              STR_ARG(name), s->model);
    f->fault->code = "model_not_found";
    return false;
}

struct str openai_model_name(const struct call *c) {
    struct fields f = { c->json, NULL };
    struct json_object *name = field_any(&f, "model");
    struct str text = json_object_is_type(name, json_type_string) ? json_str(name)
                                                                  : (struct str){ 0 };
    if (!text.len) return str_of(c->x->server->model);
    text = str_cut(text, 0, MODEL_NAME_MAX);
    return str_cut(text, 0, utf8_complete(text));
}

void openai_head(struct buf *b, const struct call *c, const char *object) {
    buf_format(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", c->id, object,
               (long long)c->created);
    buf_json(b, openai_model_name(c));
    buf_str(b, S(",\"system_fingerprint\":\"mlxcel-" MLXCEL_VERSION "\""));
}

/* ---- counts ---- */

/* Of the choices of one prompt only the first to run reads it; the others find it in the cache.
 * Which one that was does not matter to the client: the least counts. */
static void prompt_counts(const struct call *c, int *n_prompt, int *n_cached) {
    *n_prompt = *n_cached = 0;
    for (int i = 0; i < c->n_choices; i += c->n) {
        int least = c->choice[i].n_cached;
        for (int k = 1; k < c->n; k++) least = MIN(least, c->choice[i + k].n_cached);
        *n_prompt += c->choice[i].n_prompt;
        *n_cached += least;
    }
}

void openai_usage(struct buf *b, const struct call *c) {
    int n_prompt, n_cached, n_generated = 0, n_reasoning = 0;
    prompt_counts(c, &n_prompt, &n_cached);
    for (int i = 0; i < c->n_choices; i++) {
        n_generated += c->choice[i].n_generated;
        n_reasoning += c->choice[i].n_reasoning;
    }
    buf_format(b, "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%d},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%d}}",
               n_prompt, n_generated, n_prompt + n_generated, n_cached, n_reasoning);
}

static void rate(struct buf *b, const char *name, int n, double s) {
    buf_format(b, "\"%s_n\":%d,\"%s_ms\":%.3f,\"%s_per_token_ms\":%.3f,\"%s_per_second\":%.3f",
               name, n, name, s * 1e3, name, n ? s * 1e3 / n : 0, name, s > 0 ? n / s : 0);
}

void openai_timings(struct buf *b, const struct call *c, const struct choice *one) {
    int n_prompt = 0, n_cached = 0, n_generated = 0;
    double prefill_s = 0, decode_s = 0;
    if (one) {
        n_prompt = one->n_prompt;
        n_cached = one->n_cached;
        n_generated = one->n_generated;
        prefill_s = one->prefill_s;
        decode_s = one->decode_s;
    } else {
        /* They ran side by side, so the longest time is the time of all. */
        prompt_counts(c, &n_prompt, &n_cached);
        for (int i = 0; i < c->n_choices; i++) {
            n_generated += c->choice[i].n_generated;
            prefill_s = MAX(prefill_s, c->choice[i].prefill_s);
            decode_s = MAX(decode_s, c->choice[i].decode_s);
        }
    }
    buf_format(b, "{\"cache_n\":%d,", n_cached);
    rate(b, "prompt", n_prompt - n_cached, prefill_s);
    buf_char(b, ',');
    rate(b, "predicted", n_generated, decode_s);
    buf_char(b, '}');
}

void openai_progress(struct buf *b, const struct choice *o) {
    int total = o->call->prompt[o->prompt].ids.len;
    buf_format(b, ",\"prompt_progress\":{\"total\":%d,\"cache\":%d,\"processed\":%d,", total,
               o->n_cached, o->n_generated ? total : o->n_read);
    buf_format(b, "\"time_ms\":%.0f}", o->prefill_s * 1e3);
}

/* ---- log probabilities ---- */

void openai_ask_logprobs(struct call *c, int n_top) {
    c->options.logprobs = MAX(1, n_top);
    c->wire_flags = WIRE_LOGPROBS | n_top << WIRE_TOP_SHIFT;
}

int openai_top(const struct call *c) {
    return c->wire_flags >> WIRE_TOP_SHIFT;
}

bool openai_shows(const struct call *c, int token) {
    return c->options.ignore_eos || !engine_is_eos(c->x->server->engine, token);
}

void openai_logprob(struct buf *b, float logprob) {
    if (!(logprob > -9999)) buf_str(b, S("-9999.0"));
    else buf_format(b, "%.7g", logprob < 0 ? (double)logprob : 0);
}

/* A token may end inside of a character, and then only its bytes say what it is. */
void openai_entry(struct buf *b, struct str piece, float logprob) {
    struct buf text = { 0 };
    utf8_repair(&text, piece);
    buf_str(b, S("\"token\":"));
    buf_json(b, buf_view(&text));
    buf_str(b, S(",\"logprob\":"));
    openai_logprob(b, logprob);
    buf_str(b, S(",\"bytes\":["));
    for (size_t i = 0; i < piece.len; i++)
        buf_format(b, i ? ",%d" : "%d", (unsigned char)piece.at[i]);
    buf_char(b, ']');
    buf_free(&text);
}

void openai_token(struct buf *list, const struct call *c, const struct engine_event *e) {
    struct buf piece = { 0 };
    int n = MIN(openai_top(c), e->n_top);
    buf_str(list, list->len ? S(",{") : S("{"));
    openai_entry(list, e->piece, e->logprob);
    buf_str(list, S(",\"top_logprobs\":["));
    for (int i = 0; i < n; i++) {
        buf_clear(&piece);
        engine_token_text(c->x->server->engine, e->top[i].token, &piece);
        buf_str(list, i ? S(",{") : S("{"));
        openai_entry(list, buf_view(&piece), e->top[i].logprob);
        buf_char(list, '}');
    }
    buf_str(list, S("]}"));
    buf_free(&piece);
}
