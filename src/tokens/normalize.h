/* normalize.h - the normalizers: text in, text out, origins kept. */
#pragma once
#include "tokens/part.h"
#include "tokens/text.h"

/* Finds each part's row and refuses what is unknown, or what could grow a text without bounds. */
bool normalize_bind(struct parts *, struct err *);

/* Runs all; `text` is both input and output, `spare` is working space. */
void normalize_run(const struct parts *, struct text *text, struct text *spare);

/* A precompiled character map of SentencePiece: a double array trie and its replacements. */
struct charsmap;
struct charsmap *charsmap_new(struct str base64, struct err *);
/* The same from bytes, as *.model files hold it. */
struct charsmap *charsmap_from(struct str bytes, struct err *);
/* The replacement of this whole piece of text; false: it has none. */
bool charsmap_get(const struct charsmap *, struct str piece, struct str *out);
void charsmap_free(struct charsmap *);
