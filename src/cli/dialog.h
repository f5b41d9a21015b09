/* dialog.h - messages and template variables as a command line gives them. */
#pragma once
#include "cli/cli.h"
#include "prompt/prompt.h"

/* --chat-template, --chat-template-file: a text or a name as chat_open takes it, NULL when none was
 * given. `text` keeps it. */
bool dialog_template(const struct args *, struct buf *text, const char **chosen, struct err *);
/* Puts the name of --chat-template-file before an error in it. */
void dialog_blame(const struct args *, struct err *);
/* --var, --think and their kin as one object; NULL with an empty err: none was given. */
struct json_object *dialog_vars(const struct args *, struct err *);
/* `value` is JSON, or else a plain word. Takes over nothing. */
bool dialog_set_var(struct json_object *vars, struct str name, struct str value);
/* on, off, low, medium, high: what templates of today ask for. */
void dialog_set_think(struct json_object *vars, const char *how);
/* --system, --system-file. Empty: none. */
bool dialog_system(const struct args *, struct buf *text, struct err *);
void dialog_say(struct json_object *messages, const char *role, struct str content);
