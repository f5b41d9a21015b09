/* regex.c - PCRE2 with limits: compiled once, JIT where memory for it is granted.
 *
 * The subject is checked to be UTF-8 by our callers, never by PCRE2: it would check
 * the whole text again for each match, which is quadratic. */
#include "tokens/regex.h"
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { PATTERN_BYTES_MAX = 1 << 16, HEAP_KIB_MAX = 64 << 10, STEPS_MAX = 10000000,
       STRETCH = 1 << 16, STRETCH_MIN = 1 << 10 };

struct regex {
    pcre2_code *code;                /* NULL: a literal */
    pcre2_match_context *limits;
    bool jit;
    struct str literal;              /* owned */
};

struct regex *regex_literal(struct str text) {
    struct regex *re = mem_new(sizeof *re);
    re->literal = (struct str){ mem_str(text), text.len };
    return re;
}

struct regex *regex_new(struct str pattern, struct err *err) {
    if (pattern.len > PATTERN_BYTES_MAX) {
        err_set(err, "a regex has %zu bytes, more than %d", pattern.len, PATTERN_BYTES_MAX);
        return NULL;
    }
    struct buf rewritten = { 0 };
    if (!regex_rewrite(pattern, &rewritten, err)) {
        buf_free(&rewritten);
        return NULL;
    }
    pcre2_compile_context *compile = pcre2_compile_context_create(NULL);
    if (!compile)
        abort();
    pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
    int code = 0;
    size_t at = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)buf_c(&rewritten), rewritten.len, options,
                                         &code, &at, compile);
    pcre2_compile_context_free(compile);
    if (!compiled) {
        unsigned char why[160] = "";
        pcre2_get_error_message(code, why, sizeof why);
        err_set(err, "the regex \"%.*s\" is not supported: %s", STR_ARG(pattern), (char *)why);
        buf_free(&rewritten);
        return NULL;
    }
    buf_free(&rewritten);
    struct regex *re = mem_new(sizeof *re);
    re->code = compiled;
    re->limits = pcre2_match_context_create(NULL);
    if (!re->limits)
        abort();
    pcre2_set_heap_limit(re->limits, HEAP_KIB_MAX);
    pcre2_set_match_limit(re->limits, STEPS_MAX);
    re->jit = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0;
    return re;
}

void regex_free(struct regex *re) {
    if (!re)
        return;
    pcre2_match_context_free(re->limits);
    pcre2_code_free(re->code);
    free((char *)re->literal.at);
    free(re);
}

struct regex_walk regex_walk_open(const struct regex *re) {
    struct regex_walk w = { .regex = re };
    if (re->code) {
        w.data = pcre2_match_data_create(1, NULL);
        if (!w.data)
            abort();
    }
    return w;
}

void regex_walk_close(struct regex_walk *w) {
    pcre2_match_data_free(w->data);
    w->data = NULL;
}

void regex_walk_text(struct regex_walk *w, struct str text) {
    w->text = text;
    w->at = w->last_end = 0;
    w->any = w->narrow = false;
}

static bool next_literal(struct regex_walk *w, size_t *begin, size_t *end) {
    struct str key = w->regex->literal;
    if (!key.len || w->at >= w->text.len)
        return false;
    const char *hit = memmem(w->text.at + w->at, w->text.len - w->at, key.at, key.len);
    if (!hit)
        return false;
    *begin = (size_t)(hit - w->text.at);
    w->at = *end = *begin + key.len;
    return true;
}

/* JIT code has a small stack of its own; what does not fit it is run by the interpreter, whose
 * frames are on the heap. */
static int match_to(struct regex_walk *w, size_t len) {
    const struct regex *re = w->regex;
    PCRE2_SPTR text = (PCRE2_SPTR)w->text.at;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (re->jit)
        rc = pcre2_match(re->code, text, len, w->at, PCRE2_NO_UTF_CHECK, w->data,
                         re->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(re->code, text, len, w->at,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->data, re->limits);
    return rc;
}

/* The end of a stretch of n bytes from where the walk is, between two characters. */
static size_t stretch(const struct regex_walk *w, size_t n) {
    if (w->text.len - w->at <= n)
        return w->text.len;
    size_t end = w->at + n;
    while (((unsigned char)w->text.at[end] & 0xc0) == 0x80)
        end--;
    return end;
}

/* After a limit was met the walk goes on as if the text ended a stretch further on: one word that
 * is too long for its regex then costs the words behind it nothing. */
static int match_at(struct regex_walk *w) {
    if (!w->narrow) {
        int rc = match_to(w, w->text.len);
        if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
            return rc;
        w->narrow = true;
    }
    for (size_t n = STRETCH; n >= STRETCH_MIN;) {
        size_t end = stretch(w, n);
        int rc = match_to(w, end);
        if (rc >= 0 || (rc == PCRE2_ERROR_NOMATCH && end == w->text.len))
            return rc;
        if (rc == PCRE2_ERROR_NOMATCH)
            w->at = end;
        else
            n /= 8;
    }
    return PCRE2_ERROR_MATCHLIMIT;
}

bool regex_walk_next(struct regex_walk *w, size_t *begin, size_t *end) {
    if (!w->regex->code)
        return next_literal(w, begin, end);
    while (w->at <= w->text.len) {
        if (match_at(w) < 0)
            return false;
        const size_t *pair = pcre2_get_ovector_pointer(w->data);
        *begin = pair[0];
        *end = pair[1];
        if (*end < *begin)           /* \K in a look-ahead can do that */
            return false;
        if (*begin == *end && w->any && *end == w->last_end) {
            do
                w->at++;
            while (w->at < w->text.len && ((unsigned char)w->text.at[w->at] & 0xc0) == 0x80);
            continue;
        }
        w->at = w->last_end = *end;
        w->any = true;
        return true;
    }
    return false;
}
