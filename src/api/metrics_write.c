/* metrics_write.c - GET /metrics: every metric as a row of a table, in Prometheus' text format
 * 0.0.4, under our names and under those of vLLM and llama-server, whose dashboards then work.
 *
 * Numbers are written without the locale's help, and each histogram's count is the sum of the
 * buckets that were read, so a scrape is consistent in itself while others add. */
#include "api/routes.h"
#include "api/server.h"
#include "base/utf8.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LABEL_MAX = 300, MEMORY_TEXT_MAX = 128 };

struct metric_writer {
    struct buf *out;
    struct server *s;
    struct metrics *m;
    bool open;                       /* the engine is there: stats and s->info are valid */
    struct engine_stats stats;       /* since the server serves */
    uint64_t memory_bytes, virtual_bytes;
    char labels[LABEL_MAX * 2 + 64]; /* model_name="...",engine="0" */
};

/* ---- values ---- */

/* Shortest enough, and with a point in every locale. */
static void put_value(struct buf *out, double v) {
    if (v < 0) {
        buf_char(out, '-');
        v = -v;
    }
    if (!(v < 1e15)) v = 1e15;
    uint64_t whole = (uint64_t)v, part = (uint64_t)((v - (double)whole) * 1e9 + 0.5);
    if (part >= 1000000000) {
        whole++;
        part = 0;
    }
    buf_format(out, "%llu", (unsigned long long)whole);
    if (!part) return;
    buf_format(out, ".%09llu", (unsigned long long)part);
    while (out->at[out->len - 1] == '0') out->len--;
}

static void put_label(struct buf *out, const char *name, const char *value) {
    struct buf valid = { .max = LABEL_MAX };
    struct str text = str_of(value);
    text.len = MIN(text.len, LABEL_MAX / 3);       /* a bad byte becomes three */
    utf8_repair(&valid, text);
    buf_format(out, "%s=\"", name);
    for (size_t i = 0; i < valid.len; i++) {
        char c = valid.at[i];
        if (c == '\n') buf_str(out, S("\\n"));
        else if (c == '"' || c == '\\') buf_format(out, "\\%c", c);
        else buf_char(out, c);
    }
    buf_char(out, '"');
    buf_free(&valid);
}

static bool is_theirs(const struct metric *r) {
    return !strncmp(r->name, "vllm:", 5);
}

/* "name{labels} value": vLLM's names carry the model's name, as its dashboards select by it. */
static void put_line(struct metric_writer *w, const struct metric *r, const char *suffix,
                     const char *labels, double v) {
    const char *own = is_theirs(r) ? w->labels : "";
    buf_format(w->out, "%s%s", r->name, suffix);
    if (*own || *labels)
        buf_format(w->out, "{%s%s%s}", own, *own && *labels ? "," : "", labels);
    buf_char(w->out, ' ');
    put_value(w->out, v);
    buf_char(w->out, '\n');
}

enum value {
    RUNNING, WAITING, PROMPT, CACHED, COMPUTED, GENERATED, PREEMPTED, RESTARTED, STEPS, ROWS,
    STEP_SECONDS, PAGES, PAGES_USED, CACHE_BYTES, CACHE_USED, CACHE_SHARE, STEPPING, HEARTBEAT,
    PREFILL_SECONDS, DECODE_SECONDS, PREFILL_SPEED, DECODE_SPEED, PER_STEP, TOKENS_MAX,
    CONNECTIONS, EXCHANGES, QUEUE_MAX, PROGRESS, READY, LOAD_SECONDS, WEIGHTS, UPTIME, STARTED,
    MEMORY, VIRTUAL, CPU
};

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static double sum_s(const struct metric_writer *w, enum histogram_id id) {
    return (double)atomic_load(&w->m->histogram[id].sum) * 1e-9;
}

