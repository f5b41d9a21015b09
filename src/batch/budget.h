/* budget.h - how many rows of prompts a step may carry beside the sequences that decode.
 *
 * A long prompt read at once would stop everybody's next token. So the engine notes what steps
 * cost, by the number of decoding rows, and what a row of a prompt adds; a step then carries as
 * many of those as make it `slowdown` times as long. Which rows a step has never changes a
 * result, so neither do these clocks. */
#pragma once
#include "base/base.h"

enum { BUDGET_SIZES = 12 };

struct budget {                      /* zeroed but for slowdown: nothing is known */
    double slowdown;                 /* at least 1; 0: no limit */
    double decode_s[BUDGET_SIZES];   /* of a step that only decodes 1, 2, 3-4, 5-8, ... rows */
    double row_s;                    /* that one row of a prompt adds; 0: not known */
};

/* Rows of prompts that the next step may have, 1 to rows_max; rows_max when nothing decodes. */
int budget_rows(const struct budget *, int n_decoding, int rows_max);
/* A step took so long. */
void budget_note(struct budget *, int n_decoding, int n_prompt, double seconds);
