/* offline.h - the server without sockets: a libmicrohttpd that is a table of callbacks, and one
 * client that hands bytes to them. For fuzzing and for tests of single fields.
 *
 * A program's own definitions come before a shared library's, so these are what api/ calls. Of the
 * library only what the server uses is here; an option that it does not know ends the program. */
#pragma once
#include "api/inside.h"
#include "scripted.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/socket.h>

/* ---- the library ---- */

enum { OFFLINE_HEADERS = 100, OFFLINE_BLOCK = 4096 };

struct MHD_Daemon {
    MHD_AccessHandlerCallback request; void *request_to;
    MHD_NotifyConnectionCallback connection; void *connection_to;
    MHD_RequestCompletedCallback completed; void *completed_to;
    void *(*uri)(void *, const char *, struct MHD_Connection *); void *uri_to;
};
static struct MHD_Daemon offline_daemon;

struct MHD_Response {
    int refs;
    struct buf body, headers;        /* "Name: value\n" */
    MHD_ContentReaderCallback read;
    MHD_ContentReaderFreeCallback done;
    void *to;
};

struct MHD_Connection {
    int fd[2];                       /* ours and the client's end of a pair of sockets */
    union MHD_ConnectionInfo info;
    void *socket_context, *request;
    struct { const char *name, *value; } header[OFFLINE_HEADERS]; int n_headers;
    struct MHD_Response *reply;
    int status;
    bool suspended;                  /* under the lock */
};
static pthread_mutex_t offline_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t offline_resumed = PTHREAD_COND_INITIALIZER;

static inline void offline_take(struct MHD_Daemon *d, enum MHD_OPTION option, void *call,
                                void *to) {
    if (option == MHD_OPTION_NOTIFY_CONNECTION) {
        *(void **)&d->connection = call;
        d->connection_to = to;
    } else if (option == MHD_OPTION_NOTIFY_COMPLETED) {
        *(void **)&d->completed = call;
        d->completed_to = to;
    } else if (option == MHD_OPTION_URI_LOG_CALLBACK) {
        *(void **)&d->uri = call;
        d->uri_to = to;
    }
}

struct MHD_Daemon *MHD_start_daemon(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback accept,
                                    void *accept_to, MHD_AccessHandlerCallback request, void *to,
                                    ...) {
    struct MHD_Daemon *d = &offline_daemon;
    va_list list;
    (void)flags, (void)port, (void)accept, (void)accept_to;
    *d = (struct MHD_Daemon){ .request = request, .request_to = to };
    va_start(list, to);
    for (int option; (option = va_arg(list, int)) != MHD_OPTION_END;) {
        switch (option) {
        case MHD_OPTION_EXTERNAL_LOGGER: case MHD_OPTION_UNESCAPE_CALLBACK:
        case MHD_OPTION_NOTIFY_CONNECTION: case MHD_OPTION_NOTIFY_COMPLETED:
        case MHD_OPTION_URI_LOG_CALLBACK: {
            void *call = va_arg(list, void *);
            offline_take(d, (enum MHD_OPTION)option, call, va_arg(list, void *));
            break;
        }
        case MHD_OPTION_CONNECTION_MEMORY_LIMIT: (void)va_arg(list, size_t); break;
        case MHD_OPTION_LISTEN_SOCKET: case MHD_OPTION_CONNECTION_LIMIT:
        case MHD_OPTION_CONNECTION_TIMEOUT: case MHD_OPTION_STRICT_FOR_CLIENT:
        case MHD_OPTION_LISTEN_BACKLOG_SIZE: case MHD_OPTION_LISTENING_ADDRESS_REUSE:
            (void)va_arg(list, int);
            break;
        default:
            fprintf(stderr, "offline.h does not know libmicrohttpd's option %d\n", option);
            abort();
        }
    }
    va_end(list);
    return d;
}

void MHD_stop_daemon(struct MHD_Daemon *d) { (void)d; }
MHD_socket MHD_quiesce_daemon(struct MHD_Daemon *d) {
    (void)d;
    return MHD_INVALID_SOCKET;
}

