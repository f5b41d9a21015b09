/* cli.c - from argv to a command, and from its outcome to an exit code. */
#include "cli/cli.h"
#include "base/log.h"
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *table;
static int n_table;

const struct command *cli_commands(int *n) {
    *n = n_table;
    return table;
}

const struct command *cli_command(const char *name) {
    for (int i = 0; i < n_table; i++)
        if (!strcmp(table[i].name, name)) return &table[i];
    return NULL;
}

int cli_fail(const struct err *err) {
    fflush(stdout);
    fprintf(stderr, "mlxcel: %s\n", err->text[0] ? err->text : "failed");
    return err->code ? (int)err->code : ERR_FAILED;
}

int cli_done(int code) {
    bool bad = ferror(stdout) != 0;
    errno = 0;
    if (fflush(stdout)) bad = true;
    if (!bad) return code;
    /* A reader that left is no news to anyone. */
    if (errno != EPIPE)
        fprintf(stderr, "mlxcel: cannot write standard output: %s\n",
                errno ? strerror(errno) : "an earlier write failed");
    return code ? code : ERR_FAILED;
}

static int version(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[2], "--json")) {
        fprintf(stderr, "mlxcel: --version takes nothing but --json, not '%s'\n", argv[2]);
        return ERR_USAGE;
    }
    if (argc > 2)
        printf("{\"name\":\"mlxcel\",\"version\":\"%s\"}\n", MLXCEL_VERSION);
    else
        printf("mlxcel %s\n", MLXCEL_VERSION);
    return cli_done(0);
}

static int unknown_command(const char *name) {
    const char *word[32];
    int n = 0;
    for (; n < n_table && n < (int)COUNT(word); n++) word[n] = table[n].name;
    const char *guess = nearest(str_of(name), word, n);
    struct err err = { 0 };
    if (guess)
        err_code(&err, ERR_USAGE, "unknown command '%s'; did you mean '%s'?", name, guess);
    else
        err_code(&err, ERR_USAGE, "unknown command '%s' ('mlxcel help' lists them)", name);
    return cli_fail(&err);
}

static int run_command(const struct command *c, int n, char **argv) {
    struct args a;
    struct err err = { 0 };
    args_init(&a);
    a.command = c->name;
    if (!options_parse(&a, c->bit, n, argv, &err)) return cli_fail(&err);
    if (a.help) {
        help_command(c);
        return cli_done(0);
    }
    bool model_word = !strncmp(c->words, "[MODEL]", 7) && c->n_words == 1;
    if (!settings_read(&a, c->bit, model_word, &err)) {
        args_free(&a);
        return cli_fail(&err);
    }
    if (a.n_positionals > c->n_words) {
        args_free(&a);
        err_code(&err, ERR_USAGE, "'%s' does not take '%s' (usage: mlxcel %s [OPTION]... %s)",
                 c->name, a.positional[c->n_words], c->name, c->words);
        return cli_fail(&err);
    }
    if (a.quiet) log_level = LOG_ERROR;
    if (a.verbose) log_level = a.verbose > 1 ? LOG_DEBUG : LOG_INFO;
    int code = cli_done(c->run(&a));
    args_free(&a);
    return code;
}

/* Weights are used where they are mapped: when somebody cuts such a file short, or its disk fails,
 * the kernel has nothing else to say than this signal. */
static void on_bus_error(int number) {
    static const char said[] = "mlxcel: a file of the model was cut short, or could not be read, "
                               "while it was in use\n";
    (void)number;
    ssize_t n = write(STDERR_FILENO, said, sizeof said - 1);
    (void)n;
    _exit(ERR_FAILED);
}

int cli_main(const struct command *commands, int n, int argc, char **argv) {
    table = commands;
    n_table = n;
    /* A parent may have left SIGPIPE ignored; a closed pipe ends us quietly as it ends others. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGBUS, on_bus_error);
    setlocale(LC_CTYPE, "");
    /* The server under its other name. */
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    const char *self = slash ? slash + 1 : argc ? argv[0] : "";
    if (!strcmp(self, "mlxcel-server") && !(argc > 1 && !strcmp(argv[1], "--version")))
        return run_command(cli_command("serve"), argc - 1, argv + 1);
    if (argc < 2) {
        help_all();
        return cli_done(ERR_USAGE);
    }
    const char *first = argv[1];
    if (!strcmp(first, "--version")) return version(argc, argv);
    if (!strcmp(first, "--help") || !strcmp(first, "-h")) {
        help_all();
        return cli_done(0);
    }
    /* What builds and packages call, spelt as options. */
    if (!strcmp(first, "--man")) return run_command(cli_command("help"), argc - 1, argv + 1);
    if (!strcmp(first, "--completion"))
        return run_command(cli_command("completion"), argc - 2, argv + 2);
    if (first[0] == '-') {
        struct err err = { 0 };
        err_code(&err, ERR_USAGE, "a command comes first, such as 'mlxcel run %s'", first);
        return cli_fail(&err);
    }
    const struct command *c = cli_command(first);
    return c ? run_command(c, argc - 2, argv + 2) : unknown_command(first);
}
