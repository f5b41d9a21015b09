/* editor.h - messages typed on a terminal: libedit with history, pasting and
 * completion. Knows lines, not what they mean. */
#pragma once
#include "cli/cli.h"

enum line_end { LINE_READ, LINE_EOF, LINE_INTERRUPT };

/* Words that Tab completes: those that begin with `word` at the start of a line whose first
 * character is '/'. Returns the i-th, NULL after the last. `file` is set for those after which
 * paths are completed. */
typedef const char *editor_words(int i, bool *file);

struct editor;
/* `keep`: history is read from and written to $XDG_STATE_HOME/mlxcel/history. Needs a terminal as
 * standard input; shows itself on standard error. */
struct editor *editor_open(bool keep, editor_words *, struct err *);
void editor_close(struct editor *);                      /* writes the history */
void editor_keep(struct editor *, bool keep);

/* One message: a line, or several by a trailing backslash, a """ fence or a paste. */
enum line_end editor_read(struct editor *, struct buf *message);
