/* request_log.c - the line that says how a request went: never what was in it. */
#include "api/inside.h"
#include "base/log.h"

void request_log(struct server *s, const struct exchange *x, int status) {
    if (s->options.quiet) return;
    log_line(LOG_INFO, "%s %s %.*s %d %.1f ms %s", x->inside->conn->peer, method_name(x->method),
             STR_ARG(x->path), status, (clock_s() - x->begun_s) * 1e3, x->request_id);
}
