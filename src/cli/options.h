/* options.h - every option of every command, as one table.
 *
 * Parsing, variables, the config file, --help, the man page and the shell completions are all
 * read from the table in options_table.c, so none of them can disagree. A value is written into
 * `struct args` at the row's offset; what a command does with it is its own affair. */
#pragma once
#include "base/buf.h"
#include "sample/sample.h"
#include <stddef.h>

enum cmd {                           /* bits: an option names the commands that take it */
    CMD_RUN = 1, CMD_GENERATE = 2, CMD_INSPECT = 4, CMD_ARCH = 8, CMD_TOKENIZE = 16,
    CMD_TEMPLATE = 32, CMD_LOGITS = 64, CMD_BENCH = 128, CMD_SELFTEST = 256,
    CMD_COMPLETION = 512, CMD_HELP = 1024, CMD_SERVE = 2048, CMD_HEALTH = 4096, CMD_ALL = 8191
};

enum value_kind {
    V_FLAG,                          /* bool: true */
    V_OFF,                           /* bool: false; a flag that takes another one back */
    V_ALWAYS,                        /* bool: true; what always holds, so it cannot be false */
    V_COUNT,                         /* int: one more each time */
    V_TEXT, V_FILE, V_DIR,           /* const char *; the last two differ in completion only */
    V_CHOICE,                        /* const char *, one of row.choices */
    V_INT, V_FLOAT,
    V_SEED,                          /* uint64_t; -1 draws one */
    V_BYTES, V_MIB,                  /* size_t; bytes take K, M, G */
    V_SECONDS,                       /* double; takes s, m, h */
    V_LIST                           /* struct text_list: may be repeated */
};

enum { TEXT_LIST_MAX = 64, OPTIONS_MAX = 160, POSITIONALS_MAX = 64 };
struct text_list { const char *at[TEXT_LIST_MAX]; int n; };

/* Who said so; a later one wins. */
enum from { FROM_DEFAULT, FROM_COMMON, FROM_SECTION, FROM_VARIABLE, FROM_FLAG };
struct origin {
    enum from from;
    struct str name;                 /* of the flag or variable, or the config file's path */
    int line;                        /* of the config file */
};

struct args {
    const char *command;
    /* which model, and how it is opened */
    const char *model, *device, *isa, *compute, *kv, *packed;
    int threads, context, chunk;
    size_t cache_bytes;
    bool no_prefix_cache, fast;
    /* what goes in */
    const char *prompt, *file, *ids, *system, *system_file, *messages, *tools;
    const char *template_text, *template_file, *template_vars, *think, *reasoning_effort;
    const char *reasoning_field;
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
    /* the server */
    struct text_list hosts, api_keys, origins, allowed_hosts;
    const char *api_key_file, *api_prefix, *alias, *log_file, *log_format,
        *log_level;
    int port, parallel, queue, key_limit, connections;
    size_t body_max;
    float slowdown;
    double timeout_s, drain_s, ping_s, header_s, body_s, idle_s, stall_s;
    bool strict_model, no_api_key, no_slots, no_props, no_metrics, no_warmup, no_perf, always;
    /* settings */
    const char *config;
    bool print_config;
    char *config_text;               /* what config values point into; args_free */
    const char *positional[POSITIONALS_MAX]; int n_positionals;
    struct origin origin[OPTIONS_MAX];       /* by row of the table */
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
    const char *variable;            /* names besides MLXCEL_<LONG_NAME>; NULL: none, "-": not even
                                        that one, nor a key of the config file */
    const char *help;
};
extern const struct option options[];
extern const int n_options;

/* Spellings that other engines taught people. They are refused with the reason, never ignored. */
struct foreign { const char *names, *reason; unsigned commands; };
extern const struct foreign foreign_options[];
extern const int n_foreign_options;

void args_init(struct args *);
void args_free(struct args *);
/* Reads argv[0..n): the words after the command's name. `command` is its bit, and
 * args->command its name. Everything in args points into argv. */
bool options_parse(struct args *, unsigned command, int n, char **argv, struct err *);

/* Fills what the command line left open: from variables, then from the config file, its section of
 * this model before its common part. `model_word`: the first positional is a model, too. False:
 * the err names the variable, or the file and the line. */
bool settings_read(struct args *, unsigned command, bool model_word, struct err *);
/* --print-config: what holds, as a config file, and in comments where each value came from. `model`
 * is what the checkpoint itself asks for. */
void settings_print(struct buf *, const struct args *, unsigned command,
                    const struct sample_params *model);

/* The row of this name that the commands take, or NULL. */
const struct option *option_find(unsigned commands, struct str name);
bool option_given(const struct args *, const void *field);       /* by any of its rows */
/* Writes a value that `origin` gave; flags take "", "on", "off" and the like. */
bool option_set(struct args *, const struct option *, struct str value, struct origin origin,
                struct err *);
/* The row's own variable, MLXCEL_PORT. */
void option_variable(struct buf *, const struct option *);
/* Why an option that was not found is refused. `at` ("" or "file:3: ") begins the sentence. */
bool option_refuse(struct err *, const char *at, const char *command, unsigned bit,
                   struct str name);

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
