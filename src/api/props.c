/* props.c - GET /props: what requests start from; GET /slots: what runs now. Both as llama-server
 * has them, but nobody sees a prompt or an answer of somebody else. */
#include "api/native.h"
#include "api/routes.h"
#include "api/server.h"

#include <string.h>

/* ---- /slots ---- */

/* Lines of the sequences that run. */
struct lines { struct buf json; int n, max; };

static void put_slot(struct buf *b, const struct server *s, const struct choice *o, uint64_t id) {
    const struct call *c = o ? o->call : NULL;
    int n_max = c ? c->options.n_max : -1, done = o ? o->n_generated : 0;
    bool line = o && o->content.len && memchr(o->content.at, '\n', o->content.len);
    buf_format(b, "\"id_task\":%lld,\"n_ctx\":%d,\"speculative\":false,\"is_processing\":%s,"
               "\"params\":", o ? (long long)id : -1, s->info.context, o ? "true" : "false");
    native_settings(b, s, c, false);
    if (o) buf_format(b, ",\"n_prompt_tokens\":%d", c->prompt[o->prompt].ids.len);
    buf_format(b, ",\"next_token\":{\"has_next_token\":%s,\"has_new_line\":%s,\"n_remain\":%d,"
               "\"n_decoded\":%d}", o ? "true" : "false", line ? "true" : "false",
               n_max < 0 ? -1 : MAX(n_max - done, 0), done);
}

/* One may begin while the list is walked, after another ended: there are never more than slots. */
static void see_choice(struct lines *l, const struct choice *o) {
    struct server *s = o->call->x->server;
    uint64_t id = atomic_load(&o->id);
    if (l->n == l->max || !engine_runs(s->engine, id)) return;
    buf_format(&l->json, "%s{\"id\":%d,", l->n ? "," : "", l->n);
    put_slot(&l->json, s, o, id);
    buf_char(&l->json, '}');
    l->n++;
}

static void see_call(void *to, struct call *c) {
    for (int i = 0; c->started && !c->failed && i < c->n_choices; i++)
        if (!c->choice[i].over) see_choice(to, &c->choice[i]);
}

static bool asked(struct str query, const char *pair) {
    size_t begin = 0;
    for (size_t i = 0; i <= query.len; i++) {
        if (i < query.len && query.at[i] != '&') continue;
        if (str_is(str_cut(query, begin, i), pair)) return true;
        begin = i + 1;
    }
    return false;
}

void slots(struct exchange *x) {
    struct server *s = x->server;
    struct lines l = { .max = s->info.requests_max };
    struct fault f = { .retry_after = 1 };
    buf_char(&l.json, '[');
    calls_each(s, see_call, &l);
    for (int i = l.n; i < l.max; i++) {
        buf_format(&l.json, "%s{\"id\":%d,", i ? "," : "", i);
        put_slot(&l.json, s, NULL, 0);
        buf_char(&l.json, '}');
    }
    buf_char(&l.json, ']');
    if (l.n < l.max || !asked(x->query, "fail_on_no_slot=1")) {
        reply_json(x, 200, &l.json);
        return;
    }
    buf_free(&l.json);
    fault_set(&f, 503, NULL, "no slot available");
    reply_fault(x, &f);
}

/* ---- /props ---- */

static void put_token(struct buf *b, const char *name, const struct tokenizer *t, int id) {
    buf_format(b, ",\"%s\":", name);
    buf_json(b, id < 0 ? (struct str){ 0 } : tok_text(t, id));
}

static void put_template(struct buf *b, const struct server *s) {
    const struct chat *chat = engine_chat(s->engine, NULL);
    struct str plain = chat ? chat_source(chat, false) : (struct str){ 0 };
    struct str tools = chat ? chat_source(chat, true) : (struct str){ 0 };
    buf_str(b, S(",\"chat_template\":"));
    buf_json(b, plain);
    buf_str(b, S(",\"chat_template_caps\":"));
    native_caps(b, chat);
    if (!tools.len) return;
    buf_str(b, S(",\"chat_template_tool_use\":"));
    buf_json(b, tools);
}

void props(struct exchange *x) {
    const struct server *s = x->server;
    const struct tokenizer *t = engine_tokenizer(s->engine);
    struct buf b = { 0 };
    buf_str(&b, S("{\"default_generation_settings\":{\"id\":0,"));
    put_slot(&b, s, NULL, 0);
    buf_format(&b, ",\"prompt\":\"\"},\"total_slots\":%d,\"model_alias\":", s->info.requests_max);
    buf_json(&b, str_of(s->model));
    buf_str(&b, S(",\"model_path\":"));
    buf_json(&b, str_of(s->options.model_path));
    put_template(&b, s);
    put_token(&b, "bos_token", t, tok_bos(t));
    put_token(&b, "eos_token", t, tok_eos(t));
    buf_format(&b, ",\"n_ctx\":%d", s->info.context);
    buf_str(&b, S(",\"modalities\":{\"vision\":false,\"audio\":false},\"media_marker\":null,"
                  "\"build_info\":\"mlxcel-" MLXCEL_VERSION "\",\"is_sleeping\":false}"));
    reply_json(x, 200, &b);
}
