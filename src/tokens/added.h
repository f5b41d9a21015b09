/* added.h - added tokens: found in a text before, or after, it is normalized.
 *
 * Two sets, as the file says for each token. A set is a trie of bytes; the leftmost match wins, and
 * of those the longest. */
#pragma once
#include "tokens/tokens.h"

enum added_flag { ADDED_SPECIAL = 1, ADDED_LSTRIP = 2, ADDED_RSTRIP = 4, ADDED_SINGLE_WORD = 8 };
enum { ADDED_MAX = 1 << 20, ADDED_BYTES_MAX = 1024 };

struct added_set;
struct added_set *added_new(void);
void added_free(struct added_set *);
int added_count(const struct added_set *);
bool added_has_special(const struct added_set *);
/* False: the text is not 1 to ADDED_BYTES_MAX bytes, or there are too many. One that is there
 * already is replaced. */
bool added_put(struct added_set *, struct str text, int id, unsigned flags);

void added_drop(struct added_set *, struct str text);            /* if it is there */

struct added_match { size_t begin, end; int id; };

/* The next match at or after `from`, white space that it strips included, but not before `floor`,
 * where the last match ended. `allowed` is asked about special tokens. */
struct added_query {
    const struct added_set *set;
    struct str text;
    size_t from, floor;
    struct { size_t begin, end; } blank;             /* white space that was stripped last */
    bool (*allowed)(void *to, size_t begin, size_t end);
    void *to;
};
bool added_next(struct added_query *, struct added_match *);
