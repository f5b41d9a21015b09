/* engine_open.c - putting the engine together from a folder, taking it apart, and what
 * can be asked of it. */
#include "base/log.h"
#include "engine_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ROWS_MAX = 512, ROWS_QUANTIZED = 256, ROWS_MAX_FAR = 2048, LOGITS_MAX = 256,
       REQUESTS_MAX = 16, WAITING_MAX = 512, CONTEXT_USUAL = 32768, SLOWDOWN = 2, PATIENCE = 4096 };

static bool dir_exists(const char *dir, struct err *err) {
    struct stat st;
    if (!dir) return err_code(err, ERR_USAGE, "no model was named");
    if (stat(dir, &st))
        return err_code(err, ERR_NOT_FOUND, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return err_set(err, "%s: not a folder with a checkpoint", dir);
    return true;
}

static const struct kv_name { const char *name; enum dtype dtype; } kv_names[] = {
    { "f32", F32 }, { "bf16", BF16 }, { "q8", I8 }, { "fp8", FP8 },
};

static bool find_kv(const char *name, bool f32, const struct kv_name **out, struct err *err) {
    *out = NULL;
    if (!name || !strcmp(name, "auto")) name = f32 ? "f32" : "bf16";
    for (size_t i = 0; i < COUNT(kv_names); i++)
        if (!strcmp(name, kv_names[i].name)) *out = &kv_names[i];
    return *out || err_code(err, ERR_USAGE, "kv %s: unknown; there is: auto, f32, bf16, q8, fp8",
                            name);
}

/* What of a model 8 bits are not for is kept as before, and the user told. */
static void tell_kv(const char *kv, const struct state_need *need, int n_layers) {
    int heads = 0, others = 0;
    for (int i = 0; i < n_layers; i++) {
        const bool bytes = dtype_scaled(need[i].dtype);
        heads += need[i].per_token && bytes;
        others += need[i].per_sequence || (need[i].per_token && !bytes);
    }
    if (others)
        log_line(LOG_WARN, "--kv %s is for keys and values of heads, which %d of %d layers have; "
                 "latents stay bf16, recurrent states f32", kv, heads, heads + others);
}

/* 0 asks for the model's own context, or for as much of it as the cache can be given. */
static bool open_cache(struct engine *e, const struct engine_options *o, int requests, int rows,
                       struct err *err) {
    const struct decoder_spec *d = model_spec(e->model);
    struct state_need *need = mem_array((size_t)d->n_layers, sizeof *need);
    struct cache_options want = {
        .bytes = o->cache_bytes, .seqs_max = requests, .rows_max = rows,
        .reuse = !o->no_reuse,
        .tokens_max = o->context ? MIN(o->context, d->context) : MIN(d->context, CONTEXT_USUAL),
    };
    if (o->context > d->context)
        err_set(err, "context: %d asked for, but the model goes to %d", o->context, d->context);
    model_need(e->model, need, e->kv->dtype);
    if (dtype_scaled(e->kv->dtype)) tell_kv(e->kv->name, need, d->n_layers);
    struct err tried = { 0 };
    while (!err->code) {
        tried = (struct err){ 0 };
        e->cache = cache_open(&e->dev, need, d->n_layers, &want, &tried);
        if (e->cache || o->context || want.tokens_max <= 512) break;
        want.tokens_max /= 2;          /* only what the user did not ask for may shrink */
    }
    if (!e->cache && !err->code) err_code(err, tried.code, "%s", tried.text);
    free(need);
    if (!e->cache) return false;
    /* A small cache holds fewer tokens than asked for, even of one sequence alone. */
    struct cache_stats has = cache_stats(e->cache);
    if (o->context && has.tokens_max < o->context)
        return err_code(err, ERR_MEMORY, "context: %d tokens do not fit into a cache of %zu bytes, "
                        "which holds %d of them", o->context, has.bytes, has.tokens_max);
    e->context = MIN(want.tokens_max, has.tokens_max);
    return true;
}

static bool open_sched(struct engine *e, const struct engine_options *o, int requests, int rows) {
    struct sched_options s = {
        .rows_max = rows, .chunk_max = o->chunk_max, .requests_max = requests,
        .waiting_max = e->jobs.n, .restart_at = model_spec(e->model)->restart_at,
        .logits_max = e->logits_max, .patience = PATIENCE, .budget = &e->budget,
    };
    e->budget.slowdown = o->slowdown > 0 ? MAX(o->slowdown, 1) : o->slowdown < 0 ? 0 : SLOWDOWN;
    e->sched = sched_open(e->cache, &s);
    return e->sched != NULL;
}

static bool open_texts(struct engine *e, const struct engine_options *o, struct err *err) {
    if (o->no_tokenizer) return true;
    e->tokenizer = tok_open(o->dir, err);
    if (!e->tokenizer) return false;
    e->chat = chat_open(o->dir, o->chat_template, e->tokenizer, &e->chat_err);
    if (!e->chat && o->chat_template) return err_set(err, "%s", e->chat_err.text);
    if (!e->generation.n_eos && tok_eos(e->tokenizer) >= 0)
        e->generation.eos[e->generation.n_eos++] = tok_eos(e->tokenizer);
    return true;
}

/* The most rows of a step, before the model is known. A device with a memory of its own is one of
 * many processors: few rows leave them idle. */
static int rows_of(const struct engine *e, const struct engine_options *o) {
    if (o->rows_max) return o->rows_max;
    return e->dev.op->host_memory ? ROWS_MAX : ROWS_MAX_FAR;
}

/* And when it is. Plain weights are sorted anew for each step, packed ones are not, and then rows
 * that stay in a cache are worth more. */
static int step_rows(const struct engine *e, const struct engine_options *o, int rows) {
    const bool fewer = !o->rows_max && e->dev.op->host_memory && model_quantized(e->model);
    return fewer ? MAX((int)ROWS_QUANTIZED, e->requests_max) : rows;
}

static void open_flights(struct engine *e, size_t n) {
    e->picked = mem_array(n, sizeof *e->picked);
    e->ids = mem_array(n, sizeof *e->ids);
    e->draw = mem_array(n, sizeof *e->draw);
    for (int i = 0; i < 2; i++) {
        struct flight *f = &e->flight[i];
        f->turn = i;
        f->job = mem_array(n, sizeof *f->job);
        f->position = mem_array(n, sizeof *f->position);
        f->plain = mem_array(n, sizeof *f->plain);
        f->wanted = mem_array(n, sizeof *f->wanted);
        f->token = mem_array(n, sizeof *f->token);
    }
}

static void close_flights(struct engine *e) {
    for (int i = 0; i < 2; i++) {
        struct flight *f = &e->flight[i];
        free(f->job);
        free(f->position);
        free(f->plain);
        free(f->wanted);
        free(f->token);
    }
    free(e->draw);
    free(e->ids);
    free(e->picked);
}

static bool open_all(struct engine *e, const struct engine_options *o, struct err *err) {
    int requests = o->requests_max ? o->requests_max : REQUESTS_MAX;
    e->requests_max = requests;
    e->waiting_max = o->waiting_max ? o->waiting_max : WAITING_MAX;
    jobs_open(&e->jobs, e->waiting_max + requests);
    e->dev.op = device_find(o->device, err);
    struct device_options d = { .threads = o->threads, .isa = o->isa, .rounded = !o->f32,
                                .fast = o->fast };
    if (!e->dev.op || !find_kv(o->kv, o->f32, &e->kv, err)) return false;
    int rows = MAX(rows_of(e, o), requests);       /* every running request can have its row */
    e->rows_max = rows;
    e->logits_max = o->rows_max ? rows : MIN(rows, MAX((int)LOGITS_MAX, requests));
    if (dtype_scaled(e->kv->dtype) && !e->dev.op->kv_bytes)
        return err_code(err, ERR_DEVICE, "device %s: it cannot keep keys and values as %s yet; "
                        "there is: --kv bf16 and f32", e->dev.op->name, e->kv->name);
    if (!e->dev.op->open(&e->dev, &d, err)) return false;
    struct model_options m = { .device = &e->dev, .rows_max = rows, .seqs_max = requests,
                               .logits_max = e->logits_max, .progress = o->progress,
                               .packing = o->packing, .to = o->to,
                               .pack = { o->unpacked, o->packed_dir, o->packed_min } };
    e->model = model_open(o->dir, &m, err);
    if (!e->model) return false;
    e->rows_max = rows = step_rows(e, o, rows);
    e->vocab = model_spec(e->model)->vocab;
    e->params = model_params(e->model);
    model_format(e->model, e->format, sizeof e->format);
    if (!generation_read(&e->generation, o->dir, e->vocab, err) || !open_texts(e, o, err) ||
        !open_cache(e, o, requests, rows, err) || !open_sched(e, o, requests, rows)) return false;
    e->cache_bytes = cache_stats(e->cache).bytes;
    e->sampler = sampler_open(e->vocab);
    e->ahead = o->ahead ? o->ahead > 0 : model_draws(e->model);
    open_flights(e, (size_t)rows);
    e->row = mem_array((size_t)e->vocab, sizeof *e->row);
    return true;
}

struct engine *engine_open(const struct engine_options *o, struct err *err) {
    struct err own = { 0 };
    if (!err) err = &own;
    if (!dir_exists(o->dir, err)) return NULL;
    struct engine *e = mem_new(sizeof *e);
    double begin = clock_s();
    e->submitted_end = &e->submitted;
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t steady;         /* waits must not follow somebody who sets the clock */
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &steady);
    pthread_condattr_destroy(&steady);
    if (o->layer) {
        e->probe_is = (struct probe){ o->layer, o->to };
        e->probe = &e->probe_is;
    }
    if (!open_all(e, o, err)) {
        engine_close(e);
        return NULL;
    }
    e->load_s = clock_s() - begin;
    engine_publish(e, false);
    return e;
}

