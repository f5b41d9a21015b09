/* buf.c - a growing byte buffer with a limit and a sticky error. */
#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Room for n more bytes and a terminator; false sets the sticky error. */
static bool room(struct buf *b, size_t n) {
    size_t need;
    if (!b->failed && !b->max && n < b->cap - b->len) return true;
    if (b->failed || !add_size(b->len, n, &need) || need >= SIZE_MAX / 2 ||
        (b->max && need > b->max)) {
        b->failed = true;
        return false;
    }
    if (need + 1 > b->cap) {
        b->cap = MAX(need + 1, b->cap + b->cap / 2 + 32);
        b->at = mem_grow(b->at, b->cap, 1);
    }
    return true;
}

void buf_put(struct buf *b, const void *bytes, size_t n) {
    if (!n || !room(b, n)) return;
    memcpy(b->at + b->len, bytes, n);
    b->len += n;
}

void buf_str(struct buf *b, struct str s) {
    buf_put(b, s.at, s.len);
}

void buf_char(struct buf *b, char c) {
    buf_put(b, &c, 1);
}

void buf_format(struct buf *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && room(b, (size_t)n)) {
        vsnprintf(b->at + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
}

void buf_json(struct buf *b, struct str s) {
    buf_char(b, '"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];
        switch (c) {
        case '"':  buf_str(b, S("\\\"")); break;
        case '\\': buf_str(b, S("\\\\")); break;
        case '\n': buf_str(b, S("\\n"));  break;
        case '\r': buf_str(b, S("\\r"));  break;
        case '\t': buf_str(b, S("\\t"));  break;
        default:
            if (c < 0x20 || c == 0x7f) buf_format(b, "\\u%04x", c);
            else buf_char(b, (char)c);
        }
    }
    buf_char(b, '"');
}

const char *buf_c(struct buf *b) {
    if (!b->at) {
        b->cap = 32;
        b->at = mem_new(b->cap);
    }
    b->at[b->len] = 0;                 /* room() always keeps a byte for it */
    return b->at;
}

struct str buf_view(const struct buf *b) {
    return (struct str){ b->at, b->len };
}

void buf_clear(struct buf *b) {
    b->len = 0;
    b->failed = false;
}

void buf_free(struct buf *b) {
    free(b->at);
    *b = (struct buf){ .max = b->max };
}

static bool read_all(struct buf *b, int fd, const char *path, size_t size, struct err *err) {
    if (!room(b, size)) return err_set(err, "%s: too large (%zu bytes)", path, size);
    mem_filled_soon(b->at, b->cap);
    for (size_t left = size; left;) {
        ssize_t n = read(fd, b->at + b->len, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, "%s: %s", path, strerror(errno));
        if (!n) return err_set(err, "%s: became shorter while it was read", path);
        b->len += (size_t)n;
        left -= (size_t)n;
    }
    return true;
}

bool buf_read_file(struct buf *b, const char *path, size_t max, struct err *err) {
    struct stat st;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return err_set(err, "%s: %s", path, strerror(errno));
    bool ok = false;
    if (fstat(fd, &st) < 0) err_set(err, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode)) err_set(err, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > max)
        err_set(err, "%s: %lld bytes, more than the limit of %zu", path, (long long)st.st_size,
                max);
    else ok = read_all(b, fd, path, (size_t)st.st_size, err);
    close(fd);
    return ok;
}
