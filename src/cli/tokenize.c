/* tokenize.c - text to ids and back, with the checkpoint's tokenizer alone: no
 * weights are read. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>

static void print_tokens(const struct tokenizer *t, const struct ids *ids) {
    struct buf text = { 0 };
    for (int i = 0; i < ids->len; i++) {
        buf_clear(&text);
        buf_json(&text, tok_text(t, ids->at[i]));
        printf("%d\t%s\n", ids->at[i], buf_c(&text));
    }
    buf_free(&text);
}

static void print_json(const struct ids *ids) {
    printf("{\"ids\":[");
    for (int i = 0; i < ids->len; i++) printf("%s%d", i ? "," : "", ids->at[i]);
    printf("]}\n");
}

static bool encode(const struct args *a, const struct tokenizer *t, struct err *err) {
    struct buf text = { 0 };
    struct ids ids = { 0 };
    bool ok = true;
    if (a->prompt && (a->prompt[0] != '-' || a->prompt[1]))
        buf_str(&text, str_of(a->prompt));
    else
        ok = input_file(&text, "-", err);
    if (ok) {
        unsigned flags = (a->literal ? 0u : TOK_SPECIALS) | (a->no_bos ? 0u : TOK_ADD_BOS);
        tok_encode(t, buf_view(&text), flags, NULL, 0, &ids);
        if (a->json)
            print_json(&ids);
        else
            print_tokens(t, &ids);
    }
    ids_free(&ids);
    buf_free(&text);
    return ok;
}

static bool decode(const struct args *a, const struct tokenizer *t, struct err *err) {
    struct buf text = { 0 };
    struct ids ids = { 0 };
    bool ok;
    if (a->ids)
        ok = input_ids(&ids, a->ids, err);
    else
        ok = input_file(&text, "-", err)
          && input_ids_text(&ids, buf_view(&text), "standard input", err);
    buf_clear(&text);
    if (ok) tok_decode(t, ids.at, ids.len, a->specials, &text);
    if (ok && a->json) {
        struct buf json = { 0 };
        buf_json(&json, buf_view(&text));
        printf("{\"text\":%s}\n", buf_c(&json));
        buf_free(&json);
    } else if (ok) {
        fwrite(text.at, 1, text.len, stdout);
    }
    ids_free(&ids);
    buf_free(&text);
    return ok;
}

int cli_tokenize(struct args *a) {
    struct err err = { 0 };
    struct buf dir = { 0 };
    struct tokenizer *t = NULL;
    bool ok = false;
    model_from_words(a, true);
    if (a->ids && !a->decode) {
        err_code(&err, ERR_USAGE, "--ids goes with --decode");
    } else if (model_find(a->model, &dir, &err)) {
        t = tok_open(buf_c(&dir), &err);
        if (t) ok = a->decode ? decode(a, t, &err) : encode(a, t, &err);
    }
    tok_close(t);
    buf_free(&dir);
    return ok ? 0 : cli_fail(&err);
}
