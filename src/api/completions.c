/* completions.c - POST /v1/completions: texts or ids go on, without a template.
 *
 * Log probabilities are four lists of equal length in the reply. They are gathered in choice->own
 * as four lines for each token, as JSON strings have no line breaks, and sorted out when they are
 * written. choice->own_n is the offset of the next token in the text, in characters. */
#include "api/openai.h"
#include "api/routes.h"
#include "api/server.h"
#include "base/utf8.h"

#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <string.h>

static const char object[] = "text_completion";

/* ---- log probabilities ---- */

static size_t characters(struct str text) {
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) n += ((unsigned char)text.at[i] & 0xc0) != 0x80;
    return n;
}

/* A token that is no whole character is spelt "bytes:\xe2\x82", so that two of them differ as
 * keys. */
static void put_name(struct buf *b, struct str piece) {
    if (utf8_valid(piece)) {
        buf_json(b, piece);
        return;
    }
    buf_str(b, S("\"bytes:"));
    for (size_t i = 0; i < piece.len; i++)
        buf_format(b, "\\\\x%02x", (unsigned char)piece.at[i]);
    buf_char(b, '"');
}

/* {"token": logprob, ...} with the chosen token among them, even if it is none of the best. */
static void put_top(struct buf *b, const struct call *c, const struct engine_event *e) {
    struct buf piece = { 0 };
    int n = MIN(openai_top(c), e->n_top);
    bool found = false;
    buf_char(b, '{');
    for (int i = 0; i < n; i++) {
        buf_clear(&piece);
        engine_token_text(c->x->server->engine, e->top[i].token, &piece);
        /* Two ids may be spelt alike, and a JSON key comes once: the likelier one is kept. */
        bool again = str_eq(buf_view(&piece), e->piece);
        if (again && found) continue;
        found |= again;
        if (i) buf_char(b, ',');
        put_name(b, buf_view(&piece));
        buf_char(b, ':');
        openai_logprob(b, e->top[i].logprob);
    }
    if (!found) {
        if (n) buf_char(b, ',');
        put_name(b, e->piece);
        buf_char(b, ':');
        openai_logprob(b, e->logprob);
    }
    buf_char(b, '}');
    buf_free(&piece);
}

/* Whether the tokenizer put this token before the text, where the echo does not show it. */
static bool is_added_bos(const struct choice *o, const struct engine_event *e) {
    const struct call *c = o->call;
    const struct tokenizer *t = engine_tokenizer(c->x->server->engine);
    struct str echo = buf_view(&c->prompt[o->prompt].echo);
    return e->kind == EVENT_PROMPT && !e->position && e->token == tok_bos(t) &&
           !(echo.len >= e->piece.len && str_eq(str_cut(echo, 0, e->piece.len), e->piece));
}

static void keep_logprob(struct choice *o, const struct engine_event *e) {
    struct buf *b = &o->own;
    put_name(b, e->piece);
    buf_char(b, '\n');
    bool first = isnan(e->logprob);
    if (first) buf_str(b, S("null\nnull"));
    else {
        openai_logprob(b, e->logprob);
        buf_char(b, '\n');
        put_top(b, o->call, e);
    }
    buf_format(b, "\n%zu\n", o->own_n);
    if (!is_added_bos(o, e)) o->own_n += characters(e->piece);
}

/* Every fourth line from `line` on. */
static void put_lines(struct buf *b, struct str lines, int line) {
    bool any = false;
    buf_char(b, '[');
    for (int i = 0; lines.len; i++) {
        const char *end = memchr(lines.at, '\n', lines.len);
        size_t n = end ? (size_t)(end - lines.at) : lines.len;
        if (i % 4 == line) {
            if (any) buf_char(b, ',');
            buf_put(b, lines.at, n);
            any = true;
        }
        lines = str_from(lines, n + 1);
    }
    buf_char(b, ']');
}

static void put_logprobs(struct buf *b, struct choice *o) {
    static const char *const names[] = { "tokens", "token_logprobs", "top_logprobs",
                                         "text_offset" };
    if (!o->own.len) {
        buf_str(b, S("null"));
        return;
    }
    for (int i = 0; i < 4; i++) {
        buf_format(b, "%c\"%s\":", i ? ',' : '{', names[i]);
        put_lines(b, buf_view(&o->own), i);
    }
    buf_char(b, '}');
    buf_clear(&o->own);
}

