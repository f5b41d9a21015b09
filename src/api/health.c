/* health.c - whether the server serves. */
#include "api/routes.h"
#include "api/server.h"

void health(struct exchange *x) {
    const struct server *s = x->server;
    struct buf json = { 0 };
    struct fault f = { .retry_after = 1 };
    switch (atomic_load(&s->state)) {
    case SERVER_READY:
        buf_str(&json, S("{\"status\":\"ok\"}"));
        reply_json(x, 200, &json);
        return;
    case SERVER_LOADING: fault_set(&f, 503, NULL, "Loading model"); break;
    case SERVER_DRAINING: fault_set(&f, 503, NULL, "the server is shutting down"); break;
    default: fault_set(&f, 503, NULL, "the device failed"); break;
    }
    reply_fault(x, &f);
}
