/* find.h - the chat templates and special tokens in a checkpoint's folder. */
#pragma once
#include "base/arena.h"

struct named_text {
    struct str name, text;
    const char *file;                /* below the folder; "" where nobody asks */
};

struct found {                       /* all in the arena */
    struct arena arena;
    struct named_text *templates;    /* "default", "tool_use", ...; none: n_templates 0 */
    int n_templates;
    struct named_text *tokens;       /* "bos_token" and the like */
    int n_tokens;
};

/* DIR may be NULL: nothing is found. False: a file is there and cannot be used. */
bool find_chat(const char *dir, struct found *, struct err *);
void found_free(struct found *);
