/* template.h - a compiled template: tokens, then a tree, then text.
 *
 * The language is Jinja's as chat templates get it from Hugging Face's runner:
 * trim_blocks and lstrip_blocks on, break and continue, {% generation %}, and
 * no way to load another file. */
#pragma once
#include "base/map.h"
#include "prompt/value.h"

enum token_kind { T_END, T_DATA, T_PRINT, T_PRINT_END, T_BLOCK, T_BLOCK_END, T_NAME, T_STRING,
                  T_INT, T_FLOAT, T_OP };

struct token {
    enum token_kind kind;
    int op;                          /* T_OP: its characters, the second times 256 */
    uint32_t at;                     /* offset in the source */
    union { struct str text; int64_t i; double f; } u;
};
#define OP2(a, b) ((a) | (b) << 8)

struct tokens { struct token *at; size_t n, cap; };
void lex(struct box *, struct str source, struct tokens *);        /* ends with T_END */

/* What the children a, b, c, d of a node are. A list is its first node, linked by `next`. */
enum node_kind {
    S_DATA,                          /* constant: the text */
    S_PRINT,                         /* a: list of expressions */
    S_IF,                            /* a: condition, b: body, c: else body (elif: an S_IF) */
    S_FOR,                           /* a: target, b: iterable, c: body, d: else body,
                                        e: condition or NULL; op: it is recursive */
    S_SET,                           /* a: target, b: expression */
    S_SET_BLOCK,                     /* a: target, b: filters on E_CAPTURED or NULL, c: body */
    S_MACRO,                         /* symbol, a: parameters (E_NAME, a: default), c: body */
    S_CALL,                          /* a: parameters, b: E_CALL, c: body */
    S_FILTER,                        /* b: filters on E_CAPTURED, c: body */
    S_WITH,                          /* a: targets, b: values, c: body */
    S_SCOPE,                         /* c: body */
    S_BLOCK,                         /* c: body, op: sees the variables around it */
    S_SCOPELESS,                     /* c: body, with the variables around it */
    S_BREAK, S_CONTINUE,

    E_CONST,                         /* constant */
    E_CAPTURED,                      /* the text that a block made */
    E_NAME,                          /* symbol, name */
    E_ATTR,                          /* a.name; as a target: symbol is the namespace's, a NULL */
    E_ITEM,                          /* a[b] */
    E_SLICE,                         /* [a:b:c], each may be NULL */
    E_CALL,                          /* a(args) */
    E_FILTER, E_TEST,                /* a | name(args), a is name(args); builtin: which */
    E_BINARY,                        /* a op b */
    E_COMPARE,                       /* a, then b: list of E_OPERAND */
    E_OPERAND,                       /* op, a */
    E_AND, E_OR, E_NOT, E_NEG, E_POS,
    E_IF,                            /* b if a else c (or NULL) */
    E_LIST, E_TUPLE,                 /* a: list */
    E_DICT,                          /* a: keys, b: values */
    E_CONCAT,                        /* a: list */
    E_ARG                            /* op 0: a; '=': name and a; '*': *a; 'k': **a */
};

enum { OP_IN = 1, OP_NOT_IN = 2 };   /* E_OPERAND's that are words */

struct node {
    uint8_t kind;
    uint8_t calls_caller, takes_varargs, takes_kwargs;   /* S_MACRO, S_CALL: named inside */
    uint32_t at;
    int op;
    int builtin;
    uint32_t symbol;
    struct node *next, *a, *b, *c, *d, *e;
    struct node *args;               /* E_CALL, E_FILTER, E_TEST: E_ARG list */
    struct text *name;
    struct value constant;
    struct hidden *hidden;           /* of the body's frame; NULL: nothing */
};

/* Variables that a body sets before it reads them, undefined until then (frames.c). */
struct hidden { uint32_t n, symbol[]; };

struct template {
    struct source source;
    struct box box;                  /* holds the source, the tree and its texts; left open */
    struct node *body;
    struct map symbols;              /* variables, numbered; the keys lie in the source */
    struct text **symbol;            /* their names by number */
    uint32_t n_symbols;
    struct hidden *hidden;           /* of the template as a whole */
    bool reads_parts;                /* goes through a message's content as a list */
};

/* Compiles; NULL with a sentence naming line and column. The text is copied. */
struct template *template_open(struct str text, struct err *);
void template_close(struct template *);

/* Numbers of filters and tests by name, -1: there is none. */
int filter_number(struct str name);
int test_number(struct str name);
