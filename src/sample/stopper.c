/* stopper.c - stop strings in a stream of text.
 *
 * What is cut does not depend on how the text came in pieces: the stop string that is complete
 * first wins, of several that end together the longest. So what may still become one, the longest
 * end of the text that begins a stop string, is held back; everything before it is shown. */
#include "base/buf.h"
#include "sample/sample.h"

#include <stdlib.h>
#include <string.h>

/* Index of the first complete stop string and where it begins; -1: none. */
static int find(const struct stopper *s, size_t *at) {
    size_t first_end = SIZE_MAX;
    int found = -1;
    for (int i = 0; i < s->n_stop; i++) {
        struct str stop = s->stop[i];
        if (!stop.len) continue;
        const char *hit = memmem(s->held, s->n_held, stop.at, stop.len);
        if (!hit) continue;
        size_t begin = (size_t)(hit - s->held), end = begin + stop.len;
        if (end < first_end || (end == first_end && begin < *at)) {
            first_end = end;
            *at = begin;
            found = i;
        }
    }
    return found;
}

/* Length of the longest end of the text that is a proper beginning of a stop string. */
static size_t undecided(const struct stopper *s) {
    size_t most = 0;
    for (int i = 0; i < s->n_stop; i++) {
        struct str stop = s->stop[i];
        size_t n = stop.len ? MIN(stop.len - 1, s->n_held) : 0;
        for (; n > most; n--)
            if (!memcmp(s->held + s->n_held - n, stop.at, n)) most = n;
    }
    return most;
}

int stopper_push(struct stopper *s, struct str piece, bool last, struct buf *show) {
    if (!s->n_stop) {
        buf_str(show, piece);
        return -1;
    }
    if (s->n_held + piece.len > s->cap) {
        s->cap = (s->n_held + piece.len) * 2;
        s->held = mem_grow(s->held, s->cap, 1);
    }
    if (piece.len) memcpy(s->held + s->n_held, piece.at, piece.len);
    s->n_held += piece.len;
    if (!s->n_held) return -1;

    size_t shown = 0;
    int found = find(s, &shown);
    if (found < 0) shown = s->n_held - (last ? 0 : undecided(s));
    buf_put(show, s->held, shown);
    s->n_held = found < 0 ? s->n_held - shown : 0;
    memmove(s->held, s->held + shown, s->n_held);
    return found;
}

void stopper_free(struct stopper *s) {
    free(s->held);
    s->held = NULL;
    s->n_held = s->cap = 0;
}
