/* heard.h - what a chat_stream said, written down so that two runs can be compared, and the
 * rules that hold for any text: arguments are JSON objects, and nothing is lost. For the
 * tests of cases and the fuzz target. */
#pragma once
#include "base/pull.h"
#include "prompt/calls.h"
#include "prompt/prompt.h"
#include "prompt/stream.h"
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

struct heard {
    struct buf reasoning, content, calls;
    struct buf shown;                /* reasoning and content, in order */
    struct buf all;                  /* every event, neighbours of one kind joined */
    size_t arguments_at;             /* in calls: of the last call */
    int kind, index, n_calls, fragments, ends;
    const char *wrong;               /* NULL: the order of events makes sense */
};

static inline void heard_free(struct heard *h) {
    buf_free(&h->reasoning);
    buf_free(&h->content);
    buf_free(&h->calls);
    buf_free(&h->shown);
    buf_free(&h->all);
}

static bool is_object(struct str s) {
    struct pull j = pull_open(s);
    bool ok = pull_peek(&j) == PULL_OBJECT && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    return ok;
}

static void check_last_call(struct heard *h) {
    if (h->n_calls && !is_object(str_from(buf_view(&h->calls), h->arguments_at)))
        h->wrong = "arguments are no JSON object";
}

static inline void hear(void *to, const struct chat_event *e) {
    struct heard *h = to;
    if (h->ends) h->wrong = "an event after the end";
    if (e->kind != CHAT_END && !e->text.len) h->wrong = "an event without text";
    bool call = e->kind == CHAT_TOOL_NAME || e->kind == CHAT_TOOL_ARGS;
    if (e->kind == CHAT_TOOL_NAME || (int)e->kind + 1 != h->kind)
        buf_format(&h->all, "\n%c ", "TRNAE"[e->kind]);
    h->kind = (int)e->kind + 1;
    buf_str(&h->all, e->text);
    if (e->kind == CHAT_TOOL_NAME) {
        check_last_call(h);
        if (e->index != h->n_calls++) h->wrong = "a call out of order";
        buf_format(&h->calls, "\n%.*s ", (int)e->text.len, e->text.at);
        h->arguments_at = h->calls.len;
    } else if (call) {
        if (!h->n_calls || e->index != h->n_calls - 1) h->wrong = "arguments of no call";
        buf_str(&h->calls, e->text);
        h->fragments++;
    } else if (e->kind == CHAT_END) {
        check_last_call(h);
        h->ends++;
    } else {
        buf_str(e->kind == CHAT_TEXT ? &h->content : &h->reasoning, e->text);
        buf_str(&h->shown, e->text);
    }
}

/* ---- nothing is lost ---- */

static inline bool mark_here(struct str text, size_t at, const char *mark) {
    return str_starts(str_from(text, at), mark);
}

static inline void put_all(uint64_t *to, const uint64_t *from, size_t words) {
    for (size_t i = 0; i < words; i++) to[i] |= from[i];
}

/* The ways in which bytes at `at` can be layout: how many bytes each. */
static inline size_t layout(struct str text, size_t at, size_t *len) {
    static const char *const channel_ends[] = { "<|end|>", "<|call|>", "<|return|>" };
    size_t n = 0;
    for (const struct think *t = think_kinds; t->open; t++) {
        const char *const marks[] = { t->open, t->close, t->drop[0], t->drop[1] };
        for (size_t i = 0; i < COUNT(marks); i++)
            if (marks[i] && mark_here(text, at, marks[i])) len[n++] = strlen(marks[i]);
    }
    for (const struct call_format *f = call_formats; f->sign; f++) {
        const char *const marks[] = { f->close, f->drop[0], f->drop[1] };
        for (size_t i = 0; i < COUNT(marks); i++)
            if (marks[i] && mark_here(text, at, marks[i])) len[n++] = strlen(marks[i]);
    }
    for (size_t i = 0; i < COUNT(channel_ends); i++)
        if (mark_here(text, at, channel_ends[i])) len[n++] = strlen(channel_ends[i]);
    return n;
}

/* A header of a message, up to its text; where the text ends first, at most some words of it. */
static inline size_t header(struct str text, size_t at) {
    static const char message[] = "<|message|>";
    struct str rest = str_from(text, at);
    if (!str_starts(rest, "<|") && !str_starts(rest, "to=")) return 0;
    const char *end = memmem(rest.at, rest.len, message, strlen(message));
    if (end) return (size_t)(end - rest.at) + strlen(message);
    return rest.len < 100 ? rest.len : 0;
}

static inline bool opens_call(struct str text, size_t at) {
    for (const struct call_format *f = call_formats; f->sign; f++)
        if (f->open ? mark_here(text, at, f->open)
                    : text.at[at] == '{' || text.at[at] == '[') return true;
    return mark_here(text, at, "<|message|>");
}

/* Whether `shown` is `said` without layout, white space and, where there were calls, stretches
 * that begin as calls do. Of `said`, the first bytes are the prompt's: they begin a mark. */
static inline bool nothing_lost(struct str said, size_t prompt, struct str shown, bool calls,
                         bool channels) {
    enum { LAYOUT_MAX = 256 };
    size_t words = shown.len / 64 + 1, n = said.len + 1, len[LAYOUT_MAX];
    uint64_t *bits = mem_array(n * 2 * words, sizeof *bits);
    uint64_t *mask = mem_array(256 * words, sizeof *mask);
    for (size_t j = 0; j < shown.len; j++)
        mask[(unsigned char)shown.at[j] * words + j / 64] |= (uint64_t)1 << j % 64;
    bits[0] = bits[prompt * 2 * words] = 1;
    for (size_t i = 0; i < said.len; i++) {
        uint64_t *out = bits + i * 2 * words, *in = out + words, *next = out + 2 * words;
        if (calls && opens_call(said, i)) put_all(in, out, words);
        put_all(out, in, words);                 /* a stretch may end anywhere */
        put_all(next + words, in, words);
        const uint64_t *same = mask + (unsigned char)said.at[i] * words;
        for (size_t w = 0, carry = 0; w < words; w++) {
            uint64_t hit = out[w] & same[w];
            next[w] |= hit << 1 | carry;
            carry = hit >> 63;
        }
        if (said_blank(said.at[i])) put_all(next, out, words);
        size_t k = layout(said, i, len);
        if (channels && header(said, i)) len[k++] = header(said, i);
        while (k-- > 0) put_all(next + (len[k] - 1) * 2 * words, out, words);
    }
    const uint64_t *end = bits + said.len * 2 * words;
    bool ok = (end[shown.len / 64] | end[words + shown.len / 64]) >> shown.len % 64 & 1;
    free(bits);
    free(mask);
    return ok;
}
