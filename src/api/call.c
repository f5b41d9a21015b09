/* call.c - from a request's prompts to sequences in the engine: tokenize, check, submit all or
 * none, and end them early. What the sequences then say is call_events.c's. */
#include "api/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

struct call *call_new(struct exchange *x, const struct wire *wire, const char *id_prefix,
                      struct json_object *json) {
    struct call *c = mem_new(sizeof *c);
    uint64_t random[3] = { 0 };
    ssize_t got = getrandom(random, sizeof random, 0);
    (void)got;                         /* ids need not be secret, only different */
    c->x = exchange_hold(x);
    c->wire = wire;
    c->json = json;
    c->n = 1;
    c->refs = 1;
    c->created = (int64_t)time(NULL);
    c->options.sample = *x->server->sampling;
    c->options.n_max = -1;
    c->options.client = account_id(x->account);
    c->options.salt = x->server->options.n_keys ? account_id(x->account) : 0;
    /* 53 bits, so that who is told the seed can send it back, even through JavaScript. */
    c->options.sample.seed = random[2] & (((uint64_t)1 << 53) - 1);
    snprintf(c->id, sizeof c->id, "%s%016llx%08llx", id_prefix, (unsigned long long)random[0],
             (unsigned long long)random[1] >> 32);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void choice_free(struct choice *o) {
    chat_stream_close(o->split);
    for (int i = 0; i < o->n_tools; i++) {
        buf_free(&o->tool[i].id);
        buf_free(&o->tool[i].name);
        buf_free(&o->tool[i].arguments);
    }
    free(o->tool);
    buf_free(&o->content);
    buf_free(&o->reasoning);
    buf_free(&o->stop);
    buf_free(&o->own);
    ids_free(&o->ids);
    free(o->piece);
    free(o->piece_at);
    buf_free(&o->piece_text);
}

void call_free(struct call *c) {
    if (!c || atomic_fetch_sub(&c->refs, 1) > 1) return;
    for (int i = 0; i < c->n_choices; i++) choice_free(&c->choice[i]);
    free(c->choice);
    for (int i = 0; i < c->n_prompts; i++) {
        ids_free(&c->prompt[i].ids);
        prompt_free(&c->prompt[i].text);
        buf_free(&c->prompt[i].echo);
    }
    free(c->prompt);
    free(c->bias);
    json_object_put(c->json);
    json_object_put(c->tools);
    pthread_mutex_destroy(&c->lock);
    exchange_release(c->x);
    free(c);
}

/* ---- prompts ---- */

/* One sentence with every wording by which clients know that a prompt is too long. */
static bool fits(const struct call *c, int n, struct fault *f) {
    int context = c->x->server->info.context;
    if (n < context || (n == context && c->options.n_max == 0)) return true;
    fault_set(f, 400, c->split ? "messages" : "prompt", "This model's maximum context length is %d "
              "tokens. However, your prompt has %d: prompt is too long: %d tokens > %d maximum. It "
              "exceeds the context window; please reduce the length of the messages or of the "
              "prompt.", context, n, n, context);
    f->code = "context_length_exceeded";
    f->n_prompt = n;
    f->n_ctx = context;
    return false;
}

static struct prompt_in *grow(struct call *c) {
    c->prompt = mem_grow(c->prompt, (size_t)c->n_prompts + 1, sizeof *c->prompt);
    struct prompt_in *p = &c->prompt[c->n_prompts++];
    *p = (struct prompt_in){ 0 };
    return p;
}

static bool check_prompt(struct call *c, const struct prompt_in *p, struct fault *f) {
    const struct server *s = c->x->server;
    if (!p->ids.len) return fault_set(f, 400, "prompt", "the prompt is empty");
    for (int i = 0; i < p->ids.len; i++)
        if (p->ids.at[i] < 0 || p->ids.at[i] >= s->info.vocab)
            return fault_set(f, 400, "prompt", "token %d of the prompt is %d, but the vocabulary "
                             "has %d", i, p->ids.at[i], s->info.vocab);
    return fits(c, p->ids.len, f);
}

bool call_add_ids(struct call *c, struct ids *ids, struct fault *f) {
    struct prompt_in *p = grow(c);
    p->ids = *ids;
    *ids = (struct ids){ 0 };
    return check_prompt(c, p, f);
}

bool call_add_text(struct call *c, struct str text, bool specials, bool bos, struct fault *f) {
    struct prompt_in *p = grow(c);
    const struct tokenizer *t = engine_tokenizer(c->x->server->engine);
    unsigned flags = (specials ? TOK_SPECIALS : 0u) | (bos ? TOK_ADD_BOS : 0u);
    tok_encode(t, text, flags, NULL, 0, &p->ids);
    return check_prompt(c, p, f);
}

bool call_add_dialog(struct call *c, const struct dialog *d, struct fault *f) {
    struct prompt_in *p = grow(c);
    const struct engine *e = c->x->server->engine;
    struct err err = { 0 };
    const struct chat *chat = engine_chat(e, &err);
    if (!chat || !call_render(chat, d, &p->text, &err))
        return fault_set(f, 400, "messages", "%s", err.text);
    tok_encode(engine_tokenizer(e), buf_view(&p->text.text), TOK_SPECIALS, p->text.span,
               p->text.n_spans, &p->ids);
    c->split = true;
    return check_prompt(c, p, f);
}

/* ---- into the engine ---- */

void call_forget(struct call *c) {
    struct server *s = c->x->server;
    pthread_mutex_lock(&s->calls_lock);
    for (struct call **at = &s->calls; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    pthread_mutex_unlock(&s->calls_lock);
    account_end(s->access, c->x->account);
}

static void on_gone(void *to) {
    struct call *c = to;
    call_cancel(c);
    call_free(c);
}

void call_cancel(struct call *c) {
    atomic_store(&c->cancelled, true);
    for (int i = 0; i < c->n_choices; i++) {
        uint64_t id = atomic_load(&c->choice[i].id);
        if (id) engine_cancel(c->x->server->engine, id);
    }
}

void call_end(struct call *c, const struct fault *why) {
    pthread_mutex_lock(&c->lock);
    if (!c->failed) c->why = *why;
    c->failed = true;
    pthread_mutex_unlock(&c->lock);
    call_cancel(c);
}

static void open_choices(struct call *c) {
    const struct engine *e = c->x->server->engine;
    c->n_choices = c->n_open = c->n_prompts * c->n;
    c->choice = mem_array((size_t)c->n_choices, sizeof *c->choice);
    c->options.specials |= c->split;   /* the parsers want to see them */
    for (int i = 0; i < c->n_choices; i++) {
        struct choice *o = &c->choice[i];
        o->call = c;
        o->index = i;
        o->prompt = i / c->n;
        if (c->split)
            o->split = chat_stream_open(engine_chat(e, NULL), &c->prompt[o->prompt].text, c->tools);
    }
}

/* Every choice draws from its own numbers; the first one's are those of the seed itself. */
static bool submit(struct call *c, struct err *err) {
    struct generate_options o = c->options;
    for (int i = 0; i < c->n_choices; i++) {
        struct choice *k = &c->choice[i];
        const struct ids *ids = &c->prompt[k->prompt].ids;
        o.sample.seed = c->options.sample.seed + (uint64_t)(i % c->n) * 0x9e3779b97f4a7c15u;
        uint64_t id = engine_submit(c->x->server->engine, ids->at, ids->len, &o, call_event, k,
                                    err);
        if (!id) return false;
        atomic_store(&k->id, id);
    }
    return true;
}

/* The prompts' texts are done with; ids stay only where a reply may show them. */
static void drop_texts(struct call *c) {
    for (int i = 0; i < c->n_prompts; i++) {
        prompt_free(&c->prompt[i].text);
        c->prompt[i].text = (struct prompt){ 0 };
    }
}

static void enlist(struct call *c) {
    struct server *s = c->x->server;
    pthread_mutex_lock(&s->calls_lock);
    c->next = s->calls;
    s->calls = c;
    pthread_mutex_unlock(&s->calls_lock);
}

/* X-Priority: -10 to 10, higher first; it wins over what the body says. */
static bool read_priority(struct call *c, struct fault *f) {
    const char *text = c->x->priority;
    if (!*text) return true;
    bool minus = *text == '-';
    uint64_t n;
    if (!str_u64(str_of(text + minus), PRIORITY_MAX, &n))
        return fault_set(f, 400, "X-Priority", "the header X-Priority must be a whole number from "
                         "%d to %d", -PRIORITY_MAX, PRIORITY_MAX);
    c->options.priority = minus ? -(int)n : (int)n;
    return true;
}

bool call_start(struct call *c, struct fault *f) {
    struct server *s = c->x->server;
    struct err err = { 0 };
    if ((int64_t)c->n_prompts * c->n > CHOICES_MAX)
        return fault_set(f, 400, "n", "%d prompts with n = %d are more than %d answers",
                         c->n_prompts, c->n, CHOICES_MAX);
    if (!read_priority(c, f)) return false;
    if (!account_begin(s->access, c->x->account)) {
        f->retry_after = 1;
        return fault_set(f, 429, NULL, "this key has too many requests running");
    }
    open_choices(c);
    enlist(c);
    /* The exchange's, and ours: once the lock is open, all may be over before we return. */
    atomic_fetch_add(&c->refs, 2);
    exchange_on_gone(c->x, on_gone, c);
    pthread_mutex_lock(&c->lock);      /* no event is taken before all are in */
    bool ok = submit(c, &err);
    c->started = ok;
    if (ok) {
        drop_texts(c);
        atomic_fetch_add(&s->n_running, c->n_choices);
        c->wire->begin(c);
    }
    /* Those that got in before one did not: their events find nobody, see call_event. */
    int n_in = 0;
    for (int i = 0; i < c->n_choices; i++) n_in += atomic_load(&c->choice[i].id) != 0;
    c->failed |= !ok;
    if (!ok) {
        c->n_open = n_in;
        f->retry_after = err.code == ERR_MEMORY ? 1 : 0;
        fault_set(f, err.code == ERR_MEMORY ? 503 : 400, NULL, "%s", err.text);
    }
    pthread_mutex_unlock(&c->lock);
    if (!ok || atomic_load(&c->cancelled)) call_cancel(c);
    if (!ok && n_in) reply_fault(c->x, f);         /* it lives until those are out */
    call_free(c);
    if (ok || n_in) return true;
    if (exchange_forget_gone(c->x)) call_free(c);
    call_forget(c);
    return false;
}

void calls_each(struct server *s, void (*line)(void *to, struct call *), void *to) {
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        line(to, c);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->calls_lock);
}

static void end_one(void *to, struct call *c) {
    if (!c->failed) c->why = *(const struct fault *)to;
    c->failed = true;
    call_cancel(c);
}

void calls_cancel(struct server *s) {
    struct fault stopping = { .retry_after = 1 };
    fault_set(&stopping, 503, NULL, "the server is shutting down");
    calls_each(s, end_one, &stopping);
}