/* Requests that are still here end as cancelled: their owners get their last event. */
static void cancel_all(struct engine *e) {
    if (!e->sched) return;
    for (int i = 0; i < e->jobs.n; i++)
        if (e->jobs.at[i]) e->jobs.at[i]->request.cancelled = true;
    sched_look(e->sched);
    engine_step(e, NULL);
}

void engine_close(struct engine *e) {
    if (!e) return;
    cancel_all(e);
    sched_close(e->sched);
    cache_close(e->cache);
    model_close(e->model);
    if (e->dev.op) e->dev.op->close(&e->dev);
    sampler_close(e->sampler);
    chat_close(e->chat);
    tok_close(e->tokenizer);
    close_flights(e);
    free(e->row);
    jobs_close(&e->jobs);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

const struct tokenizer *engine_tokenizer(const struct engine *e) {
    return e->tokenizer;
}

const struct chat *engine_chat(const struct engine *e, struct err *err) {
    if (!e->chat)
        err_set(err, "%s",
                e->chat_err.text[0] ? e->chat_err.text : "the model has no chat template");
    return e->chat;
}

struct sample_params engine_sampling(const struct engine *e) {
    return e->generation.sample;
}

bool engine_is_eos(const struct engine *e, int token) {
    for (int i = 0; i < e->generation.n_eos; i++)
        if (e->generation.eos[i] == token) return true;
    return false;
}

struct engine_info engine_info(const struct engine *e) {
    const struct decoder_spec *d = model_spec(e->model);
    struct engine_stats s = engine_stats((struct engine *)(uintptr_t)e);     /* for its mutex */
    struct engine_info info = {
        .family = model_family(e->model)->name, .quantization = e->format,
        .kv = e->kv->name,
        .context = e->context, .vocab = e->vocab, .n_layers = d->n_layers, .dim = d->dim,
        .context_train = d->context, .requests_max = e->requests_max, .rows_max = e->rows_max,
        .params = e->params,
        .weights_bytes = model_weights_bytes(e->model), .cache_bytes = e->cache_bytes,
        .load_s = e->load_s, .waiting = s.waiting, .running = s.running, .preempted = s.preempted,
        .tokens_reused = s.tokens_cached,
    };
    e->dev.op->describe(&e->dev, info.device, sizeof info.device);
    return info;
}

bool engine_inspect(const char *dir, int context, const char *kv, struct buf *json,
                    struct err *err) {
    const struct kv_name *is;
    return dir_exists(dir, err) && find_kv(kv, false, &is, err) &&
           model_inspect(dir, context, is->dtype, json, err);
}

void engine_families(struct buf *json) {
    buf_char(json, '[');
    for (const struct family *f = family_next(NULL); f; f = family_next(f)) {
        buf_str(json, json->len > 1 ? S(",\n{\"name\":") : S("\n{\"name\":"));
        buf_json(json, str_of(f->name));
        buf_str(json, S(",\"model_types\":["));
        for (const char *const *t = f->model_types; *t; t++) {
            if (t != f->model_types) buf_char(json, ',');
            buf_json(json, str_of(*t));
        }
        buf_str(json, S("],\"evidence\":"));
        buf_json(json, str_of(f->evidence));
        buf_char(json, '}');
    }
    buf_str(json, S("\n]\n"));
}
