/* joints.h - between which characters of a word the tokens of a byte-level vocabulary reach.
 *
 * A merge across a place between two characters makes a token that has bytes of both. Where no
 * token has, the word comes out as its two sides do alone. */
#pragma once
#include "tokens/vocab.h"

enum joint {
    JOINT_FREE,                      /* no token reaches across */
    JOINT_WHOLE,                     /* those that may have both characters whole */
    JOINT_TORN                       /* one may have a part of a character */
};

struct joints;

/* Of a vocabulary whose spellings are byte_chars.h's stand-ins; NULL is never returned. */
struct joints *joints_new(const struct vocab *);
void joints_free(struct joints *);
/* Between two characters, at most four bytes each, that follow each other in valid UTF-8. Errs
 * towards a token that is there. Two of ASCII were not looked at: JOINT_TORN. */
enum joint joints_between(const struct joints *, struct str left, struct str right);
