/* bench.c - speed of prefill and decode at several batch sizes, with ids that mean
 * nothing: the median of some runs, after one that does not count. All prompts of a batch are
 * read before the first of its sequences goes on, so each step of decoding is a full one. */
#include "cli/session.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { BATCHES_MAX = 32, BATCH_MAX = 4096 };

struct rates { double prefill, decode, first_s; };       /* tokens per second; seconds */

struct racing {                      /* one run of a batch */
    int n, prompt, started, done;
    int late_tokens;                 /* those after every request had its first */
    double begin_s, first_s, all_started_s;
    char error[256];
};

struct runner { struct racing *race; uint64_t id; bool started; };

static void on_event(void *to, const struct engine_event *e) {
    struct runner *u = to;
    struct racing *r = u->race;
    if (e->kind == EVENT_TOKEN && r->started == r->n) r->late_tokens++;
    if (e->kind == EVENT_DONE) {
        r->done++;
        if (e->finish == FINISH_ERROR) snprintf(r->error, sizeof r->error, "%s", e->error);
    }
    if (u->started || e->kind == EVENT_LOGITS) return;
    u->started = true;
    double now = clock_s();
    if (!r->started++) r->first_s = now - r->begin_s;
    r->all_started_s = now;
}

static bool race(struct session *s, const struct args *a, int n, int turn, struct rates *out,
                 struct err *err) {
    struct racing r = { .n = n, .prompt = a->bench_prompt, .begin_s = clock_s() };
    struct runner *runner = mem_array((size_t)n, sizeof *runner);
    int *ids = mem_array((size_t)r.prompt, sizeof *ids);
    struct generate_options o = { .sample = sample_defaults(), .n_max = a->bench_generate + 1,
                                  .ignore_eos = true, .gather = true };
    o.sample.temperature = 0;
    int64_t vocab = engine_info(s->engine).vocab;
    int submitted = 0;
    for (bool ok = true; ok && submitted < n; submitted += ok) {
        struct runner *u = &runner[submitted];
        u->race = &r;
        for (int k = 0; k < r.prompt; k++)
            ids[k] = (int)(((int64_t)k * 7919 + (int64_t)(turn * n + submitted) * 104729) % vocab);
        u->id = engine_submit(s->engine, ids, r.prompt, &o, on_event, u, err);
        ok = u->id != 0;
    }
    bool ok = submitted == n;
    /* Whatever happens, no request outlives this function: events point into it. */
    bool stepping = true, cancelled = false;
    while (stepping && r.done < submitted) {
        if ((!ok || signal_seen()) && !cancelled) {
            for (int i = 0; i < submitted; i++) engine_cancel(s->engine, runner[i].id);
            cancelled = true;
        }
        stepping = engine_step(s->engine, err) >= 0;
    }
    ok = ok && stepping;
    if (signal_seen()) ok = err_code(err, (enum err_code)(128 + signal_seen()), "stopped");
    if (ok && r.error[0]) ok = err_set(err, "%s", r.error);
    double prefill_s = r.all_started_s - r.begin_s, decode_s = clock_s() - r.all_started_s;
    out->prefill = prefill_s > 0 ? (double)n * r.prompt / prefill_s : 0;
    out->decode = decode_s > 0 && r.late_tokens ? r.late_tokens / decode_s : 0;
    out->first_s = r.first_s;
    free(ids);
    free(runner);
    return ok;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *at, int n) {
    qsort(at, (size_t)n, sizeof *at, ascending);
    return n % 2 ? at[n / 2] : (at[n / 2 - 1] + at[n / 2]) / 2;
}

static bool measure(struct session *s, const struct args *a, int n, struct rates *out,
                    struct err *err) {
    size_t runs = (size_t)a->repeats;
    double *prefill = mem_array(runs, sizeof *prefill), *decode = mem_array(runs, sizeof *decode),
           *first = mem_array(runs, sizeof *first);
    struct rates one;
    bool ok = race(s, a, n, 0, &one, err);
    for (int i = 0; ok && i < a->repeats; i++) {
        ok = race(s, a, n, i + 1, &one, err);
        prefill[i] = one.prefill;
        decode[i] = one.decode;
        first[i] = one.first_s;
    }
    if (ok)
        *out = (struct rates){ median(prefill, a->repeats), median(decode, a->repeats),
                               median(first, a->repeats) };
    free(prefill);
    free(decode);
    free(first);
    return ok;
}

