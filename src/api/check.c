/* check.c - what is wrong with a request before its body is read: framing, Host, key, path, method,
 * size and type. Each refusal is a fault; which one comes first is the same for every
 * path, so that a refusal tells a stranger nothing. */
#include "api/inflate.h"
#include "api/inside.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

const struct route *route_find(const struct server *s, struct str path) {
    const struct server_options *o = &s->options;
    if (o->prefix) {
        if (!str_starts(path, o->prefix)) return NULL;
        path = str_from(path, strlen(o->prefix));
    }
    for (int i = 0; i < n_routes; i++) {
        const struct route *r = &routes[i];
        size_t n = strlen(r->path);
        /* A path that ends in a slash and a star takes one more segment. */
        bool star = n > 2 && r->path[n - 1] == '*';
        if (star ? !(path.len >= n && !memcmp(path.at, r->path, n - 1)) : !str_is(path, r->path))
            continue;
        return r;
    }
    return NULL;
}

/* Left out by an option: whoever may ask is told which one, as a 404 would look like a typing
 * error. */
static bool check_offered(const struct exchange *x, struct fault *f) {
    const struct server_options *o = &x->server->options;
    unsigned flags = x->route->flags;
    const char *option = (flags & ROUTE_SLOTS) && o->no_slots ? "--no-slots"
                       : (flags & ROUTE_PROPS) && o->no_props ? "--no-props"
                       : (flags & ROUTE_METRICS) && o->no_metrics ? "--no-metrics" : NULL;
    return !option || fault_set(f, 403, NULL, "%.*s is left out by %s", STR_ARG(x->path), option);
}

const char *method_name(enum method m) {
    return m == METHOD_GET ? "GET" : m == METHOD_HEAD ? "HEAD" : m == METHOD_POST ? "POST"
           : "OPTIONS";
}

/* Headers that may come once only, and what came. */
struct headers {
    struct fault *fault;
    const char *length, *encoding, *host, *authorization, *x_api_key, *api_key, *type, *origin;
    const char *content_encoding, *expect, *priority;
    int n;
};

static void once(struct headers *h, const char **slot, const char *value, const char *name) {
    if (*slot) fault_set(h->fault, 400, name, "the header %s comes twice", name);
    *slot = value ? value : "";
}

