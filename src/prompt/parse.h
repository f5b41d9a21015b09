/* parse.h - what the two halves of the parser share: expressions in parse.c,
 * statements in statements.c. */
#pragma once
#include "prompt/template.h"

enum { NESTING_MAX = 120, CHAIN_MAX = 400 };

struct parser {
    struct box *box;
    struct template *t;
    const struct token *token;       /* the next one; never past T_END */
    int nesting;
    int loops;                       /* open for loops, for break and continue */
    bool saw_caller, saw_varargs, saw_kwargs;
    bool soft;                       /* directly in an if: a filter or test may be unknown */
    const struct node *unknown;      /* a use of one that is not, if any */
    struct node *blocks;             /* linked by d */
    int n_blocks;
    struct frame *frame, *frames;    /* the current one; those without one around them */
    uint32_t n_frames;
};

struct node *node_new(struct parser *, int kind);                  /* at the next token */
_Noreturn void parse_fail(struct parser *, const char *expected);  /* at the next token */
bool next_is(const struct parser *, int op);
bool next_word(const struct parser *, const char *name);
bool take(struct parser *, int op);
bool take_word(struct parser *, const char *name);
void expect(struct parser *, int op, const char *what);
struct node *name_node(struct parser *);                           /* takes a name */
void parse_enter(struct parser *);                                 /* parser->nesting-- leaves */

struct node *parse_expression(struct parser *);
struct node *parse_conditionless(struct parser *);                 /* no "x if y" at the top */
struct node *parse_tuple(struct parser *, bool conditions);        /* "a, b" without brackets */
struct node *parse_target(struct parser *, bool spaces);           /* of set and for */
struct node *parse_filters(struct parser *, struct node *on, bool first);
struct node *parse_body(struct parser *);                          /* the whole template */

/* A part with variables of its own; `apart`: it does not see those around.
 * What it hides is put to *to by frames_settle, when all is parsed. */
void frame_open(struct parser *, struct hidden **to, bool apart);
void frame_close(struct parser *);
void frame_use(struct parser *, uint32_t symbol, bool set);        /* set, or read or bound */
void frames_settle(struct parser *);

void parse_known(struct parser *);   /* fails when a filter or test so far is not known */
