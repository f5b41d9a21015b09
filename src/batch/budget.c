/* budget.c - what steps cost, learned as they run. */
#include "batch/budget.h"

enum { UNKNOWN_ROWS = 16 };          /* while nothing is known: little enough anywhere */

static int size_of(int n_decoding) {
    int size = 0;
    while (size < BUDGET_SIZES - 1 && 1 << size < n_decoding) size++;
    return size;
}

/* Moves a tenth of the way. A step that somebody else's work held up counts twice the usual at
 * most, one that was lucky half. */
static void follow(double *known, double seen) {
    if (!(*known > 0)) *known = seen;
    else *known += (MIN(MAX(seen, *known / 2), *known * 2) - *known) / 10;
}

/* Steps of this size, or of the nearest one that was seen: more rows cost more, but not much. */
static double decode_cost(const struct budget *b, int n_decoding) {
    int size = size_of(n_decoding);
    for (int i = size; i >= 0; i--)
        if (b->decode_s[i] > 0) return b->decode_s[i];
    for (int i = size + 1; i < BUDGET_SIZES; i++)
        if (b->decode_s[i] > 0) return b->decode_s[i];
    return 0;
}

int budget_rows(const struct budget *b, int n_decoding, int rows_max) {
    if (!n_decoding || !(b->slowdown > 0)) return rows_max;
    double decode_s = decode_cost(b, n_decoding);
    if (!(decode_s > 0) || !(b->row_s > 0)) return MIN(UNKNOWN_ROWS, rows_max);
    double rows = (b->slowdown - 1) * decode_s / b->row_s;
    return rows < 1 ? 1 : rows < (double)rows_max ? (int)rows : rows_max;
}

void budget_note(struct budget *b, int n_decoding, int n_prompt, double seconds) {
    if (n_decoding && !n_prompt) follow(&b->decode_s[size_of(n_decoding)], seconds);
    if (!n_prompt) return;
    double alone_s = n_decoding ? decode_cost(b, n_decoding) : 0;
    /* A prompt's first rows also pay for the weights, which decoding has paid for already. */
    if (n_decoding && alone_s > 0) follow(&b->row_s, MAX(seconds - alone_s, 0) / n_prompt);
    else if (!n_decoding && !(b->row_s > 0)) b->row_s = seconds / n_prompt;
}
