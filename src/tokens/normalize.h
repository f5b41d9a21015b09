/* normalize.h - the normalizers: text in, text out, origins kept. */
#pragma once
#include "tokens/part.h"
#include "tokens/text.h"

/* Finds each part's row and refuses what is unknown, or what could grow a text without bounds. */
bool normalize_bind(struct parts *, struct err *);

/* Whether a step asks for origins. */
bool normalize_needs_origin(const struct parts *);

/* Runs all; `text` is both input and output, `spare` is working space. */
void normalize_run(const struct parts *, struct text *text, struct text *spare);

/* A precompiled character map of SentencePiece: a double array trie and its replacements. */
struct charsmap;
struct charsmap *charsmap_new(struct str base64, struct err *);
/* The same from bytes, as *.model files hold it. */
struct charsmap *charsmap_from(struct str bytes, struct err *);
/* The replacement of this piece, a grapheme or a character; false: it has none. As in the
 * original of tokenizer.json, the shortest key that begins the piece decides for all of it. */
bool charsmap_get(const struct charsmap *, struct str piece, struct str *out);
/* SentencePiece's own rule: the length of the longest key that begins the text; 0: none. */
size_t charsmap_longest(const struct charsmap *, struct str text, struct str *out);
void charsmap_free(struct charsmap *);

/* False: a character that is none of base64's. Padding may lack. */
bool base64_read(struct str, struct buf *out);
