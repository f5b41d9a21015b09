/* regex.h - the regexes of tokenizer files, written for Oniguruma, run on PCRE2.
 *
 * The two differ in a few places, which are rewritten at compile time so that both
 * find the same: \s, \w, \b and \h as Unicode has them there, scripts without their
 * extensions, `{1,3}+` as a repeat of a repeat, classes with && and nested classes. */
#pragma once
#include "base/buf.h"

struct regex;

/* err: names what is not understood. */
struct regex *regex_new(struct str pattern, struct err *);
/* A pattern that stands for itself. Never fails; empty ones match nothing. */
struct regex *regex_literal(struct str text);
void regex_free(struct regex *);

/* The rewritten pattern, for tests. False: what is wrong is in the err. */
bool regex_rewrite(struct str pattern, struct buf *out, struct err *);

/* A walk over the matches in a text: not overlapping, left to right, an empty match never
 * right after another match. The text is valid UTF-8 and stays where it is. Where a match needs
 * more than the limits on steps and memory, the rest of the text is matched in stretches of
 * 64 KiB. */
struct regex_walk {
    const struct regex *regex;
    struct str text;
    size_t at, last_end;
    bool any;
    bool narrow;                     /* a limit was met in this text */
    void *data;
};
struct regex_walk regex_walk_open(const struct regex *);
void regex_walk_text(struct regex_walk *, struct str text);       /* starts over, on this text */
bool regex_walk_next(struct regex_walk *, size_t *begin, size_t *end);
void regex_walk_close(struct regex_walk *);
