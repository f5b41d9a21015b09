/* presplit.h - the pre-tokenizers: pieces in, smaller pieces out. */
#pragma once
#include "tokens/part.h"
#include "tokens/text.h"

/* Finds each part's row; refuses what is unknown. */
bool presplit_bind(struct parts *, struct err *);

/* A last ByteLevel step leaves bytes as they are instead of writing their stand-ins: its words
 * are for a model that takes bytes. */
bool presplit_gives_bytes(const struct parts *);
/* Whether a step asks for origins. */
bool presplit_needs_origin(const struct parts *);

/* What a run works with; kept from text to text. */
struct presplit_space {
    struct text text;
    struct pieces pieces, found;
    struct regex_walk *walk;         /* [parts] opened on first use */
    int n_walks;
};
void presplit_run(const struct parts *, struct text *, struct pieces *, struct presplit_space *);
void presplit_free(struct presplit_space *);