static double engine_value(const struct metric_writer *w, enum value v) {
    const struct engine_stats *e = &w->stats;
    switch (v) {
    case RUNNING: return e->running;
    case WAITING: return e->waiting;
    case PROMPT: return (double)e->tokens_prompt;
    case CACHED: return (double)e->tokens_cached;
    case COMPUTED: return (double)(e->tokens_prompt - e->tokens_cached);
    case GENERATED: return (double)e->tokens_generated;
    case PREEMPTED: return (double)e->preempted;
    case RESTARTED: return (double)e->restarted;
    case STEPS: return (double)e->steps;
    case ROWS: return (double)e->rows;
    case STEP_SECONDS: return e->step_s;
    case PAGES: return e->pages;
    case PAGES_USED: return e->pages_used;
    case CACHE_BYTES: return (double)e->cache_bytes;
    case CACHE_USED: return (double)e->cache_used_bytes;
    case CACHE_SHARE: return ratio(e->pages_used, e->pages);
    case STEPPING: return e->stepping;
    case HEARTBEAT: return w->open ? clock_s() - e->heartbeat_s : 0;
    case PREFILL_SPEED:
        return ratio(engine_value(w, COMPUTED), sum_s(w, H_PREFILL));
    case DECODE_SPEED: return ratio((double)e->tokens_generated, sum_s(w, H_DECODE));
    case PER_STEP: return ratio((double)e->sequences, (double)e->steps);
    default: return 0;
    }
}

