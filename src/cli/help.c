/* help.c - `mlxcel help`, --help of each command, and the manual pages.
 *
 * All of it is the option table and the command table, laid out. */
#include "cli/cli.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 80, INDENT = 26 };

/* Words of `text` in lines of WIDTH, from column `at` on, later lines indented. */
static void print_wrapped(const char *text, int at, int indent) {
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (at > indent && at + 1 + n > WIDTH) {
            printf("\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        fwrite(text, 1, (size_t)n, stdout);
        at += n;
        text += n;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(const struct option *o) {
    struct buf names = { 0 };
    for (int i = 0;; i++) {
        struct str n = name_at(o->names, i);
        if (!n.len) break;
        buf_format(&names, "%s%.*s", i ? ", " : "", STR_ARG(n));
    }
    if (o->value) buf_format(&names, " %s", o->value);
    int at = printf("  %s", buf_c(&names));
    if (at + 2 > INDENT) {
        printf("\n%*s", INDENT, "");
    } else {
        printf("%*s", INDENT - at, "");
    }
    print_wrapped(o->help, INDENT, INDENT);
    buf_free(&names);
}

void help_command(const struct command *c) {
    printf("mlxcel %s - %s\n\nusage: mlxcel %s [OPTION]...%s%s\n\n", c->name, c->summary, c->name,
           *c->words ? " " : "", c->words);
    print_wrapped(c->text, 0, 0);
    const char *group = "";
    for (int i = 0; i < n_options; i++) {
        if (!(options[i].commands & c->bit)) continue;
        if (strcmp(group, options[i].group) != 0) printf("\n%s\n", group = options[i].group);
        print_option(&options[i]);
    }
}

void help_all(void) {
    int n;
    const struct command *c = cli_commands(&n);
    printf("mlxcel %s - runs language models on this machine\n\n"
           "usage: mlxcel COMMAND [OPTION]...\n\n", MLXCEL_VERSION);
    for (int i = 0; i < n; i++) printf("  %-16s%s\n", c[i].name, c[i].summary);
    printf("\n'mlxcel COMMAND --help' lists the options of a command. Without -m the built-in\n"
           "model answers: 'mlxcel run' chats with it.\n");
}

/* Roff takes a backslash, and a dot or quote at the start of a line, as its own. */
static void roff(struct buf *out, const char *text) {
    if (*text == '.' || *text == '\'') buf_str(out, S("\\&"));
    for (; *text; text++) {
        if (*text == '\\')
            buf_str(out, S("\\e"));
        else if (*text == '-')
            buf_str(out, S("\\-"));
        else
            buf_char(out, *text);
    }
}

static void man_option(struct buf *out, const struct option *o) {
    buf_str(out, S(".TP\n"));
    for (int i = 0;; i++) {
        struct str n = name_at(o->names, i);
        if (!n.len) break;
        char *name = mem_str(n);
        buf_str(out, i ? S(", \\fB") : S("\\fB"));
        roff(out, name);
        buf_str(out, S("\\fR"));
        free(name);
    }
    if (o->value) {
        buf_str(out, S(" \\fI"));
        roff(out, o->value);
        buf_str(out, S("\\fR"));
    }
    buf_char(out, '\n');
    roff(out, o->help);
    buf_char(out, '\n');
}

static void man_end(struct buf *out) {
    static const char *const status[][2] = {
        { "0", "success" }, { "1", "a failure, such as a damaged file" },
        { "2", "a command line that means nothing" }, { "3", "the model was not found" },
        { "4", "a model or format that is not supported" }, { "5", "it does not fit in memory" },
        { "6", "the device is not available" }, { "130, 143", "stopped by Ctrl-C or SIGTERM" },
    };
    static const char *const variable[][2] = {
        { "MLXCEL_MODEL_DIR", "folder of the model to use without -m" },
        { "HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME",
          "where the Hugging Face cache is, the first that is set" },
        { "XDG_STATE_HOME", "where the chat's history is kept, in mlxcel/history" },
        { "NO_COLOR, CLICOLOR_FORCE, TERM", "whether --color auto uses colours" },
        { "VISUAL, EDITOR", "the editor that /edit opens" },
    };
    buf_str(out, S(".SH EXIT STATUS\n"));
    for (size_t i = 0; i < COUNT(status); i++)
        buf_format(out, ".TP\n%s\n%s\n", status[i][0], status[i][1]);
    buf_str(out, S(".SH ENVIRONMENT\n"));
    for (size_t i = 0; i < COUNT(variable); i++) {
        buf_format(out, ".TP\n%s\n", variable[i][0]);
        roff(out, variable[i][1]);
        buf_char(out, '\n');
    }
}

static void man_one(struct buf *out, const struct command *c) {
    const char *group = "";
    for (int i = 0; i < n_options; i++) {
        if (!(options[i].commands & c->bit)) continue;
        if (strcmp(group, options[i].group) != 0) {
            group = options[i].group;
            buf_str(out, S(".SS "));
            roff(out, group);
            buf_char(out, '\n');
        }
        man_option(out, &options[i]);
    }
}

void man_page(struct buf *out, const struct command *c) {
    buf_str(out, S(".TH MLXCEL"));
    if (c) buf_char(out, '-');
    for (const char *at = c ? c->name : ""; *at; at++)
        buf_char(out, (char)toupper((unsigned char)*at));
    buf_format(out, " 1 \"\" \"mlxcel %s\" \"User Commands\"\n.SH NAME\n", MLXCEL_VERSION);
    buf_format(out, "mlxcel%s%s \\- ", c ? "-" : "", c ? c->name : "");
    roff(out, c ? c->summary : "runs language models on this machine");
    buf_str(out, S("\n.SH SYNOPSIS\n.B mlxcel "));
    roff(out, c ? c->name : "");
    buf_format(out, "\n%s[\\fIOPTION\\fR]...\n", c ? "" : "\\fICOMMAND\\fR ");
    roff(out, c ? c->words : "");
    buf_str(out, S("\n.SH DESCRIPTION\n"));
    if (c) {
        roff(out, c->text);
        buf_str(out, S("\n.SH OPTIONS\n"));
        man_one(out, c);
    } else {
        int n;
        const struct command *all = cli_commands(&n);
        for (int i = 0; i < n; i++) {
            buf_str(out, S(".TP\n.B mlxcel "));
            roff(out, all[i].name);
            buf_char(out, '\n');
            roff(out, all[i].text);
            buf_format(out, "\nSee mlxcel\\-%s(1).\n", all[i].name);
        }
    }
    man_end(out);
}

int cli_help(struct args *a) {
    const struct command *c = a->n_positionals ? cli_command(a->positional[0]) : NULL;
    if (a->n_positionals && !c) {
        struct err err = { 0 };
        err_code(&err, ERR_USAGE, "no command '%s' ('mlxcel help' lists them)", a->positional[0]);
        return cli_fail(&err);
    }
    if (a->man) {
        struct buf page = { 0 };
        man_page(&page, c);
        fwrite(page.at, 1, page.len, stdout);
        buf_free(&page);
    } else if (c) {
        help_command(c);
    } else {
        help_all();
    }
    return 0;
}
