/* tokens_pipe.c - encodes and decodes what a script sends, for differential tests.
 *
 * Usage: tokens_pipe DIR. A request on standard input is flags and a length (two 32-bit words)
 * and the text; flags as tok_flags, and 256 to get the text back with control tokens. The answer is
 * a count, the ids, a length, and the decoded text; all in the machine's byte order. */
#include <stdio.h>
#include <stdlib.h>
#include "tokens/tokens.h"

static bool answer(const struct tokenizer *t, struct str text, unsigned flags) {
    struct ids ids = { 0 };
    struct buf out = { 0 };
    tok_encode(t, text, flags & 255, NULL, 0, &ids);
    tok_decode(t, ids.at, ids.len, flags & 256, &out);
    uint32_t n = (uint32_t)ids.len, len = (uint32_t)out.len;
    fwrite(&n, sizeof n, 1, stdout);
    if (n)
        fwrite(ids.at, sizeof *ids.at, n, stdout);
    fwrite(&len, sizeof len, 1, stdout);
    if (len)
        fwrite(out.at, 1, len, stdout);
    ids_free(&ids);
    buf_free(&out);
    return fflush(stdout) == 0;
}

int main(int argc, char **argv) {
    struct err err = { 0 };
    uint32_t head[2];
    if (argc != 2)
        return 2;
    struct tokenizer *t = tok_open(argv[1], &err);
    if (!t) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    bool going = true;
    while (going && fread(head, sizeof *head, 2, stdin) == 2) {
        char *text = mem_array((size_t)head[1] + 1, 1);
        going = fread(text, 1, head[1], stdin) == head[1]
            && answer(t, (struct str){ text, head[1] }, head[0]);
        free(text);
    }
    tok_close(t);
    return 0;
}
