/* tiktoken.c - vocabularies that are ranks of byte strings: tiktoken's files, a line of base64
 * and a number for each token, and Mistral's tekken.json.
 *
 * Any two tokens that make a token merge, the lowest rank first; a word that is a token is taken
 * whole. */
#include <stdlib.h>
#include <string.h>
#include "base/pull.h"
#include "tokens/build.h"

bool tiktoken_read(struct tokenizer *t, struct str file, const struct build_pre *pre,
                   struct err *err) {
    struct buf bytes = { 0 };
    bool done = true;
    size_t line = 0;
    int n = 0;
    while (done && file.len) {
        const char *end = memchr(file.at, '\n', file.len);
        struct str s = str_cut(file, 0, end ? (size_t)(end - file.at) : file.len);
        file = str_from(file, s.len + (end != NULL));
        line++;
        if (str_ends(s, "\r"))
            s.len--;
        if (!s.len)
            continue;
        const char *gap = memchr(s.at, ' ', s.len);
        size_t at = gap ? (size_t)(gap - s.at) : s.len;
        uint64_t rank;
        buf_clear(&bytes);
        done = (str_u64(str_from(s, at + 1), VOCAB_ID_MAX, &rank)
                && base64_read(str_cut(s, 0, at), &bytes) && bytes.len)
            || err_set(err, "line %zu is not a token in base64 and its rank", line);
        done = done && build_put_bytes(t, buf_view(&bytes), rank, err);
    }
    buf_free(&bytes);
    while (n < 4 && pre->regex[n])
        n++;
    t->model.ignore_merges = true;
    return done && (t->vocab.count || err_set(err, "no tokens"))
        && build_byte_level(t, pre->regex, n, pre->digits, err) && build_ranked(t, 0, err);
}

enum { SPECIALS_MAX = 1 << 16 };

struct tekken {
    struct buf pattern;
    uint64_t vocab, specials;
    struct str tokens, special;      /* values to read later */
};

static bool read_config(struct pull *j, struct tekken *k) {
    struct str key, s;
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        if (str_is(key, "pattern")) {
            if (!pull_string(j, &s))
                return false;
            buf_clear(&k->pattern);
            buf_str(&k->pattern, s);
        } else if (str_is(key, "default_vocab_size")) {
            pull_u64(j, VOCAB_ID_MAX, &k->vocab);
        } else if (str_is(key, "default_num_special_tokens")) {
            pull_u64(j, SPECIALS_MAX, &k->specials);
        } else {
            pull_skip(j);
        }
    }
    return !j->error;
}

/* One object of "vocab" or "special_tokens": its rank, and a text under `name`. */
static bool read_entry(struct pull *j, const char *name, uint64_t *rank, struct buf *text) {
    struct str key, s;
    bool ranked = false, named = false;
    buf_clear(text);
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        if (str_is(key, "rank")) {
            ranked = pull_u64(j, VOCAB_ID_MAX, rank);
        } else if (str_is(key, name)) {
            named = pull_string(j, &s);
            if (named)
                buf_str(text, s);
        } else {
            pull_skip(j);
        }
    }
    return (ranked && named) || pull_fail(j, "a token without rank or text");
}

/* The specials that a file does not list: the first have known names where it lists none at all. */
static bool fill_specials(struct tokenizer *t, uint64_t n, bool listed, struct err *err) {
    static const char *const names[] = {
        "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
        "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]",
    };
    for (uint64_t i = 0; i < n; i++) {
        struct buf name = { 0 };
        if (vocab_flags(&t->vocab, (int)i) & VOCAB_HERE)
            continue;
        if (!listed && i < COUNT(names))
            buf_str(&name, str_of(names[i]));
        else
            buf_format(&name, "<SPECIAL_%d>", (int)i);
        const char *wrong = vocab_put(&t->vocab, buf_view(&name), i);
        bool done = wrong ? err_set(err, "a special token %s", wrong)
            : tokenizer_add(t, buf_view(&name), ADDED_SPECIAL, false, err);
        buf_free(&name);
        if (!done)
            return false;
    }
    return true;
}

static bool put_special(struct tokenizer *t, struct str text, uint64_t rank, struct err *err) {
    const char *wrong = vocab_put(&t->vocab, text, rank);
    return wrong ? err_set(err, "the special token \"%.*s\" %s", STR_ARG(text), wrong)
        : tokenizer_add(t, text, ADDED_SPECIAL, false, err);
}

static bool read_list(struct tokenizer *t, const struct tekken *k, bool special,
                      struct err *err) {
    struct pull j = pull_open(special ? k->special : k->tokens);
    struct buf text = { 0 }, bytes = { 0 };
    uint64_t rank = 0;
    bool done = pull_array(&j);
    while (done && pull_next(&j)) {
        done = read_entry(&j, special ? "token_str" : "token_bytes", &rank, &text);
        if (!done || (special ? rank >= k->specials : rank + k->specials >= k->vocab))
            continue;                /* the file lists more than the model has */
        buf_clear(&bytes);
        if (special)
            done = put_special(t, buf_view(&text), rank, err);
        else
            done = (base64_read(buf_view(&text), &bytes)
                    || err_set(err, "the token of rank %llu is not base64",
                               (unsigned long long)rank))
                && build_put_bytes(t, buf_view(&bytes), rank + k->specials, err);
    }
    if (j.error)
        done = err_set(err, "%s: %s at byte %zu", special ? "special_tokens" : "vocab", j.error,
                       j.offset);
    buf_free(&text);
    buf_free(&bytes);
    pull_close(&j);
    return done;
}

bool tekken_read(struct tokenizer *t, struct str file, struct err *err) {
    struct pull j = pull_open(file);
    struct tekken k = { .vocab = 131072, .specials = 1000 };
    struct str key;
    pull_object(&j);
    while (pull_key(&j, &key)) {
        if (str_is(key, "config"))
            read_config(&j, &k);
        else if (str_is(key, "vocab"))
            pull_value(&j, &k.tokens);
        else if (str_is(key, "special_tokens") && pull_peek(&j) == PULL_ARRAY)
            pull_value(&j, &k.special);
        else
            pull_skip(&j);
    }
    bool done = pull_end(&j)
        || err_set(err, "%s at byte %zu", j.error ? j.error : "trailing text", j.offset);
    pull_close(&j);
    if (done && (!k.pattern.len || !k.tokens.len))
        done = err_set(err, "a tekken file without a pattern or a vocabulary");
    t->model.ignore_merges = true;
    done = done && (!k.special.len || read_list(t, &k, true, err))
        && fill_specials(t, k.specials, k.special.len, err);
    const char *pattern[] = { buf_c(&k.pattern) };
    done = done && read_list(t, &k, false, err) && build_byte_level(t, pattern, 1, false, err)
        && build_ranked(t, (int)k.specials, err);
    buf_free(&k.pattern);
    if (!done)
        return false;
    t->bos = vocab_find(&t->vocab, S("<s>"));
    t->eos = vocab_find(&t->vocab, S("</s>"));
    t->n_before = t->bos >= 0;
    t->before[0] = t->bos;
    return true;
}
