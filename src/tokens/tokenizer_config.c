/* tokenizer_config.c - what tokenizer_config.json says beyond tokenizer.json: bos and eos, and
 * whether they are put around a text.
 *
 * Where add_bos_token or add_eos_token is given, the two replace the post-processor, as they do
 * in transformers. */
#include "base/pull.h"
#include "tokens/tokenizer.h"

struct config { struct buf bos, eos; int add_bos, add_eos; };    /* add: -1 not given */

/* "<s>", {"content": "<s>", ...} or null. */
static bool read_token(struct pull *j, struct buf *out) {
    struct str s, key;
    if (pull_peek(j) == PULL_STRING) {
        if (!pull_string(j, &s))
            return false;
        buf_str(out, s);
        return true;
    }
    if (pull_peek(j) != PULL_OBJECT)
        return pull_skip(j);
    pull_object(j);
    while (pull_key(j, &key)) {
        if (!str_is(key, "content")) {
            pull_skip(j);
        } else if (pull_string(j, &s)) {
            buf_clear(out);
            buf_str(out, s);
        }
    }
    return !j->error;
}

/* {"32000": {"content": ..., ...}, ...}: tokens of this file win over those of tokenizer.json. */
static bool read_added(struct tokenizer *t, struct pull *j, struct err *err) {
    struct str key;
    if (pull_peek(j) != PULL_OBJECT)
        return pull_skip(j);
    pull_object(j);
    while (pull_key(j, &key))
        if (!tokenizer_added_read(t, j, err))
            return pull_fail(j, "a token of added_tokens_decoder");
    return !j->error;
}

static bool read_flag(struct pull *j, int *out) {
    bool on;
    if (pull_peek(j) != PULL_BOOL)
        return pull_skip(j);
    if (!pull_bool(j, &on))
        return false;
    *out = on;
    return true;
}

static bool find(struct tokenizer *t, struct buf *text, const char *key, int *id, struct err *err) {
    if (!text->len)
        return true;
    *id = vocab_find(&t->vocab, buf_view(text));
    return *id >= 0
        || err_set(err, "%s \"%.*s\" is not in the vocabulary", key, STR_ARG(buf_view(text)));
}

/* special_tokens_map.json has bos_token and eos_token in the same form; older checkpoints have
 * them only there. A token that is in no vocabulary is passed over here. */
bool tokenizer_special_map_read(struct tokenizer *t, struct str text, struct err *err) {
    struct buf bos = { 0 }, eos = { 0 };
    struct pull j = pull_open(text);
    struct str key;
    pull_object(&j);
    while (pull_key(&j, &key)) {
        if (str_is(key, "bos_token"))
            read_token(&j, &bos);
        else if (str_is(key, "eos_token"))
            read_token(&j, &eos);
        else
            pull_skip(&j);
    }
    bool done = pull_end(&j)
        || err_set(err, "%s at byte %zu", j.error ? j.error : "trailing text", j.offset);
    if (bos.len && t->bos < 0)
        t->bos = vocab_find(&t->vocab, buf_view(&bos));
    if (eos.len && t->eos < 0)
        t->eos = vocab_find(&t->vocab, buf_view(&eos));
    buf_free(&bos);
    buf_free(&eos);
    pull_close(&j);
    return done;
}

bool tokenizer_config_read(struct tokenizer *t, struct str text, struct err *err) {
    struct config c = { .add_bos = -1, .add_eos = -1 };
    struct pull j = pull_open(text);
    struct str key;
    j.lenient = true;                /* model_max_length has been seen as Infinity */
    pull_object(&j);
    while (pull_key(&j, &key)) {
        if (str_is(key, "bos_token"))
            read_token(&j, &c.bos);
        else if (str_is(key, "eos_token"))
            read_token(&j, &c.eos);
        else if (str_is(key, "added_tokens_decoder"))
            read_added(t, &j, err);
        else if (str_is(key, "add_bos_token"))
            read_flag(&j, &c.add_bos);
        else if (str_is(key, "add_eos_token"))
            read_flag(&j, &c.add_eos);
        else
            pull_skip(&j);
    }
    bool done = pull_end(&j) || err->code
        || err_set(err, "%s at byte %zu", j.error ? j.error : "trailing text", j.offset);
    done = done && !err->code && find(t, &c.bos, "bos_token", &t->bos, err)
        && find(t, &c.eos, "eos_token", &t->eos, err);
    if (done && (c.add_bos >= 0 || c.add_eos >= 0)) {
        t->n_before = c.add_bos == 1 && t->bos >= 0;
        t->n_after = c.add_eos == 1 && t->eos >= 0;
        t->before[0] = t->bos;
        t->after[0] = t->eos;
    }
    buf_free(&c.bos);
    buf_free(&c.eos);
    pull_close(&j);
    return done;
}
