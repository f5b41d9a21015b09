/* chat.h - an open chat template, shared by rendering (chat.c) and by the
 * reading of what the model says (stream.c). */
#pragma once
#include "prompt/find.h"
#include "prompt/prompt.h"
#include "prompt/said.h"
#include "prompt/template.h"

struct chat {
    struct found found;
    struct template *plain, *with_tools;         /* either may be NULL, not both */
    struct tags tags;                            /* control tokens in marks; empty: unknown */
};

/* Notes which marks of reasoning and calls the vocabulary has as control tokens. */
void stream_find_tags(struct chat *, const struct tokenizer *);
