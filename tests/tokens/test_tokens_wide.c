/* test_tokens_wide.c - BPE of bytes over characters of several bytes, which are cut where no token
 * reaches and begin as characters, against merging by the definition: from bytes, the pair of
 * lowest rank first. Vocabularies are drawn, with tokens of parts of characters; half of them have
 * merges that come before those of their parts, and a third lacks a byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/utf8.h"
#include "tokens/build.h"
#include "tokens/byte_chars.h"

enum { VOCABULARIES = 60, TEXTS = 60, MERGES = 120, TOKEN_MAX = 14, NO_BYTE = -1,
       WORTH = 1 << 16, WORD = 120 };

/* Their bytes are alike, so that parts of one are found in others. */
static const char *const CHARACTER[] = {
    "\xe4\xb8\xad", "\xe4\xb8\xb8", "\xe5\xb8\xad", "\xe5\x9b\xbd", "\xe4\x9b\xad", "\xe3\x80\x82",
    "\xe4\xb8\xad", "\xef\xbc\x8c", "\xf0\xa0\x80\x80", "\xc3\xa9", "a", " ", "\xed\x95\x9c",
};

struct drawn {
    struct buf token[256 + MERGES];
    int left[MERGES], right[MERGES], makes[MERGES], n_tokens, n;
    int missing;                     /* a byte that is no token, and is left out; or NO_BYTE */
};

static uint32_t state_ = 1;
static uint32_t draw(uint32_t n) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_ % n;
}

static void draw_text(struct buf *to, int n) {
    buf_clear(to);
    for (int i = 0; i < n; i++) buf_str(to, str_of(CHARACTER[draw(COUNT(CHARACTER))]));
}

/* Merges the lowest pair of a text's symbols, the leftmost of equals, until there is none. */
static int merged(const struct drawn *d, struct str text, int *id) {
    int n = 0;
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.at[i] != d->missing) id[n++] = (unsigned char)text.at[i];
    for (;;) {
        int best = d->n, at = -1;
        for (int i = 0; i + 1 < n; i++)
            for (int m = 0; m < best; m++)
                if (d->left[m] == id[i] && d->right[m] == id[i + 1]) {
                    best = m;
                    at = i;
                }
        if (at < 0) return n;
        id[at] = d->makes[best];
        memmove(id + at + 1, id + at + 2, (size_t)(n - at - 2) * sizeof *id);
        n--;
    }
}

/* Tokens that follow each other in drawn texts become one, as training does it. */
static void draw_vocabulary(struct drawn *d, bool in_order) {
    struct buf text = { 0 };
    int id[200];
    d->n = 0;
    for (d->n_tokens = 0; d->n_tokens < 256; d->n_tokens++)
        buf_char(&d->token[d->n_tokens], (char)d->n_tokens);
    while (d->n < MERGES) {
        draw_text(&text, 12);
        int n = merged(d, buf_view(&text), id);
        int at = (int)draw((uint32_t)n - 1);
        struct buf both = { 0 };
        buf_str(&both, buf_view(&d->token[id[at]]));
        buf_str(&both, buf_view(&d->token[id[at + 1]]));
        bool there = both.len > TOKEN_MAX;
        for (int k = 0; k < d->n_tokens; k++)
            there |= buf_view(&d->token[k]).len == both.len &&
                     !memcmp(d->token[k].at, both.at, both.len);
        if (there) {
            buf_free(&both);
            continue;
        }
        int m = in_order ? d->n : (int)draw((uint32_t)d->n + 1);
        for (int k = d->n; k > m; k--) {
            d->left[k] = d->left[k - 1];
            d->right[k] = d->right[k - 1];
            d->makes[k] = d->makes[k - 1];
        }
        d->left[m] = id[at];
        d->right[m] = id[at + 1];
        d->makes[m] = d->n_tokens;
        d->token[d->n_tokens++] = both;
        d->n++;
    }
    buf_free(&text);
}

