/* health.c - whether the server serves: /health as llama-server has it, /readyz and /livez as
 * Kubernetes asks, and the front page. They look at published numbers only, so a busy engine
 * answers as fast as an idle one. */
#include "api/routes.h"
#include "api/server.h"

/* Seconds for which the engine has been inside of one step, or 0. */
static double stuck_for(const struct server *s, const struct engine_stats *e) {
    double age = clock_s() - e->heartbeat_s;
    return e->stepping && age > s->options.stuck_s ? age : 0;
}

/* Zeros before there is an engine. */
static struct engine_stats stats(const struct server *s) {
    return metrics_has_engine(s->metrics) ? engine_stats(s->engine) : (struct engine_stats){ 0 };
}

bool server_stuck(const struct server *s) {
    struct engine_stats e = stats(s);
    return stuck_for(s, &e) > 0;
}

/* The engine itself is asked, as the server's state changes only once every request was told. */
static bool failing(const struct server *s, struct fault *f) {
    struct engine_stats e = stats(s);
    double age = stuck_for(s, &e);
    if (e.failed) return fault_set(f, 503, NULL, "the device failed");
    if (age > 0) return fault_set(f, 503, NULL, "the engine has not ended a step for %.0f s", age);
    return true;
}

static bool serving(const struct server *s, struct fault *f) {
    int state = atomic_load(&s->state);
    if (state == SERVER_LOADING) return fault_set(f, 503, NULL, "Loading model");
    if (state == SERVER_DRAINING)
        return fault_set(f, 503, NULL, "the server is shutting down");
    return failing(s, f);
}

static void answer(struct exchange *x, bool well, struct fault *f) {
    const struct server *s = x->server;
    struct buf json = { 0 };
    if (well) {
        buf_str(&json, S("{\"status\":\"ok\"}"));
        reply_json(x, 200, &json);
        return;
    }
    bool loading = atomic_load(&s->state) == SERVER_LOADING;
    f->retry_after = loading ? 2 : 1;
    f->progress = loading ? MAX(atomic_load(&s->progress), 1) : 0;
    reply_fault(x, f);
}

void health(struct exchange *x) {
    struct fault f = { 0 };
    bool well = serving(x->server, &f);
    answer(x, well, &f);
}

/* While loading and draining nothing is wrong: a restart would not help. */
void livez(struct exchange *x) {
    struct fault f = { 0 };
    bool well = failing(x->server, &f);
    answer(x, well, &f);
}

/* Also: the queue has room, so that a balancer sends the next request elsewhere. */
void readyz(struct exchange *x) {
    struct server *s = x->server;
    struct fault f = { 0 };
    bool well = serving(s, &f);
    if (well && atomic_load(&s->n_running) >= s->options.queue_max)
        well = fault_set(&f, 503, NULL, "the server is busy: its queue is full");
    answer(x, well, &f);
}

/* For whoever opens the address in a browser, and for clients that only ask for a 200. */
void front_page(struct exchange *x) {
    const char *prefix = x->server->options.prefix ? x->server->options.prefix : "";
    struct buf text = { 0 };
    buf_str(&text, S("mlxcel is running. It serves a language model; the routes:\n\n"));
    for (int i = 0; i < n_routes; i++)
        buf_format(&text, "%-5s%s%-24s  %s\n", routes[i].methods & METHOD_POST ? "POST" : "GET",
                   prefix, routes[i].path, routes[i].help);
    buf_format(&text, "\nWith OpenAI's clients the base URL is this address with %s/v1. More is in "
               "docs/server.md and in 'mlxcel serve --help'.\n", prefix);
    reply_text(x, 200, "text/plain; charset=utf-8", &text);
}
