/* chat.h - a conversation with a model: its messages, and one answer at a time.
 *
 * Every turn renders the whole conversation again; the engine's kept prefixes make
 * that cost only what is new. */
#pragma once
#include "cli/editor.h"
#include "cli/session.h"

struct conversation {
    struct session *s;
    struct args *a;
    const struct chat *chat;
    struct json_object *messages, *tools;    /* tools: NULL or a list */
    struct json_object *vars;                /* of the template; an object */
    struct editor *editor;                   /* NULL: one shot */
    struct buf pending;                      /* what /read put before the next message */
    struct answer last;
    long total_in, total_cached, total_out;
    int answers;
    bool quit, speeds;                       /* speeds: a line after each answer */
};

/* Reads what the options say of it: system message, tools, variables. False: close it all the
 * same. The session and the args stay the caller's. */
bool conversation_open(struct conversation *, struct session *, struct args *, struct err *);
void conversation_close(struct conversation *);

/* Adds the user's message, if not NULL, answers, and adds the answer. On failure the
 * conversation is as it was. With `silent` nothing is shown. */
bool conversation_turn(struct conversation *, const struct str *message, bool silent, struct err *);
/* Tokens of the conversation as it stands; -1: it does not render. */
int conversation_tokens(const struct conversation *, struct err *);
/* Sets the system message; empty: none. */
void conversation_system(struct conversation *, struct str text);
const char *message_role(struct json_object *message);
struct str message_text(struct json_object *message);
void conversation_drop_last(struct conversation *);      /* the last message, if any */
const char *conversation_last_role(const struct conversation *);     /* "" when empty */

/* A line that begins with '/'. */
void chat_command(struct conversation *, struct str line);
const char *chat_words(int i, bool *file);               /* editor_words */