/* ---- the wire ---- */

static void put_choice(struct buf *b, struct choice *o, struct str before, struct str text,
                       const char *finish) {
    struct buf both = { 0 };
    if (before.len) {
        buf_str(&both, before);
        buf_str(&both, text);
        text = buf_view(&both);
    }
    buf_format(b, "{\"index\":%d,\"text\":", o->index);
    buf_json(b, text);
    buf_str(b, S(",\"logprobs\":"));
    put_logprobs(b, o);
    if (finish) buf_format(b, ",\"finish_reason\":\"%s\"}", finish);
    else buf_str(b, S(",\"finish_reason\":null}"));
    buf_free(&both);
}

static void chunk_with(struct choice *o, struct str text, const char *finish, bool progress) {
    struct call *c = o->call;
    struct buf b = { 0 };
    openai_head(&b, c, object);
    buf_str(&b, S(",\"choices\":["));
    put_choice(&b, o, (struct str){ 0 }, text, finish);
    buf_char(&b, ']');
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

static void chunk(struct choice *o, struct str text, const char *finish) {
    chunk_with(o, text, finish, false);
}

static void put_pieces(struct choice *o, struct pieces p) {
    for (int i = 0; i < p.n; i++)
        if (p.at[i].text.len) chunk(o, p.at[i].text, NULL);
}

static struct str echo_of(const struct choice *o) {
    const struct call *c = o->call;
    return c->echo ? buf_view(&c->prompt[o->prompt].echo) : (struct str){ 0 };
}

static void progress(struct choice *o) {
    chunk_with(o, (struct str){ 0 }, NULL, true);
}

/* The echo goes out at once, or else with the log probabilities of the whole prompt. */
static void begin(struct call *c) {
    if (!c->stream) return;
    stream_begin(c->x);
    for (int i = 0; c->progress && i < c->n_choices; i++) progress(&c->choice[i]);
    for (int i = 0; c->echo && !c->options.prompt_logprobs && i < c->n_choices; i++)
        chunk(&c->choice[i], echo_of(&c->choice[i]), NULL);
}

/* The end of the text has its log probability too, though no text: evaluation harnesses ask for one
 * token more than they score, and take one entry away again. */
static void token(struct choice *o, const struct engine_event *e, struct pieces p) {
    struct call *c = o->call;
    bool prompt = e->kind == EVENT_PROMPT;
    if (c->progress && !prompt && o->n_generated == 1) progress(o);
    if (c->wire_flags & WIRE_LOGPROBS) keep_logprob(o, e);
    if (!c->stream) return;
    if (prompt && e->position == c->prompt[o->prompt].ids.len - 1) chunk(o, echo_of(o), NULL);
    put_pieces(o, p);
}

static void done(struct choice *o, struct pieces p) {
    if (!o->call->stream) return;
    put_pieces(o, p);
    chunk(o, (struct str){ 0 }, choice_finish(o));
}

static void end_stream(struct call *c) {
    struct buf b = { 0 };
    if (c->usage) {
        openai_head(&b, c, object);
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
    openai_head(&b, c, object);
    buf_str(&b, S(",\"choices\":["));
    for (int i = 0; i < c->n_choices; i++) {
        struct choice *o = &c->choice[i];
        if (i) buf_char(&b, ',');
        put_choice(&b, o, echo_of(o), buf_view(&o->content), choice_finish(o));
    }
    buf_str(&b, S("],\"usage\":"));
    openai_usage(&b, c);
    buf_str(&b, S(",\"timings\":"));
    openai_timings(&b, c, NULL);
    buf_char(&b, '}');
    reply_json(c->x, 200, &b);
}

static const struct wire completions_wire = { begin, progress, token, done, end };

/* ---- the request ---- */

void completions_read(struct call *c, struct fields *f) {
    struct str suffix = field_str(f, "suffix");
    if (suffix.len)
        fault_unsupported(f->fault, "suffix",
                          "'suffix' is not supported: this model cannot fill in.");
    c->echo = field_bool(f, "echo", false);
    if (!field_has(f, "logprobs")) return;
    openai_ask_logprobs(c, (int)field_int(f, "logprobs", 0, TOP_LOGPROBS_MAX, 0));
    c->options.prompt_logprobs = c->echo;
}

static bool all_are(struct json_object *list, enum json_type type) {
    size_t n = json_object_array_length(list);
    for (size_t i = 0; i < n; i++)
        if (!json_object_is_type(json_object_array_get_idx(list, i), type)) return false;
    return n > 0;
}

int completions_prompts(struct fields *f, int *kind) {
    struct json_object *prompt = field_any(f, "prompt");
    *kind = 0;
    if (json_object_is_type(prompt, json_type_string)) {
        *kind = PROMPT_TEXT;
        return 1;
    }
    size_t n = json_object_is_type(prompt, json_type_array) ? json_object_array_length(prompt) : 0;
    if (n && all_are(prompt, json_type_int)) *kind = PROMPT_IDS;
    else if (n && all_are(prompt, json_type_string)) *kind = PROMPT_TEXTS;
    else if (n && all_are(prompt, json_type_array)) *kind = PROMPT_LISTS;
    for (size_t i = 0; *kind == PROMPT_LISTS && i < n; i++)
        if (!all_are(json_object_array_get_idx(prompt, i), json_type_int)) *kind = 0;
    if (!*kind)
        fault_set(f->fault, 400, "prompt", "'prompt' must be a string, a list of strings, a list "
                  "of token ids, or a list of such lists, and not empty.");
    else if (*kind != PROMPT_IDS && n > CHOICES_MAX)
        fault_set(f->fault, 400, "prompt", "'prompt' has more than %d prompts.", CHOICES_MAX);
    if (f->fault->status) return 0;
    return *kind == PROMPT_IDS ? 1 : (int)n;
}

static bool add_ids(struct call *c, struct json_object *list, struct fault *f) {
    struct ids ids = { 0 };
    size_t n = json_object_array_length(list);
    int vocab = c->x->server->info.vocab;
    for (size_t i = 0; i < n; i++) {
        int64_t id = json_object_get_int64(json_object_array_get_idx(list, i));
        if (id < 0 || id >= vocab) {
            ids_free(&ids);
            return fault_set(f, 400, "prompt", "Token %zu of the prompt is %lld, but the "
                             "vocabulary has %d.", i, (long long)id, vocab);
        }
        ids_put(&ids, (int)id);
    }
    return call_add_ids(c, &ids, f);
}

/* What the echo shows: the text as it was sent, or what the ids stand for. */
static void keep_echo(struct call *c, struct json_object *text) {
    struct prompt_in *p = &c->prompt[c->n_prompts - 1];
    if (!c->echo) return;
    if (text) buf_str(&p->echo, json_str(text));
    else tok_decode(engine_tokenizer(c->x->server->engine), p->ids.at, p->ids.len, true, &p->echo);
}

static bool add_prompts(struct call *c, struct fields *f) {
    int kind, n = completions_prompts(f, &kind);
    struct json_object *prompt = field_any(f, "prompt");
    for (int i = 0; i < n && !f->fault->status; i++) {
        struct json_object *one = kind == PROMPT_TEXT || kind == PROMPT_IDS
                                ? prompt : json_object_array_get_idx(prompt, (size_t)i);
        bool text = kind == PROMPT_TEXT || kind == PROMPT_TEXTS;
        bool ok = text ? call_add_text(c, json_str(one), true, true, f->fault)
                       : add_ids(c, one, f->fault);
        if (ok) keep_echo(c, text ? one : NULL);
    }
    return !f->fault->status;
}

void completions(struct exchange *x) {
    struct fault f = { 0 };
    struct json_object *json = body_json(x, &f);
    if (!json) {
        reply_fault(x, &f);
        return;
    }
    struct call *c = call_new(x, &completions_wire, "cmpl-", json);
    struct fields r = { json, &f };
    openai_model(c, &r);
    params_read(c, &r);
    completions_read(c, &r);
    if (!f.status && add_prompts(c, &r) && call_start(c, &f)) return;
    reply_fault(x, &f);
    call_free(c);
}