static bool parse_batches(const char *list, int batch[BATCHES_MAX], int *n, struct err *err) {
    struct ids ids = { 0 };
    bool ok = input_ids_text(&ids, str_of(list), "--batch", err);
    if (ok && (!ids.len || ids.len > BATCHES_MAX))
        ok = err_code(err, ERR_USAGE, "--batch takes 1 to %d sizes", BATCHES_MAX);
    for (int i = 0; ok && i < ids.len; i++) {
        if (ids.at[i] < 1 || ids.at[i] > BATCH_MAX)
            ok = err_code(err, ERR_USAGE, "--batch: sizes are 1 to %d, not %d", BATCH_MAX,
                          ids.at[i]);
        batch[i] = ids.at[i];
    }
    *n = ids.len;
    ids_free(&ids);
    return ok;
}

static void print_head(const struct args *a, const struct session *s) {
    struct engine_info i = engine_info(s->engine);
    struct buf j = { 0 };
    if (!a->json) {
        printf("%s, %s, %s, compute %s, kv %s\n"
               "%6s %8s %8s %14s %14s %14s\n", i.family, i.quantization,
               i.device, a->compute, i.kv,
               "batch", "prompt", "new", "prefill tok/s", "decode tok/s",
               "first token s");
        fflush(stdout);
        return;
    }
    buf_str(&j, S("{\"model\":"));
    buf_json(&j, (struct str){ s->dir.at, s->dir.len });
    buf_str(&j, S(",\"family\":"));
    buf_json(&j, str_of(i.family));
    buf_str(&j, S(",\"quantization\":"));
    buf_json(&j, str_of(i.quantization));
    buf_str(&j, S(",\"device\":"));
    buf_json(&j, str_of(i.device));
    printf("%s,\"compute\":\"%s\",\"kv\":\"%s\",\"threads\":%d,"
           "\"weights_bytes\":%zu,\"cache_bytes\":%zu,"
           "\"load_s\":%.6f,\"prompt\":%d,\"generate\":%d,\"repeats\":%d,\"results\":[", buf_c(&j),
           a->compute, i.kv, a->threads, i.weights_bytes, i.cache_bytes, i.load_s, a->bench_prompt,
           a->bench_generate, a->repeats);
    buf_free(&j);
}

static void print_tail(const struct args *a, const struct session *s) {
    struct rusage use = { 0 };
    getrusage(RUSAGE_SELF, &use);
    size_t peak = (size_t)use.ru_maxrss << 10;
    if (a->json)
        printf("],\"peak_rss_bytes\":%zu}\n", peak);
    else
        printf("loaded in %.3f s, peak resident memory %.1f MiB\n", s->load_s,
               (double)peak / (1 << 20));
}

static bool run(const struct args *a, struct session *s, const int *batch, int n, struct err *err) {
    print_head(a, s);
    for (int i = 0; i < n; i++) {
        struct rates r;
        if (!measure(s, a, batch[i], &r, err)) return false;
        if (a->json)
            printf("%s{\"batch\":%d,\"prefill_tokens_per_s\":%.3f,\"decode_tokens_per_s\":%.3f,"
                   "\"first_token_s\":%.6f}", i ? "," : "", batch[i], r.prefill, r.decode,
                   r.first_s);
        else
            printf("%6d %8d %8d %14.1f %14.1f %14.3f\n", batch[i], a->bench_prompt,
                   a->bench_generate, r.prefill, r.decode, r.first_s);
        fflush(stdout);
    }
    print_tail(a, s);
    return true;
}

int cli_bench(struct args *a) {
    struct err err = { 0 };
    struct session s = { 0 };
    int batch[BATCHES_MAX], n = 0, most = 0;
    model_from_words(a, true);
    bool ok = parse_batches(a->batches, batch, &n, &err);
    for (int i = 0; i < n; i++) most = MAX(most, batch[i]);
    /* What earlier runs left in the cache would be read instead of computed. */
    a->no_prefix_cache = true;
    if (!a->context) a->context = a->bench_prompt + a->bench_generate + 1;
    struct session_plan plan = { .no_tokenizer = true, .running = most, .waiting = most };
    ok = ok && session_open(&s, a, &plan, &err);
    signal_catch();
    ok = ok && run(a, &s, batch, n, &err);
    session_close(&s);
    return ok ? 0 : cli_fail(&err);
}
