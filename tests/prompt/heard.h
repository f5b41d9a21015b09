/* heard.h - what a chat_stream said, written down so that two runs can be compared, and the
 * rules that hold for any text: arguments are JSON objects, and nothing is lost. For the
 * tests of cases and the fuzz target. */
#pragma once
#include "base/pull.h"
#include "base/utf8.h"
#include "prompt/calls.h"
#include "prompt/prompt.h"
#include "prompt/stream.h"
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

struct heard {
    struct buf reasoning, content, calls;
    struct buf ids;                  /* of the calls, a line each, where they have one */
    struct buf shown;                /* reasoning and content, in order */
    struct buf all;                  /* every event, neighbours of one kind joined */
    size_t arguments_at;             /* in calls: of the last call */
    int kind, n_calls, fragments, texts, ends;
    bool cut_character;              /* a text ended or began within one */
    const char *wrong;               /* NULL: the order of events makes sense */
};

static inline void heard_free(struct heard *h) {
    buf_free(&h->reasoning);
    buf_free(&h->content);
    buf_free(&h->calls);
    buf_free(&h->ids);
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
    if (e->kind != CHAT_TOOL_NAME && e->id.len) h->wrong = "an id, but no name";
    bool call = e->kind == CHAT_TOOL_NAME || e->kind == CHAT_TOOL_ARGS;
    if (e->kind == CHAT_TOOL_NAME || (int)e->kind + 1 != h->kind)
        buf_format(&h->all, "\n%c ", "TRNAE"[e->kind]);
    h->kind = (int)e->kind + 1;
    for (size_t at = 0, n; at < e->text.len; at += n ? n : 1) {
        uint32_t cp;
        n = (size_t)utf8_next(str_from(e->text, at), &cp);
        h->cut_character |= !n;
    }
    buf_str(&h->all, e->text);
    if (e->kind == CHAT_TOOL_NAME) {
        check_last_call(h);
        if (e->index != h->n_calls++) h->wrong = "a call out of order";
        buf_format(&h->calls, "\n%.*s ", (int)e->text.len, e->text.at);
        buf_format(&h->ids, "%.*s\n", (int)e->id.len, e->id.at);
        buf_format(&h->all, "#%.*s ", (int)e->id.len, e->id.at);
        h->arguments_at = h->calls.len;
    } else if (call) {
        if (!h->n_calls || e->index != h->n_calls - 1) h->wrong = "arguments of no call";
        buf_str(&h->calls, e->text);
        h->fragments++;
    } else if (e->kind == CHAT_END) {
        check_last_call(h);
        h->ends++;
    } else {
        h->texts++;
        buf_str(e->kind == CHAT_TEXT ? &h->content : &h->reasoning, e->text);
        buf_str(&h->shown, e->text);
    }
}

/* ---- nothing is lost ---- */

static inline void put_all(uint64_t *to, const uint64_t *from, size_t words) {
    for (size_t i = 0; i < words; i++) to[i] |= from[i];
}

/* All marks, by their first byte: those that are layout and those that open calls. */
struct marks { const char *at[256][64]; int n[256]; };

static inline void put_mark(struct marks *m, const char *mark) {
    unsigned char first = (unsigned char)(mark ? mark[0] : 0);
    if (mark && m->n[first] < 64) m->at[first][m->n[first]++] = mark;
    else if (mark) abort();
}

static inline void all_marks(struct marks *layout, struct marks *opens) {
    static const char *const channel_ends[] = { "<|end|>", "<|call|>", "<|return|>" };
    for (const struct think *t = think_kinds; t->open; t++) {
        put_mark(layout, t->open);
        put_mark(layout, t->close);
        put_mark(layout, t->drop[0]);
        put_mark(layout, t->drop[1]);
    }
    for (const struct call_format *f = call_formats; f->sign; f++) {
        put_mark(layout, f->close);
        for (int i = 0; i < DROPS_MAX; i++) put_mark(layout, f->drop[i]);
        put_mark(opens, f->open);
    }
    for (size_t i = 0; i < COUNT(channel_ends); i++) put_mark(layout, channel_ends[i]);
    put_mark(opens, "{");
    put_mark(opens, "[");
    put_mark(opens, "<|message|>");
}

/* The lengths of the marks at `at`: how many. */
static inline size_t marks_at(const struct marks *m, struct str text, size_t at, size_t *len) {
    unsigned char first = (unsigned char)text.at[at];
    size_t n = 0;
    for (int i = 0; i < m->n[first]; i++)
        if (str_starts(str_from(text, at), m->at[first][i])) len[n++] = strlen(m->at[first][i]);
    return n;
}

/* The lengths that a header of a message may have at `at`, with the mark behind it; where the text
 * ends first, at most some words of it. */
static inline size_t headers_at(struct str text, size_t at, size_t *len) {
    static const char message[] = "<|message|>";
    struct str rest = str_from(text, at);
    size_t n = 0;
    if (!str_starts(rest, "<|") && !str_starts(rest, "to=")) return 0;
    for (size_t i = 0; i < MIN(rest.len, (size_t)HEADER_MAX + 1); i++)
        if (str_starts(str_from(rest, i), message)) len[n++] = i + strlen(message);
    if (rest.len < 200) len[n++] = rest.len;
    return n;
}

/* Whether `shown` is `said` without layout, white space and, where there were calls, stretches
 * that begin as calls do. Of `said`, the first bytes are the prompt's: they begin a mark. */
static inline bool nothing_lost(struct str said, size_t prompt, struct str shown, bool calls,
                         bool channels) {
    static struct marks layout, opens;
    if (!opens.n['{']) all_marks(&layout, &opens);
    size_t words = shown.len / 64 + 1, n = said.len + 1, len[128];
    uint64_t *bits = mem_array(n * 2 * words, sizeof *bits);
    uint64_t *mask = mem_array(256 * words, sizeof *mask);
    for (size_t j = 0; j < shown.len; j++)
        mask[(unsigned char)shown.at[j] * words + j / 64] |= (uint64_t)1 << j % 64;
    bits[0] = bits[prompt * 2 * words] = 1;
    for (size_t i = 0; i < said.len; i++) {
        uint64_t *out = bits + i * 2 * words, *in = out + words, *next = out + 2 * words;
        if (calls && marks_at(&opens, said, i, len)) put_all(in, out, words);
        put_all(out, in, words);                 /* a stretch may end anywhere */
        put_all(next + words, in, words);
        const uint64_t *same = mask + (unsigned char)said.at[i] * words;
        for (size_t w = 0, carry = 0; w < words; w++) {
            uint64_t hit = out[w] & same[w];
            next[w] |= hit << 1 | carry;
            carry = hit >> 63;
        }
        if (said_blank(said.at[i])) put_all(next, out, words);
        size_t k = marks_at(&layout, said, i, len);
        if (channels) k += headers_at(said, i, len + k);
        while (k-- > 0) put_all(next + (len[k] - 1) * 2 * words, out, words);
    }
    const uint64_t *end = bits + said.len * 2 * words;
    bool ok = (end[shown.len / 64] | end[words + shown.len / 64]) >> shown.len % 64 & 1;
    free(bits);
    free(mask);
    return ok;
}