const union MHD_ConnectionInfo *MHD_get_connection_info(struct MHD_Connection *c,
                                                        enum MHD_ConnectionInfoType what, ...) {
    if (what == MHD_CONNECTION_INFO_CONNECTION_FD) c->info.connect_fd = c->fd[0];
    else if (what == MHD_CONNECTION_INFO_SOCKET_CONTEXT) c->info.socket_context = c->socket_context;
    else return NULL;
    return &c->info;
}

enum MHD_Result MHD_set_connection_option(struct MHD_Connection *c, enum MHD_CONNECTION_OPTION o,
                                          ...) {
    (void)c, (void)o;
    return MHD_YES;
}

const char *MHD_lookup_connection_value(struct MHD_Connection *c, enum MHD_ValueKind kind,
                                        const char *name) {
    (void)kind;
    for (int i = 0; c && i < c->n_headers; i++)
        if (!strcasecmp(c->header[i].name, name)) return c->header[i].value;
    return NULL;
}

int MHD_get_connection_values(struct MHD_Connection *c, enum MHD_ValueKind kind,
                              MHD_KeyValueIterator see, void *to) {
    int n = 0;
    for (; n < c->n_headers; n++)
        if (see(to, kind, c->header[n].name, c->header[n].value) != MHD_YES) break;
    return n;
}

struct MHD_Response *MHD_create_response_from_buffer(size_t size, void *bytes,
                                                     enum MHD_ResponseMemoryMode mode) {
    struct MHD_Response *r = mem_new(sizeof *r);
    r->refs = 1;
    buf_put(&r->body, bytes, size);
    if (mode == MHD_RESPMEM_MUST_FREE) free(bytes);
    return r;
}

struct MHD_Response *MHD_create_response_from_callback(uint64_t size, size_t block,
                                                       MHD_ContentReaderCallback read, void *to,
                                                       MHD_ContentReaderFreeCallback done) {
    struct MHD_Response *r = mem_new(sizeof *r);
    (void)size, (void)block;
    *r = (struct MHD_Response){ .refs = 1, .read = read, .to = to, .done = done };
    return r;
}

enum MHD_Result MHD_add_response_header(struct MHD_Response *r, const char *name,
                                        const char *value) {
    if (strpbrk(name, "\r\n") || strpbrk(value, "\r\n")) return MHD_NO;
    buf_format(&r->headers, "%s: ", name);
    buf_str(&r->headers, str_of(value));
    buf_char(&r->headers, '\n');
    return MHD_YES;
}

void MHD_destroy_response(struct MHD_Response *r) {
    pthread_mutex_lock(&offline_lock);
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&offline_lock);
    if (!last) return;
    if (r->done) r->done(r->to);
    buf_free(&r->body);
    buf_free(&r->headers);
    free(r);
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *c, unsigned status,
                                   struct MHD_Response *r) {
    pthread_mutex_lock(&offline_lock);
    r->refs++;
    pthread_mutex_unlock(&offline_lock);
    if (c->reply) abort();             /* two replies to one request */
    c->reply = r;
    c->status = (int)status;
    return MHD_YES;
}

void MHD_suspend_connection(struct MHD_Connection *c) {
    pthread_mutex_lock(&offline_lock);
    c->suspended = true;
    pthread_mutex_unlock(&offline_lock);
}

void MHD_resume_connection(struct MHD_Connection *c) {
    pthread_mutex_lock(&offline_lock);
    c->suspended = false;
    pthread_cond_signal(&offline_resumed);
    pthread_mutex_unlock(&offline_lock);
}

/* ---- the client ---- */

struct offline_reply { int status; struct buf headers, body; bool stream, cut; };

static inline void offline_reply_free(struct offline_reply *r) {
    buf_free(&r->headers);
    buf_free(&r->body);
}

static inline void offline_wait(struct MHD_Connection *c) {
    pthread_mutex_lock(&offline_lock);
    while (c->suspended) pthread_cond_wait(&offline_resumed, &offline_lock);
    pthread_mutex_unlock(&offline_lock);
}

