/* cli.h - what the subcommands share: the table of commands, finding a model,
 * reading what a person gave, and writing what a person or a script gets.
 *
 * Standard output carries answers and nothing else. */
#pragma once
#include "base/buf.h"
#include "cli/options.h"
#include "tokens/tokens.h"
#include <json-c/json_object.h>
#include <stdio.h>

struct command {
    const char *name;
    enum cmd bit;
    const char *words;               /* what follows the options, for the usage line */
    const char *summary;             /* half a line */
    const char *text;                /* a paragraph for --help and the manual */
    int n_words;                     /* positionals it takes at most */
    int (*run)(struct args *);       /* the exit code */
};

/* The whole program: what argv asks for, and the exit code. */
int cli_main(const struct command *, int n, int argc, char **argv);
const struct command *cli_commands(int *n);              /* the table cli_main was given */
const struct command *cli_command(const char *name);     /* NULL: none */

/* The commands, each in its file. They return the exit code. */
int cli_run(struct args *);
int cli_generate(struct args *);
int cli_inspect(struct args *);
int cli_arch(struct args *);
int cli_tokenize(struct args *);
int cli_apply_template(struct args *);
int cli_logits(struct args *);
int cli_bench(struct args *);
int cli_selftest(struct args *);
int cli_completion(struct args *);
int cli_help(struct args *);
int cli_serve(struct args *);
int cli_health(struct args *);

void help_command(const struct command *);               /* --help of one, to stdout */
void help_all(void);
void man_page(struct buf *, const struct command *);     /* NULL: mlxcel(1) itself */

/* "mlxcel: sentence" on standard error. Returns the exit code of the err. */
int cli_fail(const struct err *);
/* Ends standard output: `code`, or 1 with a sentence when it could not all be written. */
int cli_done(int code);

/* Finds the folder of a checkpoint: a path, owner/name[@revision] in the Hugging Face cache, or
 * (ref NULL) the built-in model. Never uses the network. ERR_NOT_FOUND says where it looked. */
bool model_find(const char *ref, struct buf *dir, struct err *);
/* Unless -m was given, a first positional becomes a->model: always for commands that take
 * nothing else, and otherwise when it has a slash and is a folder or spelt like owner/name. */
void model_from_words(struct args *a, bool only_model);

enum { INPUT_MAX = 64 << 20 };       /* bytes of any text a person gives */
bool input_file(struct buf *, const char *path, struct err *);   /* "-": standard input */
struct json_object *input_json(const char *path, struct err *);  /* strict; json_object_put it */
struct json_object *input_json_text(struct str, const char *what, struct err *);
bool input_ids(struct ids *, const char *list, struct err *);    /* 1,2,3, @FILE or @- */
bool input_ids_text(struct ids *, struct str text, const char *what, struct err *);

/* A file that appears complete or not at all: write to `file`, then commit. */
struct new_file { int fd; char *path, *temporary; };
bool new_file_open(struct new_file *, const char *path, struct err *);
bool new_file_write(struct new_file *, const void *, size_t bytes, struct err *);
bool new_file_commit(struct new_file *, struct err *);
void new_file_drop(struct new_file *);                   /* nothing after a commit */

struct term { bool in, out, err; bool out_color, err_color; };   /* which are terminals */
struct term term_of(const char *color);                  /* --color */
void term_text(FILE *, bool terminal, struct str text);  /* flushed; harmless to a terminal */
const char *dim_on(bool color), *dim_off(bool color);

/* Ctrl-C and SIGTERM: the first is noted here, the third kills. */
int  signal_seen(void);              /* 0, or SIGINT, SIGTERM */
void signal_clear(void);
void signal_catch(void);
void signal_default(void);
