/* bench_encode.c - how fast a tokenizer encodes a file, as bench_encode.py asks for it.
 *
 * Usage: bench_encode DIR FILE PIECE_BYTES. The text is cut at characters into pieces, each encoded
 * by one call as a prompt is. Once to warm up, then until 0.3 seconds are over; one JSON object:
 * bytes a second of processor time in the fastest round, and how many ids all pieces have. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "tokens/tokens.h"

static const double SECONDS = 0.3;

static uint64_t encode_all(const struct tokenizer *t, struct str text, size_t piece) {
    uint64_t n = 0;
    struct ids ids = { 0 };
    for (size_t at = 0; at < text.len;) {
        size_t end = MIN(at + piece, text.len);
        while (end < text.len && ((unsigned char)text.at[end] & 0xc0) == 0x80)
            end++;
        ids.len = 0;
        tok_encode(t, str_cut(text, at, end), 0, NULL, 0, &ids);
        n += (uint64_t)ids.len;
        at = end;
    }
    ids_free(&ids);
    return n;
}

static double used_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    struct err err = { 0 };
    struct buf text = { 0 };
    uint64_t piece;
    if (argc != 4 || !str_u64(str_of(argv[3]), 1 << 30, &piece) || !piece)
        return 2;
    struct tokenizer *t = tok_open(argv[1], &err);
    if (!t || !buf_read_file(&text, argv[2], 1 << 28, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    uint64_t ids = encode_all(t, buf_view(&text), (size_t)piece);
    double best = 1e9, begin = used_s(), now = begin;
    while (now - begin < SECONDS) {
        double from = now;
        encode_all(t, buf_view(&text), (size_t)piece);
        now = used_s();
        best = MIN(best, now - from);
    }
    printf("{\"bytes_per_s\":%.0f,\"ids\":%llu}\n", (double)text.len / best,
           (unsigned long long)ids);
    buf_free(&text);
    tok_close(t);
    return 0;
}
