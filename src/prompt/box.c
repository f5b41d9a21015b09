/* box.c - memory, budgets and errors of a template run; see box.h. */
#include "prompt/box.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK_BYTES = 32 << 10, ALIGN = 16 };

void box_open(struct box *box, const struct source *source, struct err *err) {
    memset(box, 0, sizeof *box);
    box->bytes_left = BOX_BYTES_MAX;
    box->steps_left = BOX_STEPS_MAX;
    box->source = source;
    box->err = err;
}

void box_close(struct box *box) {
    arena_free(&box->arena);
    box->chunk = NULL;
    box->chunk_left = 0;
}

void *box_new(struct box *box, size_t bytes) {
    if (bytes > box->bytes_left) box_limit(box, "the template uses too much memory");
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    box->bytes_left -= MIN(rounded, box->bytes_left);
    if (rounded > CHUNK_BYTES / 4) return arena_new(&box->arena, rounded);
    if (rounded > box->chunk_left) {
        box->chunk = arena_new(&box->arena, CHUNK_BYTES);
        box->chunk_left = CHUNK_BYTES;
    }
    void *at = box->chunk;
    box->chunk += rounded;
    box->chunk_left -= rounded;
    return at;
}

void *box_array(struct box *box, size_t n, size_t size) {
    size_t bytes;
    if (!mul_size(n, size, &bytes)) box_limit(box, "the template uses too much memory");
    return box_new(box, bytes);
}

void box_work(struct box *box, size_t amount) {
    if (amount >= (size_t)box->steps_left) {
        box->steps_left = 0;
        box_limit(box, "the template takes too many steps");
    }
    box->steps_left -= (int64_t)amount;
}

void box_enter(struct box *box) {
    if (++box->depth > BOX_DEPTH_MAX) box_limit(box, "nested too deeply");
}

__attribute__((format(printf, 2, 0)))
static _Noreturn void leave(struct box *box, const char *format, va_list args) {
    char sentence[sizeof box->err->text];
    vsnprintf(sentence, sizeof sentence, format, args);
    if (!box->source) {
        err_set(box->err, "chat template: %s", sentence);
        longjmp(box->exit, 1);
    }
    struct str text = box->source->text;
    size_t line = 1, column = 1, end = MIN(box->at, text.len);
    for (size_t i = 0; i < end; i++) {
        bool starts_line = text.at[i] == '\n';
        line += starts_line;
        column = starts_line ? 1 : column + ((text.at[i] & 0xC0) != 0x80);
    }
    err_set(box->err, "chat template line %zu, column %zu: %s", line, column, sentence);
    longjmp(box->exit, 1);
}

void box_fail(struct box *box, const char *format, ...) {
    va_list args;
    va_start(args, format);
    leave(box, format, args);
}

void box_limit(struct box *box, const char *format, ...) {
    box->over = true;
    va_list args;
    va_start(args, format);
    leave(box, format, args);
}
