/* stream_tokens.c - which bytes of an answer are whose: tokens come one by one, their
 * text may come later and in other pieces. A second detokenizer says where in the whole text each
 * token's spelling is. */
#include "prompt/stream.h"

static bool is_tag(const struct chat_stream *s, int token) {
    for (int i = 0; i < s->tags->n; i++)
        if (s->tags->at[i].id == token) return true;
    return false;
}

static void note_token(struct chat_stream *s, const struct tokenizer *t, int token) {
    buf_clear(&s->mirrored);
    detok_push(s->mirror, token, &s->mirrored);
    s->n_mirrored += s->mirrored.len;
    if (!is_tag(s, token)) return;
    struct str own = tok_text(t, token), all = buf_view(&s->mirrored);
    if (own.len > all.len || !str_eq(str_from(all, all.len - own.len), own)) return;
    if (s->n_ranges == s->cap_ranges) {
        s->cap_ranges = 2 * s->cap_ranges + 4;
        s->range = mem_grow(s->range, (size_t)s->cap_ranges, sizeof *s->range);
    }
    s->range[s->n_ranges].begin = s->n_mirrored - own.len;
    s->range[s->n_ranges++].end = s->n_mirrored;
}

void chat_stream_token(struct chat_stream *s, const struct tokenizer *t, int token,
                       struct str text, bool last,
                       void (*emit)(void *to, const struct chat_event *), void *to) {
    if (!s->mirror) s->mirror = detok_open(t, true);
    if (token >= 0) note_token(s, t, token);
    int done = 0;
    while (text.len) {
        while (done < s->n_ranges && s->range[done].end <= s->n_told) done++;
        size_t begin = done < s->n_ranges ? s->range[done].begin : SIZE_MAX;
        bool control = begin <= s->n_told;
        size_t end = control ? s->range[done].end : begin;
        struct str piece = str_cut(text, 0, MIN(text.len, end - s->n_told));
        chat_stream_push(s, piece, control, last && piece.len == text.len, emit, to);
        s->n_told += piece.len;
        text = str_from(text, piece.len);
        if (!text.len) last = false;
    }
    for (int i = done; i < s->n_ranges; i++) s->range[i - done] = s->range[i];
    s->n_ranges -= done;
    if (last) chat_stream_push(s, text, true, true, emit, to);
}
