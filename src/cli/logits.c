/* logits.c - the model's logits for given ids, as a safetensors file: tensor
 * `logits`, F32 [rows, vocab], a row per position, oldest first. */
#include "cli/session.h"
#include <stdio.h>
#include <string.h>

struct writing {
    struct new_file file;
    struct err *err;
    int vocab, rows, next;           /* next: the position that the next row must have */
    bool failed;
};

static void on_logits(void *to, const float *row, int vocab, int position) {
    struct writing *w = to;
    if (w->failed) return;
    if (position != w->next || vocab != w->vocab)
        w->failed = !err_set(w->err, "logits of position %d came where %d was due", position,
                             w->next);
    else
        w->failed = !new_file_write(&w->file, row, (size_t)vocab * sizeof *row, w->err);
    w->next++;
    w->rows++;
}

/* Eight bytes of length, then JSON padded with spaces to a multiple of eight. */
static bool write_header(struct writing *w, int rows, struct err *err) {
    struct buf h = { 0 };
    unsigned char length[8];
    buf_format(&h, "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%zu]}}",
               rows, w->vocab, (size_t)rows * (size_t)w->vocab * sizeof(float));
    while (h.len % 8) buf_char(&h, ' ');
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)h.len >> (8 * i));
    bool ok = new_file_write(&w->file, length, sizeof length, err)
           && new_file_write(&w->file, h.at, h.len, err);
    buf_free(&h);
    return ok;
}

static bool run(const struct args *a, struct session *s, const struct ids *ids, struct err *err) {
    struct writing w = { .err = err, .vocab = engine_info(s->engine).vocab };
    int rows = a->last ? MIN(a->last, ids->len) : ids->len;
    w.next = ids->len - rows;
    if (!new_file_open(&w.file, a->output, err)) return false;
    struct answer answer = { 0 };
    struct question q = { .ids = ids->at, .n_ids = ids->len, .logits = on_logits, .to = &w };
    q.options = session_options(s, a);
    q.options.n_max = 0;
    q.options.logits_last = rows;
    bool ok = write_header(&w, rows, err) && session_ask(s, &q, &answer, err) && !w.failed;
    if (ok && w.rows != rows) ok = err_set(err, "only %d of %d rows came", w.rows, rows);
    if (ok)
        ok = new_file_commit(&w.file, err);
    else
        new_file_drop(&w.file);
    answer_free(&answer);
    return ok;
}

int cli_logits(struct args *a) {
    struct err err = { 0 };
    struct session s = { 0 };
    struct ids ids = { 0 };
    struct session_plan plan = { .no_tokenizer = true, .running = 1 };
    bool ok = false;
    model_from_words(a, true);
    /* A row is wanted for every position, and kept pages have none. */
    a->no_prefix_cache = true;
    if (!a->ids || !a->output)
        err_code(&err, ERR_USAGE, "logits needs --ids LIST and -o FILE");
    else
        ok = input_ids(&ids, a->ids, &err) && session_open(&s, a, &plan, &err)
          && run(a, &s, &ids, &err);
    session_close(&s);
    ids_free(&ids);
    return ok ? 0 : cli_fail(&err);
}