/* All of a reply, or so many bytes of a stream; the client then leaves. */
static inline void offline_read(struct MHD_Connection *c, struct offline_reply *out, size_t max) {
    struct MHD_Response *r = c->reply;
    char block[OFFLINE_BLOCK];
    out->status = c->status;
    out->stream = r->read != NULL;
    buf_str(&out->headers, buf_view(&r->headers));
    buf_str(&out->body, buf_view(&r->body));
    while (r->read) {
        ssize_t n = r->read(r->to, out->body.len, block, sizeof block);
        if (n < 0) {
            out->cut = n != MHD_CONTENT_READER_END_OF_STREAM;
            return;
        }
        buf_put(&out->body, block, (size_t)n);
        out->cut = out->body.len > max;
        if (out->cut) return;
        if (!n) offline_wait(c);
    }
}

/* A text without NUL, in place; NULL: it has one. */
static inline char *offline_line(char **text, char *end) {
    char *line = *text, *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop) return NULL;
    *text = stop + 1;
    *stop = 0;
    if (stop > line && stop[-1] == '\r') stop[-1] = 0;
    return strlen(line) + 2 < (size_t)(stop - line) ? NULL : line;
}

/* The head, as the library would give it. False: it would refuse it itself. */
static inline bool offline_head(struct MHD_Connection *c, char **text, char *end, char **word) {
    char *line = offline_line(text, end);
    for (int i = 0; i < 3; i++) {
        if (!line || !*line || *line == ' ') return false;
        word[i] = line;
        line = strchr(line, ' ');
        if (line) *line++ = 0;
    }
    if (line || strncmp(word[2], "HTTP/", 5) != 0) return false;
    while ((line = offline_line(text, end)) && *line) {
        char *colon = strchr(line, ':');
        if (!colon || colon == line || c->n_headers == OFFLINE_HEADERS - 1) return false;
        *colon++ = 0;
        while (*colon == ' ' || *colon == '\t') colon++;
        c->header[c->n_headers].name = line;
        c->header[c->n_headers++].value = colon;
    }
    return line != NULL;
}

/* What the library does with a request whose head it took. */
static inline void offline_run(struct MHD_Connection *c, char **word, char *body, size_t len) {
    struct MHD_Daemon *d = &offline_daemon;
    size_t none = 0;
    enum MHD_Result go = d->request(d->request_to, c, word[1], word[0], word[2], NULL, &none,
                                    &c->request);
    for (size_t at = 0; go == MHD_YES && !c->reply && at < len;) {
        size_t n = MIN(len - at, (size_t)1 + len / 3), left = n;
        go = d->request(d->request_to, c, word[1], word[0], word[2], body + at, &left, &c->request);
        at += n - left;
    }
    while (go == MHD_YES && !c->reply) {
        go = d->request(d->request_to, c, word[1], word[0], word[2], NULL, &none, &c->request);
        offline_wait(c);
    }
}

/* One request on a connection of its own; the bytes are changed. `body_max`: of a stream, then the
 * client leaves. False: libmicrohttpd would not have shown it to the server. */
static inline bool offline_ask(char *text, size_t len, size_t body_max,
                               struct offline_reply *out) {
    struct MHD_Daemon *d = &offline_daemon;
    struct MHD_Connection c = { 0 };
    char *word[3], *at = text, length[24];
    if (!offline_head(&c, &at, text + len, word)) return false;
    len -= (size_t)(at - text);
    if (len && !MHD_lookup_connection_value(&c, MHD_HEADER_KIND, "Content-Length") &&
        !MHD_lookup_connection_value(&c, MHD_HEADER_KIND, "Transfer-Encoding")) {
        snprintf(length, sizeof length, "%zu", len);
        c.header[c.n_headers].name = "Content-Length";
        c.header[c.n_headers++].value = length;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, c.fd)) abort();
    d->connection(d->connection_to, &c, &c.socket_context, MHD_CONNECTION_NOTIFY_STARTED);
    d->uri(d->uri_to, word[1], &c);
    offline_run(&c, word, at, len);
    if (c.reply) offline_read(&c, out, body_max);
    if (c.reply) MHD_destroy_response(c.reply);
    d->completed(d->completed_to, &c, &c.request,
                 !c.reply || out->cut ? MHD_REQUEST_TERMINATED_WITH_ERROR
                                      : MHD_REQUEST_TERMINATED_COMPLETED_OK);
    d->connection(d->connection_to, &c, &c.socket_context, MHD_CONNECTION_NOTIFY_CLOSED);
    close(c.fd[0]);
    close(c.fd[1]);
    return true;
}

