/* framing.c - follows requests through the bytes of a connection, and lends libmicrohttpd a recv
 * that shows them. It decides nothing but whether a head is plain: what cannot be followed makes
 * the next head one that is not served. */
#include "api/framing.h"

#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { FDS_MAX = 1 << 20 };

/* ---- lines ---- */

/* This head is not to be served, or from the next one on; and nothing after it is looked at. */
static void lose(struct framing *f, bool with_this) {
    f->bad_from = f->n_heads + !with_this;
    f->part = FRAME_LOST;
}

static bool in_head(const struct framing *f) {
    return f->part == FRAME_LINE;
}

/* What stands after the name and the colon, without blanks around it; at NULL: another header, or a
 * line that is longer than is kept. */
static struct str value_of(const struct framing *f, const char *name) {
    size_t n = strlen(name);
    struct str s = { f->line, f->line_len };
    bool same = s.len <= sizeof f->line && s.len > n && s.at[n] == ':' &&
                !strncasecmp(s.at, name, n);
    if (!same) return (struct str){ 0 };
    s = str_from(s, n + 1);
    while (s.len && (*s.at == ' ' || *s.at == '\t')) s = str_from(s, 1);
    while (s.len && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t')) s.len--;
    return s;
}

static bool is_named(const struct framing *f, const char *name) {
    size_t n = strlen(name);
    return f->line_len > n && f->line[n] == ':' && !strncasecmp(f->line, name, n);
}

/* check.c refuses what is odd here in words of its own, so it is only not followed. */
static void read_header(struct framing *f) {
    if (is_named(f, "Content-Length")) {
        f->unclear |= f->has_length || f->chunked;
        f->has_length = true;
        f->unclear |= !str_u64(value_of(f, "Content-Length"), INT64_MAX, &f->left);
    } else if (is_named(f, "Transfer-Encoding")) {
        struct str v = value_of(f, "Transfer-Encoding");
        f->unclear |= f->has_length || f->chunked;
        f->chunked = true;
        f->unclear |= v.len != 7 || strncasecmp(v.at, "chunked", 7);
    }
}

static void begin_line(struct framing *f) {
    f->line_len = 0;
    f->cr = false;
}

static void end_head(struct framing *f) {
    if (f->unclear) {
        lose(f, false);
        return;
    }
    f->part = f->chunked ? FRAME_SIZE : f->left ? FRAME_BODY : FRAME_START;
    f->first = true;
}

/* A line of the head or of the trailer, without its end. An empty one is the last. */
static void take_line(struct framing *f) {
    bool head = in_head(f);
    if (!f->line_len && head) end_head(f);
    else if (!f->line_len) f->part = FRAME_START;
    else if (head && !f->first) read_header(f);
    if (f->line_len) f->first = false;
    begin_line(f);
}

/* Ends of lines are of one kind within a head, since readers disagree about the others. */
static void end_line(struct framing *f) {
    char end = f->cr ? '\r' : '\n';
    if (!f->end) f->end = end;
    if (f->end != end) lose(f, in_head(f));
    else take_line(f);
}

static void see_line(struct framing *f, char c) {
    if (c == '\n') {
        end_line(f);
        return;
    }
    bool begins = !f->line_len && !f->first;
    if (f->cr || !c || (begins && (c == ':' || c == ' ' || c == '\t'))) {
        lose(f, in_head(f));
        return;
    }
    f->cr = c == '\r';
    if (f->cr) return;
    if (f->line_len < sizeof f->line) f->line[f->line_len] = c;
    f->line_len++;
}

/* ---- bodies ---- */

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "1a2b", perhaps "; an extension", CRLF. */
static void see_size(struct framing *f, char c) {
    int digit = hex(c);
    if (c == '\n' && f->cr && f->line_len) {
        f->part = f->left ? FRAME_CHUNK : FRAME_TRAILER;
        f->end = 0;
        f->first = false;
        begin_line(f);
    } else if (f->cr || c == '\n' || !c) {
        lose(f, false);
    } else if (c == '\r') {
        f->cr = true;
    } else if (f->line_len && f->line[0] == ';') {
        f->line_len++;
    } else if (f->line_len && (c == ';' || c == ' ' || c == '\t')) {
        f->line[0] = ';';
    } else if (digit < 0 || f->left >> 59) {
        lose(f, false);
    } else {
        f->line[0] = c;
        f->line_len++;
        f->left = f->left << 4 | (unsigned)digit;
    }
}

static void see_chunk_end(struct framing *f, char c) {
    if (c == '\r' && !f->cr) {
        f->cr = true;
    } else if (c == '\n' && f->cr) {
        f->part = FRAME_SIZE;
        begin_line(f);
    } else {
        lose(f, false);
    }
}

/* How many bytes of the body are there; it may end with them. */
static size_t skip(struct framing *f, size_t n) {
    size_t some = f->left < n ? (size_t)f->left : n;
    f->left -= some;
    if (f->left) return some;
    f->part = f->part == FRAME_BODY ? FRAME_START : FRAME_CHUNK_END;
    begin_line(f);
    return some;
}

/* Empty lines before a request are skipped, as the library does. */
static void see_start(struct framing *f, char c) {
    if (c == '\r' || c == '\n') return;
    uint64_t n = f->n_heads + 1;
    *f = (struct framing){ .part = FRAME_LINE, .n_heads = n, .first = true };
    see_line(f, c);
}

void framing_see(struct framing *f, const char *bytes, size_t n) {
    for (size_t i = 0; i < n && f->part != FRAME_LOST;) {
        if (f->part == FRAME_BODY || f->part == FRAME_CHUNK) {
            i += skip(f, n - i);
            continue;
        }
        char c = bytes[i++];
        if (f->part == FRAME_START) see_start(f, c);
        else if (f->part == FRAME_SIZE) see_size(f, c);
        else if (f->part == FRAME_CHUNK_END) see_chunk_end(f, c);
        else see_line(f, c);
    }
}

bool framing_is_plain(const struct framing *f, int64_t number) {
    return !f->bad_from || number < (int64_t)f->bad_from;
}

/* ---- the library's recv ---- */

/* By descriptor. Each place is written and read by the I/O thread that has the connection. */
static _Atomic(struct framing *) watched[FDS_MAX];

bool framing_watch(int fd, struct framing *f) {
    if (fd < 0 || fd >= FDS_MAX) return false;
    atomic_store_explicit(&watched[fd], f, memory_order_relaxed);
    return true;
}

void framing_forget(int fd) {
    if (fd >= 0 && fd < FDS_MAX) atomic_store_explicit(&watched[fd], NULL, memory_order_relaxed);
}

/* A program's definition of a function comes before that of a shared library, so this is what
 * libmicrohttpd calls, and everybody else: for them it is recv. */
ssize_t recv(int fd, void *to, size_t n, int flags) {
    ssize_t got = recvfrom(fd, to, n, flags, NULL, NULL);
    struct framing *f = fd >= 0 && fd < FDS_MAX && got > 0 && !(flags & MSG_PEEK)
                      ? atomic_load_explicit(&watched[fd], memory_order_relaxed) : NULL;
    if (f) framing_see(f, to, (size_t)got);
    return got;
}
