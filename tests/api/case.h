/* case.h - runs one file of tests/api/cases: what a client does, line by line, and what must come
 * back. tests/api/README.md describes the format.
 *
 * Everything is checked against bytes from a socket. The first thing that differs ends the case
 * with a sentence that names the line of the file. */
#pragma once
#include "pattern.h"
#include "server_process.h"

#include <fnmatch.h>
#include <stdarg.h>

enum { CASE_LINES = 2000, CASE_CLIENTS = 8, CASE_SECONDS = 30 };

struct case_client { char name[16]; struct client c; struct reply r; char pending[16]; };

struct case_run {
    const char *name;
    char *line[CASE_LINES]; int n_lines, at;
    int port;
    struct case_client client[CASE_CLIENTS]; int n_clients, on;
    struct pattern pattern;
    struct buf why;
    double seconds;                  /* for each wait */
};

static inline bool case_fail(struct case_run *k, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline bool case_fail(struct case_run *k, const char *format, ...) {
    char text[2048];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (!k->why.len) buf_format(&k->why, "%s:%d: %s", k->name, k->at + 1, text);
    return false;
}

/* ---- bytes ---- */

static inline int hex_digit(char c) {
    return isdigit((unsigned char)c) ? c - '0' : 10 + tolower((unsigned char)c) - 'a';
}

/* With `escapes` \r \n \t \0 \\ \@ \xHH; always @{N|TEXT}, which is TEXT N times. */
static inline void case_bytes(struct buf *to, struct str from, bool escapes) {
    for (size_t i = 0; i < from.len; i++) {
        const char *at = from.at + i, *end = memchr(at, '}', from.len - i);
        if (at[0] == '@' && i + 2 < from.len && at[1] == '{' && end &&
            isdigit((unsigned char)at[2])) {
            size_t n = 0;
            struct buf piece = { 0 };
            for (at += 2; isdigit((unsigned char)*at); at++) n = n * 10 + (size_t)(*at - '0');
            case_bytes(&piece, (struct str){ at + 1, (size_t)(end - at - 1) }, escapes);
            while (n--) buf_str(to, buf_view(&piece));
            buf_free(&piece);
            i = (size_t)(end - from.at);
        } else if (escapes && at[0] == '\\' && i + 1 < from.len) {
            static const char names[] = "rnt0\\@", bytes[] = "\r\n\t\0\\@";
            const char *name = memchr(names, at[1], sizeof names - 1);
            if (at[1] == 'x' && i + 3 < from.len) {
                buf_char(to, (char)(hex_digit(at[2]) << 4 | hex_digit(at[3])));
                i += 3;
            } else {
                buf_char(to, name ? bytes[name - names] : at[1]);
                i++;
            }
        } else {
            buf_char(to, at[0]);
        }
    }
}

static inline bool case_marks(const char *line) {
    return (strchr("<>~=", line[0]) && line[0]) || !strncmp(line, "!~", 2) ||
           !strncmp(line, "data", 4) || !strncmp(line, "text ", 5) || !strncmp(line, "# ", 2) ||
           !strcmp(line, "empty") || !strncmp(line, "comment", 7);
}

/* The lines from k->at to the next marker; k->at stays on the last of them. */
static inline void case_block(struct case_run *k, struct buf *to, const char *between) {
    for (; k->at < k->n_lines && !case_marks(k->line[k->at]); k->at++) {
        if (to->len && k->line[k->at][0]) buf_str(to, str_of(between));
        buf_str(to, str_of(k->line[k->at]));
    }
}

/* ---- what the client does ---- */

static inline struct case_client *case_client(struct case_run *k) { return &k->client[k->on]; }

static inline bool case_connect(struct case_run *k) {
    struct case_client *c = case_client(k);
    if (c->c.fd >= 0) return true;
    c->c.fd = client_connect(k->port, NULL);
    c->pending[0] = 0;
    reply_free(&c->r);
    return c->c.fd >= 0 || case_fail(k, "no connection");
}

struct case_request {
    struct buf head, body;
    bool escaped, no_host, no_type, no_length;
    int chunk;
};

static inline void case_header(struct case_request *q, const char *line) {
    if (!strcmp(line, ".escaped")) q->escaped = true;
    else if (!strcmp(line, ".no Host")) q->no_host = true;
    else if (!strcmp(line, ".no Content-Type")) q->no_type = true;
    else if (!strcmp(line, ".no Content-Length")) q->no_length = true;
    else if (!strncmp(line, ".chunked ", 9)) q->chunk = line[9] - '0';
    else {
        case_bytes(&q->head, str_of(line), true);
        buf_str(&q->head, S("\r\n"));
        if (!strncasecmp(line, "host:", 5)) q->no_host = true;
        if (!strncasecmp(line, "content-type:", 13)) q->no_type = true;
        if (!strncasecmp(line, "content-length:", 15)) q->no_length = true;
    }
}

static inline void case_chunks(struct buf *to, struct str body, int size) {
    for (size_t i = 0; i < body.len; i += (size_t)size) {
        struct str piece = str_cut(body, i, i + (size_t)size);
        buf_format(to, "%zx\r\n", piece.len);
        buf_str(to, piece);
        buf_str(to, S("\r\n"));
    }
    buf_str(to, S("0\r\n\r\n"));
}

/* "> POST /path" and its headers and body, into bytes. */
static inline void case_compose(struct case_run *k, struct buf *bytes) {
    struct case_request q = { 0 };
    struct buf text = { 0 };
    case_bytes(bytes, str_of(k->line[k->at] + 2), true);
    for (k->at++; k->at < k->n_lines && !strncmp(k->line[k->at], "> ", 2) &&
                  (strchr(k->line[k->at], ':') || k->line[k->at][2] == '.'); k->at++)
        case_header(&q, k->line[k->at] + 2);
    case_block(k, &text, q.escaped ? "" : "\n");
    case_bytes(&q.body, buf_view(&text), q.escaped);
    buf_str(bytes, S(" HTTP/1.1\r\n"));
    if (!q.no_host) buf_str(bytes, S("Host: localhost\r\n"));
    if (!q.no_type && q.body.len) buf_str(bytes, S("Content-Type: application/json\r\n"));
    if (q.chunk)
        buf_str(bytes, S("Transfer-Encoding: chunked\r\n"));
    else if (!q.no_length && (q.body.len || str_starts(buf_view(bytes), "P")))
        buf_format(bytes, "Content-Length: %zu\r\n", q.body.len);
    buf_str(bytes, buf_view(&q.head));
    buf_str(bytes, S("\r\n"));
    if (q.chunk)
        case_chunks(bytes, buf_view(&q.body), q.chunk);
    else
        buf_str(bytes, buf_view(&q.body));
    buf_free(&q.head), buf_free(&q.body), buf_free(&text);
    k->at--;
}

static inline bool case_request(struct case_run *k) {
    struct buf bytes = { 0 };
    if (!case_connect(k)) return false;
    struct case_client *c = case_client(k);
    size_t n = strlen(c->pending);
    if (n + 1 < sizeof c->pending) {
        c->pending[n] = k->line[k->at][2] == 'H' ? 'H' : 'G';
        c->pending[n + 1] = 0;
    }
    if (!strncmp(k->line[k->at], "> raw", 5)) {
        struct buf text = { 0 };
        k->at++;
        case_block(k, &text, "");
        case_bytes(&bytes, buf_view(&text), true);
        buf_free(&text);
        k->at--;
    } else {
        case_compose(k, &bytes);
    }
    client_send(&c->c, buf_view(&bytes), k->seconds);
    buf_free(&bytes);
    return true;
}

/* Reads until so many events of the reply are there. */
static inline bool case_read(struct case_run *k, int n) {
    struct case_client *c = case_client(k);
    struct str event;
    double until = clock_s() + k->seconds;
    while (n) {
        if (reply_event(&c->r, &event)) {
            n -= str_starts(event, "data");
            continue;
        }
        if (c->r.state == REPLY_DONE || c->r.state == REPLY_BAD)
            return case_fail(k, "the reply ended early: %.300s", buf_c(&c->r.body));
        enum client_more more = client_more(&c->c, until);
        if (more == CLIENT_LATE) return case_fail(k, "no event in time");
        if (more == CLIENT_END) reply_closed(&c->r);
        client_feed(&c->c, &c->r);
    }
    return true;
}

static inline void case_on(struct case_run *k, const char *name) {
    for (k->on = 0; k->on < k->n_clients; k->on++)
        if (!strcmp(k->client[k->on].name, name)) return;
    if (k->n_clients == CASE_CLIENTS) abort();
    struct case_client *c = &k->client[k->n_clients++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->c.fd = -1;
}

static inline int case_number(const char *at) {
    int n = 0;
    while (*at && !isdigit((unsigned char)*at)) at++;
    for (; isdigit((unsigned char)*at); at++) n = n * 10 + *at - '0';
    return n;
}

/* A line that begins with "> ", other than eventually. */
static inline bool case_act(struct case_run *k) {
    const char *what = k->line[k->at] + 2;
    struct case_client *c = case_client(k);
    if (!strncmp(what, "read ", 5)) return case_read(k, case_number(what));
    if (!strncmp(what, "on ", 3)) case_on(k, what + 3);
    else if (!strncmp(what, "wait ", 5)) usleep((unsigned)case_number(what) * 1000);
    else if (!strcmp(what, "close")) client_close(&c->c);
    else if (!strcmp(what, "reset")) client_reset(&c->c);
    else if (!strcmp(what, "half")) shutdown(c->c.fd, SHUT_WR);
    else return case_request(k);
    return true;
}

/* ---- what must come back ---- */

static inline bool case_status(struct case_run *k, struct case_client *c, const char *line) {
    char have[16];
    snprintf(have, sizeof have, "%d", c->r.status);
    if (c->r.state == REPLY_BAD && c->r.status == 0) {
        return strstr(line, "closed") && (!c->r.n_bytes || c->r.n_bytes == c->r.head.len)
                   ? true : case_fail(k, "wanted %s, but %s", line + 2, c->r.bad);
    }
    if (c->r.state == REPLY_BAD) return case_fail(k, "%d, then %s", c->r.status, c->r.bad);
    return strstr(line, have) ? true : case_fail(k, "status %d, wanted %s: %.600s", c->r.status,
                                                 line + 2, buf_c(&c->r.body));
}

/* "< name: glob", "< !name", "< closes", "< open" */
static inline bool case_head(struct case_run *k, struct case_client *c, const char *want) {
    char name[64], value[1024];
    if (!strcmp(want, "closes") || !strcmp(want, "open")) {
        bool closed = c->r.closes;
        while (closed && c->c.fd >= 0 && client_more(&c->c, clock_s() + 5) == CLIENT_DATA) continue;
        return closed == !strcmp(want, "closes") || case_fail(k, "not: %s", want);
    }
    if (want[0] == '!')
        return !reply_header(&c->r, want + 1).at || case_fail(k, "there is a header %s", want + 1);
    size_t n = strcspn(want, ":");
    snprintf(name, sizeof name, "%.*s", (int)n, want);
    struct str got = reply_header(&c->r, name);
    if (!got.at) return case_fail(k, "no header %s in\n%s", name, buf_c(&c->r.head));
    snprintf(value, sizeof value, "%.*s", (int)MIN(got.len, sizeof value - 1), got.at);
    return !fnmatch(want + n + 1 + (want[n + 1] == ' '), value, 0) ||
           case_fail(k, "%s: %s, wanted %s", name, value, want + n + 1);
}

static inline bool case_json(struct case_run *k, struct str want_text, struct str got_text,
                             bool quiet) {
    bool want_ok, got_ok;
    struct json_object *want = json_read(want_text, &want_ok);
    struct json_object *got = json_read(got_text, &got_ok);
    bool ok = true;
    if (!want_ok)
        ok = case_fail(k, "the pattern is no JSON: %.*s", STR_ARG(want_text));
    else if (!got_ok)
        ok = quiet ? false : case_fail(k, "not JSON: %.*s", STR_ARG(got_text));
    if (ok) {
        k->pattern.depth = 0;
        buf_clear(&k->pattern.why);
        ok = pattern_json(&k->pattern, want, got, "");
        if (!ok && !quiet) case_fail(k, "%s", buf_c(&k->pattern.why));
    }
    json_object_put(want), json_object_put(got);
    return ok;
}

/* The data of the next event that is no comment. Exactly one line "data: ...". */
static inline bool case_event(struct case_run *k, struct case_client *c, struct str *data) {
    struct str event;
    do {
        if (!reply_event(&c->r, &event)) return false;
    } while (event.len && event.at[0] == ':');
    if (!str_starts(event, "data: ") || memchr(event.at, '\n', event.len))
        return case_fail(k, "no event of one data line: %.*s", STR_ARG(event));
    *data = str_from(event, 6);
    return true;
}

static inline bool case_data_one(struct case_run *k, struct str want, struct str data, bool quiet) {
    if (!str_is(want, "[DONE]") && !str_is(data, "[DONE]"))
        return case_json(k, want, data, quiet);
    return str_eq(want, data) ||
           (quiet ? false : case_fail(k, "event %.*s, wanted %.*s", STR_ARG(data), STR_ARG(want)));
}

/* data P, data* P, data+ P; data end. A star takes as many as match. */
static inline bool case_data(struct case_run *k, struct case_client *c) {
    struct buf text = { 0 };
    char kind = k->line[k->at][4];
    bool ok = true, many = kind == '*' || kind == '+';
    buf_str(&text, str_of(k->line[k->at] + (many ? 6 : 5)));
    for (; k->at + 1 < k->n_lines && k->line[k->at + 1][0] == ' '; k->at++)
        buf_str(&text, str_of(k->line[k->at + 1]));
    struct str data, want = buf_view(&text);
    if (str_is(want, "end")) {
        ok = !case_event(k, c, &data) || case_fail(k, "one more event: %.*s", STR_ARG(data));
        if (ok && c->r.event_at != c->r.body.len) ok = case_fail(k, "half an event at the end");
    } else if (!many) {
        ok = case_event(k, c, &data) || case_fail(k, "no more events");
        ok = ok && case_data_one(k, want, data, false);
    } else {
        int n = 0;
        for (;; n++) {
            size_t back = c->r.event_at;
            if (!case_event(k, c, &data)) break;
            if (case_data_one(k, want, data, true)) continue;
            c->r.event_at = back;
            break;
        }
        ok = n || kind == '*' || case_fail(k, "no event such as %.*s", STR_ARG(want));
    }
    buf_free(&text);
    return ok && !k->why.len;
}

/* text PATH "...": the strings at PATH of the body, or of all events, put together. @N before the
 * path: only of events whose first choice has this index. */
static inline bool case_text(struct case_run *k, struct case_client *c) {
    struct buf all = { 0 }, quoted = { 0 };
    const char *at = k->line[k->at] + 5;
    char path[128];
    int only = -1;
    if (*at == '@') {
        only = case_number(at);
        at = strchr(at, ' ') + 1;
    }
    size_t n = strcspn(at, " ");
    snprintf(path, sizeof path, "%.*s", (int)n, at);
    struct str data;
    size_t keep = c->r.event_at;
    bool stream = c->r.body.len > 4 && !memcmp(c->r.body.at, "data", 4), more = true;
    for (c->r.event_at = 0; more; more = stream) {
        if (stream && !case_event(k, c, &data)) break;
        if (!stream) data = buf_view(&c->r.body);
        bool ok;
        struct json_object *o = json_read(data, &ok), *s = json_at(o, path);
        if (only < 0 || json_object_get_int(json_at(o, "choices.0.index")) == only)
            buf_str(&all, (struct str){ json_object_get_string(s),
                                        (size_t)json_object_get_string_len(s) });
        json_object_put(o);
    }
    c->r.event_at = keep;
    buf_json(&quoted, buf_view(&all));
    bool ok = case_json(k, str_of(at[n] ? at + n + 1 : ""), buf_view(&quoted), false);
    buf_free(&all), buf_free(&quoted);
    return ok;
}

static inline bool case_body(struct case_run *k, struct case_client *c) {
    const char *line = k->line[k->at];
    struct buf *body = &c->r.body;
    buf_c(body);
    if (!strncmp(line, "~ ", 2))
        return memmem(body->at, body->len, line + 2, strlen(line + 2)) ||
               case_fail(k, "no \"%s\" in %.1200s", line + 2, body->at);
    if (!strncmp(line, "!~ ", 3))
        return !memmem(body->at, body->len, line + 3, strlen(line + 3)) ||
               case_fail(k, "\"%s\" is in %.1200s", line + 3, body->at);
    if (!strncmp(line, "= ", 2))
        return str_is(buf_view(body), line + 2) || case_fail(k, "got %.1200s", body->at);
    if (!strcmp(line, "empty")) return !body->len || case_fail(k, "a body: %.300s", body->at);
    if (!strncmp(line, "comment", 7))
        return strstr(body->at, "\n: ") || body->at[0] == ':' || case_fail(k, "no comment");
    if (!strncmp(line, "data", 4)) return case_data(k, c);
    if (!strncmp(line, "text ", 5)) return case_text(k, c);
    if (line[0] == '#') return true;
    struct buf want = { 0 };
    case_block(k, &want, "\n");
    k->at--;
    bool ok = case_json(k, buf_view(&want), buf_view(body), false);
    buf_free(&want);
    return ok;
}

static inline bool case_new_step(const char *line) {
    return line[0] == '>' || (!strncmp(line, "< ", 2) && (isdigit((unsigned char)line[2]) ||
                                                          !strncmp(line, "< closed", 8)));
}

/* From "< STATUS" to the line before the next step; k->at ends on its last line. */
static inline bool case_expect(struct case_run *k) {
    struct case_client *c = case_client(k);
    if (c->c.fd < 0)
        return strstr(k->line[k->at], "closed") || case_fail(k, "the connection is closed");
    if (c->r.state == REPLY_DONE) reply_free(&c->r);
    c->r.to_head = c->pending[0] == 'H';
    if (c->pending[0]) memmove(c->pending, c->pending + 1, strlen(c->pending));
    client_reply(&c->c, &c->r, k->seconds);
    c->r.event_at = 0;
    bool ok = case_status(k, c, k->line[k->at]);
    while (ok && k->at + 1 < k->n_lines && !case_new_step(k->line[k->at + 1])) {
        const char *line = k->line[++k->at];
        if (!*line) continue;
        ok = line[0] == '<' ? case_head(k, c, line + 2) : case_body(k, c);
    }
    if (c->r.closes || c->r.state == REPLY_BAD) client_close(&c->c);
    return ok;
}

/* "> eventually GET /path" and what follows, again and again until it holds. */
static inline bool case_eventually(struct case_run *k) {
    char *line = k->line[k->at];
    int from = k->at;
    bool ok = false;
    memmove(line + 2, line + 13, strlen(line + 13) + 1);
    for (double until = clock_s() + k->seconds; !ok; usleep(20000)) {
        k->at = from;
        buf_clear(&k->why);
        ok = case_request(k) && ++k->at < k->n_lines && case_expect(k);
        if (ok || clock_s() > until) break;
        client_close(&case_client(k)->c);
    }
    return ok;
}

static inline bool case_step(struct case_run *k) {
    const char *line = k->line[k->at];
    if (!strncmp(line, "> eventually ", 13)) return case_eventually(k);
    if (!strncmp(line, "> ", 2)) return case_act(k);
    if (!strncmp(line, "< ", 2)) return case_expect(k);
    if (!*line || line[0] == '#' || !strncmp(line, "rows ", 5) || !strncmp(line, "serve", 5))
        return true;
    return case_fail(k, "a line of no kind: %s", line);
}

/* Cuts the file into lines, in place. */
static inline void case_lines(struct case_run *k, char *text) {
    for (char *end; *text && k->n_lines < CASE_LINES; text = end + 1) {
        end = strchr(text, '\n');
        k->line[k->n_lines++] = text;
        if (!end) break;
        *end = 0;
    }
}

/* False: k->why says where and why. */
static inline bool case_run(struct case_run *k) {
    case_on(k, "A");
    bool ok = true;
    for (k->at = 0; ok && k->at < k->n_lines; k->at++) ok = case_step(k);
    return ok;
}

static inline void case_free(struct case_run *k) {
    for (int i = 0; i < k->n_clients; i++) {
        client_close(&k->client[i].c);
        reply_free(&k->client[i].r);
    }
    pattern_free(&k->pattern);
    buf_free(&k->why);
}