/* ---- what every reply must be ---- */

static inline const char *offline_wrong_error(const struct offline_reply *r, bool all_keys) {
    struct json_object *o = json_tokener_parse(r->body.at), *error = NULL, *v = NULL;
    const char *wrong = NULL;
    if (!json_object_object_get_ex(o, "error", &error)) wrong = "no error in the body";
    else if (!json_object_object_get_ex(error, "message", &v) || !json_object_get_string_len(v))
        wrong = "an error without a message";
    else if (!json_object_object_get_ex(error, "type", &v) ||
             !json_object_is_type(v, json_type_string)) wrong = "an error without a type";
    else if (!json_object_object_get_ex(error, "code", &v)) wrong = "an error without a code";
    else if (all_keys && !json_object_object_get_ex(error, "param", &v))
        wrong = "an error without a param";
    json_object_put(o);
    return wrong;
}

/* Events that are objects, one a line, comments, and an end. */
static inline const char *offline_wrong_stream(struct str s, bool cut) {
    while (s.len) {
        const char *end = memmem(s.at, s.len, "\n\n", 2);
        if (!end) return cut ? NULL : "a stream that ends inside of an event";
        struct str event = str_cut(s, 0, (size_t)(end - s.at));
        s = str_from(s, event.len + 2);
        if (str_starts(event, ":") || str_is(event, "data: [DONE]")) continue;
        if (!str_starts(event, "data: ") || memchr(event.at, '\n', event.len))
            return "an event that is no single data line";
        struct fault f = { 0 };
        struct json_object *o = body_parse(str_from(event, 6), &f);
        if (!o) return "an event that is no object";
        json_object_put(o);
    }
    return NULL;
}

/* NULL, or what is wrong with it. */
static inline const char *offline_wrong(struct offline_reply *r) {
    struct str type = buf_view(&r->headers);
    buf_c(&r->body);
    if (!strstr(buf_c(&r->headers), "x-request-id: ")) return "no id";
    if (r->status == 500) return "a fault of ours";
    if (r->stream) return r->status == 200 ? offline_wrong_stream(buf_view(&r->body), r->cut)
                                           : "a stream with another status";
    if (!memmem(type.at, type.len, "application/json", 16))
        return r->status >= 400 ? "an error that is not JSON" : NULL;
    struct json_object *o = json_tokener_parse(buf_c(&r->body));
    if (!o) return "a body that is no JSON";
    json_object_put(o);
    return r->status >= 400 ? offline_wrong_error(r, false) : NULL;
}

/* ---- a server for all requests of the program ---- */

static struct server *offline_server;
static struct engine *offline_engine;
static struct sample_params offline_sampling;

static inline void *offline_serve(void *to) {
    struct err err = { 0 };
    (void)to;
    if (!server_serve(offline_server, offline_engine, &offline_sampling, &err)) abort();
    return NULL;
}

/* The scripted model with a short context; its loop runs until the program ends. */
static inline void offline_open(void) {
    static pthread_t loop;
    struct err err = { 0 };
    struct buf dir = { 0 }, path = { 0 };
    char *home = temp_dir();
    scripted_write(home);
    buf_format(&dir, "%s/scripted", home);
    buf_format(&path, "unix:%s/socket", home);
    struct engine_options e = { .dir = buf_c(&dir), .isa = "generic", .threads = 1, .context = 96,
                                .f32 = true };
    const char *hosts[] = { buf_c(&path) };
    struct server_options o = { .host = hosts, .n_hosts = 1, .model_path = "scripted",
                                .quiet = true };
    offline_engine = engine_open(&e, &err);
    offline_server = offline_engine ? server_open(&o, &err) : NULL;
    if (!offline_server) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    offline_sampling = engine_sampling(offline_engine);
    offline_sampling.temperature = 0;
    temp_free(home);
    buf_free(&dir);
    buf_free(&path);
    if (pthread_create(&loop, NULL, offline_serve, NULL)) abort();
    while (atomic_load(&offline_server->state) != SERVER_READY) usleep(1000);
}
