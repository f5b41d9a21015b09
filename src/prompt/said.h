/* said.h - generated text that is not decided yet, and the marks that are looked for
 * in it: tags, most of which some vocabularies have as a single control token. */
#pragma once
#include "base/buf.h"

/* The added tokens that occur in marks. Where a vocabulary has such a token, the same letters from
 * ordinary tokens mean nothing. */
struct tag { struct str text; int id; };
struct tags { struct tag *at; int n; };

struct said {
    struct str text;
    const char *control;             /* [text.len] not 0: a tag's token wrote this byte */
    const struct tags *tags;         /* NULL: letters decide */
    bool last;                       /* nothing comes after it */
    size_t *work;                    /* NULL, or counts the bytes that were looked at */
};

enum match { MATCH_NO, MATCH_MORE, MATCH_YES };          /* MORE: the text ends too early to say */

/* Whether tokens of their own write some of the mark: then where it stands it means itself. */
bool said_by_token(const struct tags *, const char *mark);
/* Whether a mark stands at `at`. */
enum match said_at(const struct said *, size_t at, const char *mark);
/* The first mark at or after `from`, SIZE_MAX: none. *hold is then where a mark that the text's end
 * cuts may begin, else the text's length. */
size_t said_find(const struct said *, size_t from, const char *mark, size_t *hold);
/* The same for a mark that begins within `max` bytes; one further on is not looked for, and *hold
 * is then more than that away. */
size_t said_find_near(const struct said *, size_t from, const char *mark, size_t max, size_t *hold);
/* The first place at or after `from` that is no white space. */
size_t said_skip(const struct said *, size_t from);
bool said_blank(char c);
