/* base.c - strings as views, errors as sentences, checked arithmetic. */
#include "base/base.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct str str_of(const char *c) {
    return (struct str){ c, c ? strlen(c) : 0 };
}

bool str_eq(struct str a, struct str b) {
    return a.len == b.len && (!a.len || !memcmp(a.at, b.at, a.len));
}

bool str_is(struct str s, const char *c) {
    return str_eq(s, str_of(c));
}

bool str_starts(struct str s, const char *prefix) {
    size_t n = strlen(prefix);
    return s.len >= n && (!n || !memcmp(s.at, prefix, n));
}

bool str_ends(struct str s, const char *suffix) {
    size_t n = strlen(suffix);
    return s.len >= n && (!n || !memcmp(s.at + s.len - n, suffix, n));
}

struct str str_cut(struct str s, size_t begin, size_t end) {
    end = MIN(end, s.len);
    begin = MIN(begin, end);
    return (struct str){ s.at ? s.at + begin : NULL, end - begin };
}

struct str str_from(struct str s, size_t begin) {
    return str_cut(s, begin, s.len);
}

bool str_u64(struct str s, uint64_t max, uint64_t *out) {
    uint64_t v = 0;
    if (!s.len) return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.at[i] < '0' || s.at[i] > '9') return false;
        unsigned digit = (unsigned)(s.at[i] - '0');
        if (v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    if (v > max) return false;
    *out = v;
    return true;
}

/* Names from files end up in terminals and logs: no control character may pass.
 * DEL and the C1 range in UTF-8 (C2 80 .. C2 9F) count as well. */
static void escape_controls(char *to, size_t size, const char *from) {
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)from; *p; p++) {
        bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;
        if (*p >= 0x20 && *p != 0x7f && !c1) {
            if (n + 1 >= size) break;
            to[n++] = (char)*p;
            continue;
        }
        if (n + 4 >= size) break;
        to[n++] = '\\';
        to[n++] = 'x';
        to[n++] = hex[*p >> 4];
        to[n++] = hex[*p & 15];
    }
    to[n] = 0;
}

__attribute__((format(printf, 3, 0)))
static void set(struct err *e, enum err_code code, const char *format, va_list args) {
    char text[sizeof e->text];
    if (!e || e->code != ERR_NONE) return;
    vsnprintf(text, sizeof text, format, args);
    escape_controls(e->text, sizeof e->text, text);
    e->code = code;
}

bool err_set(struct err *e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    set(e, ERR_FAILED, format, args);
    va_end(args);
    return false;
}

bool err_code(struct err *e, enum err_code code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    set(e, code, format, args);
    va_end(args);
    return false;
}

static void *checked(void *p, size_t bytes) {
    if (!p && bytes) {
        fprintf(stderr, "mlxcel: out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return p;
}

void *mem_new(size_t bytes) {
    return checked(calloc(1, bytes ? bytes : 1), bytes);
}

void *mem_array(size_t n, size_t size) {
    return checked(calloc(n ? n : 1, size ? size : 1), n);
}

void *mem_grow(void *p, size_t n, size_t size) {
    size_t bytes = 0;
    if (!mul_size(n, size, &bytes)) bytes = SIZE_MAX;
    return checked(realloc(p, bytes ? bytes : 1), bytes ? bytes : 1);
}

void mem_filled_soon(void *at, size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    uintptr_t from = ((uintptr_t)at + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    uintptr_t to = ((uintptr_t)at + bytes) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (bytes >= HUGE_PAGE && from < to) madvise((void *)from, to - from, MADV_HUGEPAGE);
}

char *mem_str(struct str s) {
    char *c = mem_new(s.len + 1);
    if (s.len) memcpy(c, s.at, s.len);
    return c;
}

bool mul_size(size_t a, size_t b, size_t *out) {
    size_t v;
    if (__builtin_mul_overflow(a, b, &v)) return false;
    *out = v;
    return true;
}

bool add_size(size_t a, size_t b, size_t *out) {
    size_t v;
    if (__builtin_add_overflow(a, b, &v)) return false;
    *out = v;
    return true;
}

double clock_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