static void put_spelling(struct buf *to, struct str bytes) {
    buf_char(to, '"');
    for (size_t i = 0; i < bytes.len; i++) {
        char c = bytes.at[i];
        if (c == '"' || c == '\\') buf_char(to, '\\');
        byte_chars_put(to, str_cut(bytes, i, i + 1));
    }
    buf_char(to, '"');
}

static struct tokenizer *open_drawn(const struct drawn *d, bool whole_first) {
    struct tokenizer *t = tokenizer_blank();
    struct err err = { 0 };
    struct buf b = { 0 };
    buf_format(&b, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"use_regex\":false},\"model\":{\"type\":\"BPE\",\"ignore_merges\":%s,\"vocab\":{",
               whole_first ? "true" : "false");
    for (int i = 0; i < d->n_tokens; i++) {
        if (i == d->missing) continue;
        buf_str(&b, i ? S(",") : S(""));
        put_spelling(&b, buf_view(&d->token[i]));
        buf_format(&b, ":%d", i);
    }
    buf_str(&b, S("},\"merges\":["));
    for (int m = 0; m < d->n; m++) {
        buf_str(&b, m ? S(",[") : S("["));
        put_spelling(&b, buf_view(&d->token[d->left[m]]));
        buf_char(&b, ',');
        put_spelling(&b, buf_view(&d->token[d->right[m]]));
        buf_char(&b, ']');
    }
    buf_str(&b, S("]}}"));
    if (!tokenizer_json_read(t, buf_view(&b), &err) || !tokenizer_ready(t, &err))
        fail_msg("%s", err.text);
    buf_free(&b);
    return t;
}

static void compare(const struct drawn *d, const struct tokenizer *t, struct str text, bool first) {
    struct ids got = { 0 };
    int want[400], n = merged(d, text, want);
    for (int k = 0; first && k < d->n_tokens; k++)
        if (d->token[k].len == text.len && !memcmp(d->token[k].at, text.at, text.len)) {
            want[0] = k;
            n = 1;
        }
    tok_encode(t, text, 0, NULL, 0, &got);
    bool same = got.len == n && !memcmp(got.at, want, (size_t)n * sizeof *want);
    if (!same) fail_msg("\"%.*s\": %d ids, not %d", STR_ARG(text), got.len, n);
    ids_free(&got);
}

/* Words enough for the tokenizer to make its table of characters. */
static void warm_up(const struct tokenizer *t) {
    struct ids ids = { 0 };
    struct buf text = { 0 };
    while (text.len < WORD) buf_str(&text, str_of(CHARACTER[0]));
    for (size_t done = 0; done <= WORTH; done += text.len) {
        ids.len = 0;
        tok_encode(t, buf_view(&text), 0, NULL, 0, &ids);
    }
    ids_free(&ids);
    buf_free(&text);
}

static void drawn_vocabularies(void **state) {
    static struct drawn d;
    struct buf text = { 0 };
    (void)state;
    for (int v = 0; v < VOCABULARIES; v++) {
        bool whole_first = v % 4 == 3;
        d.missing = v % 3 == 2 ? 0xb8 : NO_BYTE;
        draw_vocabulary(&d, v % 2 == 0);
        struct tokenizer *t = open_drawn(&d, whole_first);
        for (int i = 0; i < TEXTS; i++) {
            if (i == TEXTS / 4) warm_up(t);
            draw_text(&text, 1 + (int)draw(i % 2 ? 8 : 60));
            compare(&d, t, buf_view(&text), whole_first);
        }
        for (int i = 256; i < d.n_tokens; i++)
            if (utf8_valid(buf_view(&d.token[i])))
                compare(&d, t, buf_view(&d.token[i]), whole_first);
        tok_close(t);
        for (int i = 0; i < d.n_tokens; i++) buf_free(&d.token[i]);
    }
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(drawn_vocabularies) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
