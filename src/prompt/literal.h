/* literal.h - a value as a model writes it, turned into JSON while it comes.
 *
 * What is given out may be followed, at any moment, by literal_close, and is then
 * valid JSON: a comma, a key, half of an escape or of a word wait in `json` behind
 * `safe` until what makes them whole has come. */
#pragma once
#include "prompt/said.h"

enum dialect {
    LITERAL_JSON,                    /* kept as it is written; raw control characters in strings
                                        are escaped */
    LITERAL_PYTHON,                  /* literals of Python: tuples become lists */
    LITERAL_GEMMA                    /* bare keys, and strings between marks, <|"|> unless
                                        another is set after literal_open */
};
enum { LITERAL_DEPTH_MAX = 64 };

struct literal {
    enum dialect dialect;
    unsigned char state, number;
    bool key, comma;                 /* reading a key; a comma is owed before the next value */
    char quote;                      /* of the string that is read */
    int quotes;                      /* how many of them end it: 1 or 3 */
    const char *mark;                /* LITERAL_GEMMA: what is around strings */
    char open[LITERAL_DEPTH_MAX];    /* '{', '[', '(' and 'k', the keywords of a call */
    int depth;
    struct buf json;
    size_t safe;                     /* bytes of json that can be given out */
    size_t safe_at;                  /* the place in the text that they stand for */
};

enum literal_result { LITERAL_MORE, LITERAL_DONE, LITERAL_BAD };

void literal_open(struct literal *, enum dialect);       /* a zeroed one, or one used before */
/* "a=1, b='x')", what follows the parenthesis of a call, as one object. */
void literal_open_keywords(struct literal *);
/* Reads on from *at, which moves behind what was read. DONE: the value is whole, and all of json
 * is safe. BAD: at *at stands what cannot be there. */
enum literal_result literal_read(struct literal *, const struct said *, size_t *at);
/* Ends the value where it is: cuts json at `safe` and closes what is open. */
void literal_close(struct literal *);
void literal_free(struct literal *);

/* The inside of a JSON string for bytes of text; what is not UTF-8 becomes U+FFFD. */
void literal_put(struct buf *, struct str);
