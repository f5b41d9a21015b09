/* options.h - every option of every command, as one table.
 *
 * Parsing, --help, the man page and the shell completions are all read from the
 * table in options_table.c, so none of them can disagree. A value is written into
 * `struct args` at the row's offset; what a command does with it is its own affair. */
#pragma once
#include "base/base.h"
#include "sample/sample.h"
#include <stddef.h>

enum cmd {                           /* bits: an option names the commands that take it */
    CMD_RUN = 1, CMD_GENERATE = 2, CMD_INSPECT = 4, CMD_ARCH = 8, CMD_TOKENIZE = 16,
    CMD_TEMPLATE = 32, CMD_LOGITS = 64, CMD_BENCH = 128, CMD_SELFTEST = 256,
    CMD_COMPLETION = 512, CMD_HELP = 1024, CMD_ALL = 2047
};

enum value_kind {
    V_FLAG,                          /* bool: true */
    V_COUNT,                         /* int: one more each time */
    V_TEXT, V_FILE, V_DIR,           /* const char *; the last two differ in completion only */
    V_CHOICE,                        /* const char *, one of row.choices */
    V_INT, V_FLOAT,
    V_SEED,                          /* uint64_t; -1 draws one */
    V_BYTES, V_MIB,                  /* size_t; bytes take K, M, G */
    V_LIST                           /* struct text_list: may be repeated */
};

enum { TEXT_LIST_MAX = 64, OPTIONS_MAX = 128, POSITIONALS_MAX = 64 };
struct text_list { const char *at[TEXT_LIST_MAX]; int n; };

struct args {
    const char *command;
    /* which model, and how it is opened */
    const char *model, *device, *isa, *compute;
    int threads, context, chunk;
    size_t cache_bytes;
    bool no_prefix_cache;
    /* what goes in */
    const char *prompt, *file, *ids, *system, *system_file, *messages, *tools;
    const char *template_text, *template_file, *template_vars, *think, *reasoning_effort;
    struct text_list vars;
    bool no_bos, literal, decode, no_generation_prompt;
    /* how an answer is made */
    int n_max;
    struct sample_params sample;     /* only the fields whose option was given count */
    const char *samplers;
    struct text_list logit_bias, stop, dry_breakers;
    bool ignore_eos;
    /* what comes out */
    const char *output, *color, *shell;
    int last, verbose;
    bool json, print_ids, quiet, hide_thinking, no_history, no_display_prompt, specials, man,
        help, version;
    /* bench */
    int bench_prompt, bench_generate, repeats;
    const char *batches;
    const char *positional[POSITIONALS_MAX]; int n_positionals;
    bool given[OPTIONS_MAX];         /* by row of the table */
};

struct option {
    const char *names;               /* "-m --model -hf"; the first long one stands for it */
    const char *value;               /* what --help calls the value; NULL: a flag */
    enum value_kind kind;
    const char *group;               /* heading in --help; rows of a group stand together */
    unsigned commands;
    size_t offset;                   /* in struct args */
    const char *choices;             /* V_CHOICE: "auto|always|never" */
    int64_t min, max;                /* V_INT */
    const char *help;
};
extern const struct option options[];
extern const int n_options;

/* Spellings that other engines taught people. They are refused with the reason, never ignored. */
struct foreign { const char *names, *reason; };
extern const struct foreign foreign_options[];
extern const int n_foreign_options;

void args_init(struct args *);
/* Reads argv[0..n): the words after the command's name. `command` is its bit, and
 * args->command its name. Everything in args points into argv. */
bool options_parse(struct args *, unsigned command, int n, char **argv, struct err *);

/* Copies the sampling parameters that were given over `base`. */
void options_sample(const struct args *, struct sample_params *base);
/* /set in the chat: `name` as in --help, dashes optional, `_` for `-`. False: the err says. */
bool options_set_sample(struct sample_params *, struct str name, struct str value, struct err *);

/* The i-th space-separated name of a list; the empty view after the last. */
struct str name_at(const char *names, int i);
struct str option_name(const struct option *);   /* the one that stands for it */
/* The best of n candidates within a third of the word's length, or NULL. */
const char *nearest(struct str word, const char *const *candidate, int n);

bool parse_int(struct str, int64_t min, int64_t max, int64_t *out);
bool parse_float(struct str, double *out);       /* decimal, "inf" and "-inf" included */