static double value_of(const struct metric_writer *w, enum value v) {
    const struct server *s = w->s;
    struct timespec cpu = { 0 };
    switch (v) {
    case PREFILL_SECONDS: return sum_s(w, H_PREFILL);
    case DECODE_SECONDS: return sum_s(w, H_DECODE);
    case TOKENS_MAX: return (double)atomic_load(&w->m->tokens_max);
    case CONNECTIONS: return atomic_load(&s->n_connections);
    case EXCHANGES: return atomic_load(&s->n_exchanges);
    case QUEUE_MAX: return s->options.queue_max;
    case PROGRESS: return w->open ? 1 : atomic_load(&s->progress) / 1000.0;
    case READY: return atomic_load(&s->state) == SERVER_READY;
    case LOAD_SECONDS: return w->open ? s->info.load_s : 0;
    case WEIGHTS: return w->open ? (double)s->info.weights_bytes : 0;
    case UPTIME: return clock_s() - s->opened_s;
    case STARTED: return (double)s->created;
    case MEMORY: return (double)w->memory_bytes;
    case VIRTUAL: return (double)w->virtual_bytes;
    case CPU:
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
        return (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9;
    default: return engine_value(w, v);
    }
}

/* ---- what a row writes ---- */

static void one(struct metric_writer *w, const struct metric *r) {
    put_line(w, r, "", "", value_of(w, (enum value)r->what));
}

/* `label`: further ones. The bounds that the row shows; those between them are added up. */
static void buckets(struct metric_writer *w, const struct metric *r, const struct histogram *h,
                    enum unit unit, const char *label) {
    const struct bound *b = unit == UNIT_SECONDS ? seconds_bounds : tokens_bounds;
    int n = unit == UNIT_SECONDS ? n_seconds_bounds : n_tokens_bounds;
    double scale = unit == UNIT_SECONDS ? 1e-9 : 1;
    double sum = (double)atomic_load(&h->sum) * scale;
    uint64_t so_far = 0;
    struct buf labels = { 0 };
    for (int i = 0; i <= n; i++) {
        so_far += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
        if (i < n && !(b[i].shown & r->shown)) continue;
        buf_clear(&labels);
        buf_format(&labels, "%s%sle=\"%s\"", label, *label ? "," : "", i < n ? b[i].text : "+Inf");
        put_line(w, r, "_bucket", buf_c(&labels), (double)so_far);
    }
    put_line(w, r, "_sum", label, sum);
    put_line(w, r, "_count", label, (double)so_far);
    buf_free(&labels);
}

static void times(struct metric_writer *w, const struct metric *r) {
    buckets(w, r, &w->m->histogram[r->what], UNIT_SECONDS, "");
}

static void lengths(struct metric_writer *w, const struct metric *r) {
    buckets(w, r, &w->m->histogram[r->what], UNIT_TOKENS, "");
}

static void finished(struct metric_writer *w, const struct metric *r) {
    const _Atomic uint64_t *n = w->m->finished;
    for (int i = 0; i < REASONS; i++) {
        char label[64];
        const char *name = reason_names[i];
        uint64_t count = atomic_load(&n[i]);
        /* vLLM calls a request that nobody waits for aborted, and a call of tools a stop. */
        if (is_theirs(r) && i == REASON_TOOLS) continue;
        if (is_theirs(r) && i == REASON_STOP) count += atomic_load(&n[REASON_TOOLS]);
        if (is_theirs(r) && i == REASON_CANCELLED) name = "abort";
        snprintf(label, sizeof label, "%s=\"%s\"", is_theirs(r) ? "finished_reason" : "reason",
                 name);
        put_line(w, r, "", label, (double)count);
    }
}

static void cancelled(struct metric_writer *w, const struct metric *r) {
    for (int i = 0; i < STAGES; i++) {
        char label[64];
        snprintf(label, sizeof label, "stage=\"%s\"", stage_names[i]);
        put_line(w, r, "", label, (double)atomic_load(&w->m->cancelled[i]));
    }
}

static const char *route_path(int i) { return i < n_routes ? routes[i].path : "other"; }

/* Only what has happened: routes times statuses are many. */
static void replies(struct metric_writer *w, const struct metric *r) {
    for (int i = 0; i <= n_routes; i++)
        for (int k = 0; k < STATUSES; k++) {
            uint64_t n = atomic_load(&w->m->route[i].status[k]);
            struct buf label = { 0 };
            if (!n) continue;
            put_label(&label, "route", route_path(i));
            if (known_status[k]) buf_format(&label, ",status=\"%d\"", known_status[k]);
            else buf_str(&label, S(",status=\"other\""));
            put_line(w, r, "", buf_c(&label), (double)n);
            buf_free(&label);
        }
}

static void reply_times(struct metric_writer *w, const struct metric *r) {
    for (int i = 0; i <= n_routes; i++) {
        const struct route_counts *c = &w->m->route[i];
        struct buf label = { 0 };
        bool any = false;
        for (int k = 0; k < STATUSES; k++) any |= atomic_load(&c->status[k]) != 0;
        if (!any) continue;
        put_label(&label, "route", route_path(i));
        buckets(w, r, &c->seconds, UNIT_SECONDS, buf_c(&label));
        buf_free(&label);
    }
}

static void build(struct metric_writer *w, const struct metric *r) {
    struct buf label = { 0 };
    put_label(&label, "version", MLXCEL_VERSION);
    buf_char(&label, ',');
    put_label(&label, "model", w->s->model);
    if (w->open) {
        buf_char(&label, ',');
        put_label(&label, "family", w->s->info.family);
        buf_char(&label, ',');
        put_label(&label, "quantization", w->s->info.quantization);
        buf_char(&label, ',');
        put_label(&label, "device", w->s->info.device);
    }
    put_line(w, r, "", buf_c(&label), 1);
    buf_free(&label);
}

static void cache_config(struct metric_writer *w, const struct metric *r) {
    char label[64];
    snprintf(label, sizeof label, "block_size=\"%d\",num_gpu_blocks=\"%d\"", w->stats.page_tokens,
             w->stats.pages);
    put_line(w, r, "", label, 1);
}

/* ---- the table ---- */

#define COUNTER(name, what, help) { name, METRIC_COUNTER, help, one, what, 0 }
#define GAUGE(name, what, help) { name, METRIC_GAUGE, help, one, what, 0 }
#define TIMES(name, what, shown, help) { name, METRIC_HISTOGRAM, help, times, what, shown }
#define LENGTHS(name, what, help) { name, METRIC_HISTOGRAM, help, lengths, what, SCALE_OURS }

const struct metric metric_table[] = {
    { "mlxcel_build_info", METRIC_GAUGE, "1; the labels say what runs.", build, 0, 0 },
    GAUGE("mlxcel_ready", READY, "1 when requests are served, 0 while loading and at the end."),
    GAUGE("mlxcel_load_progress_ratio", PROGRESS, "How far the model is loaded, 0 to 1."),
    GAUGE("mlxcel_load_seconds", LOAD_SECONDS, "Time that loading took."),
    GAUGE("mlxcel_weights_bytes", WEIGHTS, "Size of the weights."),
    GAUGE("mlxcel_uptime_seconds", UPTIME, "Time since the server listens."),
    GAUGE("mlxcel_requests_running", RUNNING, "Sequences in the batch now."),
    GAUGE("mlxcel_requests_waiting", WAITING, "Sequences that wait for a place now."),
    GAUGE("mlxcel_queue_limit", QUEUE_MAX, "Requests that may run or wait."),
    COUNTER("mlxcel_prompt_tokens_total", PROMPT, "Tokens of the prompts that were started."),
    COUNTER("mlxcel_prompt_tokens_cached_total", CACHED,
            "Tokens of prompts that were found in the cache."),
    COUNTER("mlxcel_generation_tokens_total", GENERATED, "Tokens generated."),
    { "mlxcel_requests_finished_total", METRIC_COUNTER, "Sequences that ended, by reason.",
      finished, 0, 0 },
    { "mlxcel_requests_cancelled_total", METRIC_COUNTER,
      "Sequences that nobody wanted any more, by how far they were.", cancelled, 0, 0 },
    COUNTER("mlxcel_preemptions_total", PREEMPTED,
            "Times that a sequence had to give up its memory."),
    COUNTER("mlxcel_restarts_total", RESTARTED, "Times that one was read again after that."),
    TIMES("mlxcel_time_to_first_token_seconds", H_FIRST, SCALE_OURS,
          "From the engine's taking a sequence to its first token."),
    TIMES("mlxcel_inter_token_seconds", H_GAP, SCALE_OURS, "Between two tokens of a sequence."),
    TIMES("mlxcel_request_seconds", H_REQUEST, SCALE_OURS,
          "From a request's headers to its sequence's end."),
    TIMES("mlxcel_request_queue_seconds", H_QUEUE, SCALE_OURS, "Waiting for a place."),
    TIMES("mlxcel_request_prefill_seconds", H_PREFILL, SCALE_OURS, "Reading the prompt."),
    TIMES("mlxcel_request_decode_seconds", H_DECODE, SCALE_OURS, "Generating."),
    LENGTHS("mlxcel_request_prompt_tokens", H_PROMPT, "Length of a prompt."),
    LENGTHS("mlxcel_request_generation_tokens", H_GENERATION, "Length of an answer."),
    COUNTER("mlxcel_steps_total", STEPS, "Steps of the engine."),
    COUNTER("mlxcel_step_rows_total", ROWS, "Tokens that went through the model in them."),
    COUNTER("mlxcel_step_seconds_total", STEP_SECONDS, "Time spent in steps."),
    GAUGE("mlxcel_engine_stepping", STEPPING, "1 while the engine is inside of a step."),
    GAUGE("mlxcel_engine_heartbeat_age_seconds", HEARTBEAT,
          "Time since the engine last began or ended a step or a wait."),
    GAUGE("mlxcel_kv_cache_pages", PAGES, "Pages of the KV cache."),
    GAUGE("mlxcel_kv_cache_pages_used", PAGES_USED, "Pages that running sequences hold."),
    GAUGE("mlxcel_kv_cache_bytes", CACHE_BYTES, "Size of the KV cache."),
    GAUGE("mlxcel_kv_cache_used_bytes", CACHE_USED, "The share of it that is held."),
    { "mlxcel_http_requests_total", METRIC_COUNTER,
      "Replies by route and status; 499: the client left before.", replies, 0, 0 },
    { "mlxcel_http_request_seconds", METRIC_HISTOGRAM, "From headers to the reply's end.",
      reply_times, 0, SCALE_OURS },
    GAUGE("mlxcel_http_connections", CONNECTIONS, "Open connections."),
    GAUGE("mlxcel_http_requests_active", EXCHANGES, "Requests that are read or answered now."),
    COUNTER("process_cpu_seconds_total", CPU, "CPU time of the process."),
    GAUGE("process_resident_memory_bytes", MEMORY, "Memory in RAM, mapped weights included."),
    GAUGE("process_virtual_memory_bytes", VIRTUAL, "Address space."),
    GAUGE("process_start_time_seconds", STARTED, "Unix time of the start."),

    GAUGE("vllm:num_requests_running", RUNNING, "As mlxcel_requests_running."),
    GAUGE("vllm:num_requests_waiting", WAITING, "As mlxcel_requests_waiting."),
    GAUGE("vllm:kv_cache_usage_perc", CACHE_SHARE, "Share of the KV cache in use, 0 to 1."),
    GAUGE("vllm:gpu_cache_usage_perc", CACHE_SHARE, "The same under its older name."),
    { "vllm:cache_config_info", METRIC_GAUGE, "1; the labels say how large the KV cache is.",
      cache_config, 0, 0 },
    COUNTER("vllm:prefix_cache_queries_total", PROMPT, "As mlxcel_prompt_tokens_total."),
    COUNTER("vllm:prefix_cache_hits_total", CACHED, "As mlxcel_prompt_tokens_cached_total."),
    COUNTER("vllm:prompt_tokens_total", PROMPT, "As mlxcel_prompt_tokens_total."),
    COUNTER("vllm:generation_tokens_total", GENERATED, "As mlxcel_generation_tokens_total."),
    COUNTER("vllm:num_preemptions_total", PREEMPTED, "As mlxcel_preemptions_total."),
    { "vllm:request_success_total", METRIC_COUNTER, "As mlxcel_requests_finished_total.",
      finished, 0, 0 },
    TIMES("vllm:time_to_first_token_seconds", H_FIRST, SCALE_FIRST,
          "As mlxcel_time_to_first_token_seconds."),
    TIMES("vllm:inter_token_latency_seconds", H_GAP, SCALE_GAP, "As mlxcel_inter_token_seconds."),
    TIMES("vllm:time_per_output_token_seconds", H_GAP, SCALE_GAP,
          "The same under its older name."),
    TIMES("vllm:e2e_request_latency_seconds", H_REQUEST, SCALE_REQUEST,
          "As mlxcel_request_seconds."),
    TIMES("vllm:request_queue_time_seconds", H_QUEUE, SCALE_REQUEST,
          "As mlxcel_request_queue_seconds."),
    TIMES("vllm:request_prefill_time_seconds", H_PREFILL, SCALE_REQUEST,
          "As mlxcel_request_prefill_seconds."),
    TIMES("vllm:request_decode_time_seconds", H_DECODE, SCALE_REQUEST,
          "As mlxcel_request_decode_seconds."),
    TIMES("vllm:request_inference_time_seconds", H_INFERENCE, SCALE_REQUEST,
          "Reading the prompt and generating."),
    LENGTHS("vllm:request_prompt_tokens", H_PROMPT, "As mlxcel_request_prompt_tokens."),
    LENGTHS("vllm:request_generation_tokens", H_GENERATION,
            "As mlxcel_request_generation_tokens."),
    LENGTHS("vllm:request_max_num_generation_tokens", H_GENERATION,
            "The same: of each sequence, not of the longest of a request."),

    COUNTER("llamacpp:prompt_tokens_total", COMPUTED, "Tokens of prompts that were computed."),
    COUNTER("llamacpp:prompt_seconds_total", PREFILL_SECONDS, "Time spent on prompts."),
    COUNTER("llamacpp:tokens_predicted_total", GENERATED, "As mlxcel_generation_tokens_total."),
    COUNTER("llamacpp:tokens_predicted_seconds_total", DECODE_SECONDS, "Time spent on answers."),
    COUNTER("llamacpp:n_decode_total", STEPS, "As mlxcel_steps_total."),
    GAUGE("llamacpp:n_busy_slots_per_decode", PER_STEP, "Sequences in a step, on average."),
    COUNTER("llamacpp:n_tokens_max", TOKENS_MAX, "Length of the longest sequence so far."),
    GAUGE("llamacpp:prompt_tokens_seconds", PREFILL_SPEED, "Prompt tokens computed per second."),
    GAUGE("llamacpp:predicted_tokens_seconds", DECODE_SPEED, "Tokens per second of an answer."),
    GAUGE("llamacpp:kv_cache_usage_ratio", CACHE_SHARE, "As vllm:kv_cache_usage_perc."),
    GAUGE("llamacpp:requests_processing", RUNNING, "As mlxcel_requests_running."),
    GAUGE("llamacpp:requests_deferred", WAITING, "As mlxcel_requests_waiting."),
};
const int n_metrics = COUNT(metric_table);

/* ---- the page ---- */

/* The first two numbers of /proc/self/statm are pages; nothing there leaves zeros. */
static void read_memory(struct metric_writer *w) {
    char text[MEMORY_TEXT_MAX];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text);
    if (fd >= 0) close(fd);
    struct str rest = { text, n > 0 ? (size_t)n : 0 };
    uint64_t pages[2] = { 0 }, page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < 2; i++) {
        const char *space = rest.len ? memchr(rest.at, ' ', rest.len) : NULL;
        size_t len = space ? (size_t)(space - rest.at) : 0;
        if (!str_u64(str_cut(rest, 0, len), UINT64_MAX / page, &pages[i])) return;
        rest = str_from(rest, len + 1);
    }
    w->virtual_bytes = pages[0] * page;
    w->memory_bytes = pages[1] * page;
}

