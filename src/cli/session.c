/* session.c - opens an engine as the options say and shows how far that is. */
#include "cli/session.h"
#include "cli/dialog.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { BAR_WIDTH = 30 };

/* Only when loading is slow enough to wonder about, and only where it can be wiped again. */
static void show_bar(struct session *s, double done) {
    if (s->quiet || !s->term.err || clock_s() - s->bar_s < 0.5) return;
    char bar[BAR_WIDTH + 1];
    int full = done < 0 ? 0 : done > 1 ? BAR_WIDTH : (int)(done * BAR_WIDTH);
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)full);
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r%s [%s] %3d %%", s->packing ? "packing" : "loading", bar,
            (int)(MIN(MAX(done, 0), 1) * 100));
    fflush(stderr);
    s->bar = true;
}

static void loading(void *to, double done) {
    struct session *s = to;
    if (s->progress) s->progress(s->progress_to, done);
    show_bar(s, done);
}

/* Its half second begins anew: loading maps files, which takes no time worth a word. */
static void packing(void *to, double done) {
    struct session *s = to;
    if (!s->packing) s->bar_s = clock_s();
    s->packing = true;
    if (s->progress) s->progress(s->progress_to, done);
    show_bar(s, done);
}

static void wipe_bar(struct session *s) {
    if (s->bar) fprintf(stderr, "\r%*s\r", BAR_WIDTH + 20, "");
    s->bar = false;
}

/* "42+1.5", "42-3", "42-inf", "42=2". */
static bool parse_bias(struct str s, struct logit_bias *out, struct err *err) {
    size_t i = 0;
    while (i < s.len && s.at[i] >= '0' && s.at[i] <= '9') i++;
    uint64_t id;
    double value;
    struct str rest = str_from(s, i);
    if (str_starts(rest, "=")) rest = str_from(rest, 1);
    bool ok = str_u64(str_cut(s, 0, i), INT32_MAX, &id) && rest.len && parse_float(rest, &value);
    if (!ok)
        return err_code(err, ERR_USAGE, "--logit-bias takes ID+X or ID-X, not '%.*s'", STR_ARG(s));
    *out = (struct logit_bias){ .token = (int)id, .bias = (float)value };
    return true;
}

/* DRY's breakers are texts to people and tokens to the sampler: the last token of each. */
static bool set_breakers(struct session *s, const struct text_list *texts, struct err *err) {
    const struct tokenizer *t = engine_tokenizer(s->engine);
    int n = 0;
    for (int i = 0; t && i < texts->n; i++) {
        if (!strcmp(texts->at[i], "none")) continue;
        if (n == DRY_BREAKERS_MAX)
            return err_code(err, ERR_USAGE, "more than %d --dry-sequence-breaker",
                            DRY_BREAKERS_MAX);
        struct ids ids = { 0 };
        tok_encode(t, str_of(texts->at[i]), 0, NULL, 0, &ids);
        if (ids.len) s->breaker[n++] = ids.at[ids.len - 1];
        ids_free(&ids);
    }
    s->sample.dry_breaker = s->breaker;
    s->sample.n_dry_breakers = n;
    return true;
}

static bool set_sampling(struct session *s, const struct args *a, struct err *err) {
    static const char *const usual[] = { "\n", ":", "\"", "*" };
    uint64_t seed;
    s->sample = engine_sampling(s->engine);
    if (getrandom(&seed, sizeof seed, 0) == sizeof seed) s->sample.seed = seed;
    options_sample(a, &s->sample);
    if (a->samplers && !sample_order(str_of(a->samplers), s->sample.order, err)) {
        err->code = ERR_USAGE;
        return false;
    }
    struct text_list breakers = a->dry_breakers;
    if (!breakers.n && s->sample.dry_multiplier > 0)
        for (size_t i = 0; i < COUNT(usual); i++) breakers.at[breakers.n++] = usual[i];
    if (breakers.n && !set_breakers(s, &breakers, err)) return false;
    for (int i = 0; i < a->logit_bias.n; i++)
        if (!parse_bias(str_of(a->logit_bias.at[i]), &s->bias[i], err)) return false;
    int vocab = engine_info(s->engine).vocab;
    for (int i = 0; i < a->logit_bias.n; i++)
        if (s->bias[i].token >= vocab)
            return err_code(err, ERR_USAGE, "--logit-bias: token %d, but the vocabulary has %d",
                            s->bias[i].token, vocab);
    s->sample.bias = s->bias;
    s->sample.n_bias = a->logit_bias.n;
    for (int i = 0; i < a->stop.n; i++) {
        s->stop[i] = str_of(a->stop.at[i]);
        if (!s->stop[i].len) return err_code(err, ERR_USAGE, "--stop takes some text");
    }
    s->n_stop = a->stop.n;
    if (sample_check(&s->sample, err)) return true;
    err->code = ERR_USAGE;
    return false;
}

bool session_open(struct session *s, const struct args *a, const struct session_plan *plan,
                  struct err *err) {
    *s = (struct session){ .term = term_of(a->color), .quiet = a->quiet, .started_s = clock_s(),
                           .progress = plan->progress, .progress_to = plan->to };
    const char *override;
    if (!model_find(a->model, &s->dir, err)) return false;
    if (!dialog_template(a, &s->template_text, &override, err)) return false;
    struct engine_options o = {
        .dir = buf_c(&s->dir), .device = a->device, .isa = a->isa, .chat_template = override,
        .threads = MAX(a->threads, 0), .context = a->context, .chunk_max = a->chunk,
        .requests_max = plan->running, .waiting_max = plan->waiting,
        .slowdown = plan->slowdown,
        .cache_bytes = a->cache_bytes, .f32 = !strcmp(a->compute, "f32"), .kv = a->kv,
        .fast = a->fast,
        .no_reuse = a->no_prefix_cache, .no_tokenizer = plan->no_tokenizer,
        .progress = loading, .packing = packing, .to = s,
    };
    struct buf packed = { 0 };
    session_packed(a->packed, &packed, &o);
    const double begin = s->bar_s = clock_s();
    s->engine = engine_open(&o, err);
    buf_free(&packed);
    wipe_bar(s);
    if (!s->engine) {
        dialog_blame(a, err);
        return false;
    }
    s->load_s = clock_s() - begin;
    int context = engine_info(s->engine).context;
    if (a->context > context && !a->quiet)
        fprintf(stderr, "mlxcel: the context is %d tokens, not %d\n", context, a->context);
    return set_sampling(s, a, err);
}

void session_no_stops(struct session *s) {
    for (int i = 0; i < s->n_stop; i++) {
        if (s->stop_owned[i]) free((void *)(uintptr_t)s->stop[i].at);
        s->stop_owned[i] = false;
    }
    s->n_stop = 0;
}

void session_close(struct session *s) {
    engine_close(s->engine);
    buf_free(&s->dir);
    buf_free(&s->template_text);
    session_no_stops(s);
    *s = (struct session){ 0 };
}

struct generate_options session_options(const struct session *s, const struct args *a) {
    return (struct generate_options){
        .sample = s->sample, .n_max = a->n_max, .stop = s->stop, .n_stop = s->n_stop,
        .ignore_eos = a->ignore_eos, .specials = a->specials,
    };
}
