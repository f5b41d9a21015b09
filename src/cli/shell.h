/* shell.h - two things outside of this process: a person's editor and clipboard. */
#pragma once
#include "cli/cli.h"

/* Opens $VISUAL, $EDITOR or vi on a private file with this text and reads it back. */
bool shell_edit(struct buf *text, struct err *);
/* Asks the terminal to take a text (OSC 52): works through ssh, needs no program. */
bool shell_copy(struct str text, struct err *);