static void read_engine(struct metric_writer *w) {
    const struct engine_stats *b = &w->m->base;
    w->open = metrics_has_engine(w->m);
    if (!w->open) return;
    struct engine_stats *e = &w->stats;
    *e = engine_stats(w->s->engine);
    e->preempted -= b->preempted;
    e->restarted -= b->restarted;
    e->tokens_prompt -= b->tokens_prompt;
    e->tokens_cached -= b->tokens_cached;
    e->tokens_generated -= b->tokens_generated;
    e->steps -= b->steps;
    e->rows -= b->rows;
    e->sequences -= b->sequences;
    e->step_s = MAX(e->step_s - b->step_s, 0);
}

void metrics_write(struct metrics *m, struct server *s, struct buf *out) {
    static const char *const kind[] = { "counter", "gauge", "histogram" };
    struct metric_writer w = { .out = out, .s = s, .m = m };
    struct buf labels = { 0 };
    put_label(&labels, "model_name", s->model);
    buf_str(&labels, S(",engine=\"0\""));
    snprintf(w.labels, sizeof w.labels, "%s", buf_c(&labels));
    buf_free(&labels);
    read_memory(&w);
    read_engine(&w);
    for (int i = 0; i < n_metrics; i++) {
        const struct metric *r = &metric_table[i];
        buf_format(out, "# HELP %s %s\n# TYPE %s %s\n", r->name, r->help, r->name, kind[r->kind]);
        r->write(&w, r);
    }
}

void metrics_page(struct exchange *x) {
    struct buf text = { 0 };
    metrics_write(x->server->metrics, x->server, &text);
    reply_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}