static enum MHD_Result see(void *to, enum MHD_ValueKind kind, const char *key, const char *value) {
    struct headers *h = to;
    (void)kind;
    const struct { const char *name; const char **slot; } known[] = {
        { "Content-Length", &h->length }, { "Transfer-Encoding", &h->encoding },
        { "Host", &h->host }, { "Authorization", &h->authorization },
        { "X-Api-Key", &h->x_api_key }, { "Api-Key", &h->api_key }, { "Content-Type", &h->type },
        { "Origin", &h->origin }, { "Content-Encoding", &h->content_encoding },
        { "Expect", &h->expect }, { "X-Priority", &h->priority },
    };
    h->n++;
    for (const char *c = key; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            fault_set(h->fault, 400, NULL, "a header's name holds an illegal byte");
    if (!*key) fault_set(h->fault, 400, NULL, "a header has no name");
    for (size_t i = 0; i < COUNT(known); i++)
        if (!strcasecmp(key, known[i].name)) once(h, known[i].slot, value, known[i].name);
    return MHD_YES;
}

/* Two servers that disagree about where a body ends can be made to swap requests. */
static void check_framing(struct exchange *x, const struct headers *h) {
    struct fault *f = h->fault;
    uint64_t length = 0;
    for (const char *c = x->inside->conn->uri; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            fault_set(f, 400, NULL, "the target of the request holds a blank");
    if (h->length && !str_u64(str_of(h->length), UINT64_MAX, &length))
        fault_set(f, 400, "Content-Length", "Content-Length is not a number");
    if (h->encoding && (h->length || !x->inside->http11 || strcasecmp(h->encoding, "chunked")))
        fault_set(f, 400, "Transfer-Encoding", "this Transfer-Encoding is not understood");
    if (!h->host && x->inside->http11) fault_set(f, 400, "Host", "the header Host is missing");
    if (h->expect && strcasecmp(h->expect, "100-continue"))
        fault_set(f, 417, "Expect", "this expectation cannot be met");
    if (h->n > 64) fault_set(f, 431, NULL, "more than 64 headers");
    if (length > x->server->options.body_max)
        fault_set(f, 413, NULL, "the body has %llu bytes, more than the limit of %zu",
                  (unsigned long long)length, x->server->options.body_max);
}

static void check_type(struct exchange *x, const struct headers *h) {
    struct str type = str_of(h->type);
    size_t n = 0;
    while (n < type.len && type.at[n] != ';' && type.at[n] != ' ') n++;
    if (n != 16 || strncasecmp(type.at, "application/json", 16))
        fault_set(h->fault, 415, "Content-Type", "the body has to be application/json");
    const char *set = h->type ? strcasestr(h->type, "charset=") : NULL;
    if (set && strncasecmp(set + 8 + (set[8] == '"'), "utf-8", 5) &&
        strncasecmp(set + 8 + (set[8] == '"'), "us-ascii", 8))
        fault_set(h->fault, 415, "Content-Type", "the body has to be UTF-8");
    if (!inflate_knows(h->content_encoding))
        fault_set(h->fault, 415, "Content-Encoding", "the body has to be one of: %s",
                  inflate_names);
    else if (h->content_encoding)
        snprintf(x->inside->encoding, sizeof x->inside->encoding, "%s", h->content_encoding);
}

static void check_state(struct exchange *x, struct fault *f) {
    int state = atomic_load(&x->server->state);
    if (x->route->flags & ROUTE_LOADING) return;
    if (state == SERVER_LOADING) fault_set(f, 503, NULL, "Loading model");
    if (state == SERVER_DRAINING) fault_set(f, 503, NULL, "the server is shutting down");
    if (state == SERVER_FAILED) fault_set(f, 503, NULL, "the device failed");
    bool full = (x->route->flags & ROUTE_QUEUE) &&
                atomic_load(&x->server->n_running) >= x->server->options.queue_max;
    if (full) fault_set(f, 503, NULL, "the server is busy: its queue is full");
    if (f->status == 503 && !f->retry_after) f->retry_after = state == SERVER_LOADING ? 2 : 1;
}

bool check_request(struct exchange *x, const char *version) {
    struct inside *in = x->inside;
    struct fault *f = &in->refused;
    struct headers h = { .fault = f };
    in->http11 = !strcmp(version, "HTTP/1.1");
    if (!in->http11 && strcmp(version, "HTTP/1.0"))
        fault_set(f, 505, NULL, "only HTTP/1.0 and 1.1 are spoken here");
    MHD_get_connection_values(in->connection, MHD_HEADER_KIND, see, &h);
    if (!framing_is_plain(&in->conn->framing, in->conn->n_requests))
        fault_set(f, 400, NULL, "the lines of the head are malformed");
    check_framing(x, &h);
    if (h.priority) snprintf(x->priority, sizeof x->priority, "%s", h.priority);
    if (h.host && !access_host(x->server->access, h.host, in->conn->listener->local))
        fault_set(f, 403, "Host", "this Host is not served here");
    const char *origin = h.origin ? access_origin(x->server->access, h.origin) : NULL;
    if (origin) in->origin = mem_str(str_of(origin));
    x->route = route_find(x->server, x->path);
    if (f->status || x->method == METHOD_OPTIONS) return !f->status;
    if (!x->route || !(x->route->flags & ROUTE_OPEN)) {
        x->account = access_key(x->server->access, h.authorization, h.x_api_key, h.api_key);
        if (!x->account) return fault_set(f, 401, NULL, "the API key is missing or wrong");
    }
    if (!x->route)
        return fault_set(f, 404, NULL, "there is nothing at %.*s", STR_ARG(x->path));
    if (!check_offered(x, f)) return false;
    unsigned allowed = x->route->methods | (x->route->methods & METHOD_GET ? METHOD_HEAD : 0u);
    if (!(allowed & x->method))
        return fault_set(f, 405, NULL, "%.*s does not take %s", STR_ARG(x->path),
                         method_name(x->method));
    if (x->method == METHOD_POST) check_type(x, &h);
    check_state(x, f);
    return !f->status;
}
