/* request_log.c - the line that says how a request went: never what was in it.
 *
 * Neither bodies nor queries nor headers are looked at here, so neither a prompt nor a key can get
 * into a log; of what a client chose, the path, the model's name and the id stand in it. */
#include "api/inside.h"
#include "base/log.h"

enum { FIELDS_MAX = 20 };

struct fields_out { struct log_field at[FIELDS_MAX]; int n; };

static void put_text(struct fields_out *f, const char *name, struct str text) {
    if (text.len) f->at[f->n++] = (struct log_field){ .name = name, .text = text };
}

static void put_number(struct fields_out *f, const char *name, double n) {
    f->at[f->n++] = (struct log_field){ .name = name, .number = n };
}

static void put_ms(struct fields_out *f, const char *name, double seconds) {
    put_number(f, name, seconds * 1e3);
}

/* Probes and scrapes come every few seconds for as long as the server runs. */
static enum log_level level_of(const struct exchange *x, int status) {
    bool probe = x->route && x->route->flags & (ROUTE_OPEN | ROUTE_METRICS);
    if (status == 500) return LOG_ERROR;
    return probe && status != 401 ? LOG_DEBUG : LOG_INFO;
}

void request_log(struct server *s, const struct exchange *x, int status) {
    struct fields_out f = { 0 };
    enum log_level level = level_of(x, status);
    if (s->options.quiet && level != LOG_ERROR) return;
    put_text(&f, "id", str_of(x->request_id));
    put_text(&f, "peer", str_of(x->inside->conn->peer));
    put_text(&f, "method", str_of(x->inside->method));
    put_text(&f, "path", x->path);
    put_number(&f, "status", status);
    put_ms(&f, "ms", clock_s() - x->begun_s);
    /* What a client left behind may still be worked on, by threads that write the rest. */
    bool over = status != 499;
    if (over) put_text(&f, "model", str_of(*x->model || !x->finish ? x->model : s->model));
    if (over && x->finish) {
        put_number(&f, "tokens_in", x->n_prompt);
        put_number(&f, "tokens_cached", x->n_cached);
        put_number(&f, "tokens_out", x->n_generated);
        put_ms(&f, "queue_ms", x->queue_s);
        put_ms(&f, "prefill_ms", x->prefill_s);
        put_ms(&f, "decode_ms", x->decode_s);
        if (x->n_generated) put_ms(&f, "ttft_ms", x->first_token_s);
        put_text(&f, "finish", str_of(x->finish));
    }
    log_fields(level, "request", f.at, f.n);
}
