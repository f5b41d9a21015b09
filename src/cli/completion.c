/* completion.c - completion scripts for bash, zsh and fish, from the option table.
 *
 * A script knows the options of each command, the words of a choice, and whether a
 * value is a file or a folder. It runs nothing: completing a line costs no process. */
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void names_of(struct buf *out, const struct option *o, char between) {
    for (int i = 0;; i++) {
        struct str n = name_at(o->names, i);
        if (!n.len) return;
        if (i) buf_char(out, between);
        buf_str(out, n);
    }
}

/* In single quotes of a shell. */
static void quoted(struct buf *out, const char *text) {
    buf_char(out, '\'');
    for (; *text; text++) {
        if (*text == '\'')
            buf_str(out, S("'\\''"));
        else
            buf_char(out, *text);
    }
    buf_char(out, '\'');
}

static void words_of(struct buf *out, const char *choices) {
    for (; *choices; choices++) buf_char(out, *choices == '|' ? ' ' : *choices);
}

static void bash_values(struct buf *out, const struct command *c) {
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        if (!(o->commands & c->bit) || !o->value) continue;
        buf_format(out, "        %s:", c->name);
        for (int k = 0;; k++) {
            struct str n = name_at(o->names, k);
            if (!n.len) break;
            if (k) buf_format(out, "|%s:", c->name);
            buf_str(out, n);
        }
        buf_str(out, S(") "));
        if (o->kind == V_CHOICE) {
            buf_str(out, S("COMPREPLY=($(compgen -W '"));
            words_of(out, o->choices);
            buf_str(out, S("' -- \"$cur\"));"));
        } else if (o->kind == V_FILE || o->kind == V_DIR) {
            buf_format(out, "compopt -o filenames; COMPREPLY=($(compgen -%c -- \"$cur\"));",
                       o->kind == V_FILE ? 'f' : 'd');
        }
        buf_str(out, S(" return ;;\n"));
    }
}

static void bash(struct buf *out, const struct command *c, int n) {
    buf_str(out, S("# bash completion for mlxcel\n_mlxcel() {\n"
                   "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                   "    local cmd=${COMP_WORDS[1]}\n    COMPREPLY=()\n"
                   "    if ((COMP_CWORD == 1)); then\n        COMPREPLY=($(compgen -W '"));
    for (int i = 0; i < n; i++) buf_format(out, "%s ", c[i].name);
    buf_str(out, S("--version --help' -- \"$cur\"))\n        return\n    fi\n"
                   "    case $cmd:$prev in\n"));
    for (int i = 0; i < n; i++) bash_values(out, &c[i]);
    buf_str(out, S("    esac\n    local words=\n    case $cmd in\n"));
    for (int i = 0; i < n; i++) {
        buf_format(out, "        %s) words='", c[i].name);
        for (int k = 0; k < n_options; k++) {
            if (!(options[k].commands & c[i].bit)) continue;
            names_of(out, &options[k], ' ');
            buf_char(out, ' ');
        }
        if (c[i].bit == CMD_COMPLETION) buf_str(out, S("bash zsh fish"));
        if (c[i].bit == CMD_HELP)
            for (int k = 0; k < n; k++) buf_format(out, "%s ", c[k].name);
        buf_str(out, S("' ;;\n"));
    }
    buf_str(out, S("    esac\n    if [[ $cur == -* || $cmd == completion || $cmd == help ]]; then\n"
                   "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n    else\n"
                   "        compopt -o filenames\n"
                   "        COMPREPLY=($(compgen -f -- \"$cur\"))\n    fi\n}\n"
                   "complete -F _mlxcel mlxcel\n"));
}

/* '(-m --model)'{-m,--model}'[help]:VALUE:action', escaped for _arguments. */
static void zsh_option(struct buf *out, const struct option *o) {
    struct str second = name_at(o->names, 1);
    buf_str(out, S("                "));
    if (second.len) {
        buf_str(out, S("'("));
        names_of(out, o, ' ');
        buf_str(out, S(")'{"));
        names_of(out, o, ',');
        buf_char(out, '}');
    } else {
        names_of(out, o, ' ');
    }
    struct buf text = { 0 };
    buf_char(&text, '[');
    for (const char *at = o->help; *at; at++) {
        if (strchr("[]:\\", *at)) buf_char(&text, '\\');
        buf_char(&text, *at);
    }
    buf_char(&text, ']');
    if (o->kind == V_CHOICE) {
        buf_str(&text, S(":word:("));
        words_of(&text, o->choices);
        buf_char(&text, ')');
    } else if (o->value) {
        buf_format(&text, ":%s:%s", o->value,
                   o->kind == V_FILE ? "_files" : o->kind == V_DIR ? "_files -/" : " ");
    }
    quoted(out, buf_c(&text));
    buf_str(out, S(" \\\n"));
    buf_free(&text);
}

static void zsh(struct buf *out, const struct command *c, int n) {
    buf_str(out, S("#compdef mlxcel\n_mlxcel() {\n    local -a commands\n    commands=(\n"));
    for (int i = 0; i < n; i++) {
        struct buf text = { 0 };
        buf_format(&text, "%s:%s", c[i].name, c[i].summary);
        buf_str(out, S("        "));
        quoted(out, buf_c(&text));
        buf_char(out, '\n');
        buf_free(&text);
    }
    buf_str(out, S("    )\n    if ((CURRENT == 2)); then\n        _describe command commands\n"
                   "        return\n    fi\n    local cmd=${words[2]}\n    shift words\n"
                   "    ((CURRENT--))\n    case $cmd in\n"));
    for (int i = 0; i < n; i++) {
        buf_format(out, "        %s)\n            _arguments -S \\\n", c[i].name);
        for (int k = 0; k < n_options; k++)
            if (options[k].commands & c[i].bit) zsh_option(out, &options[k]);
        if (c[i].bit == CMD_COMPLETION)
            buf_str(out, S("                '1:shell:(bash zsh fish)' ;;\n"));
        else if (c[i].bit == CMD_HELP)
            buf_str(out, S("                '1:command:_mlxcel_commands' ;;\n"));
        else
            buf_str(out, S("                '*:word:_files' ;;\n"));
    }
    buf_str(out, S("    esac\n}\n_mlxcel_commands() {\n    compadd --"));
    for (int i = 0; i < n; i++) buf_format(out, " %s", c[i].name);
    buf_str(out, S("\n}\n_mlxcel \"$@\"\n"));
}

static void fish_option(struct buf *out, const struct command *c, const struct option *o) {
    for (int i = 0;; i++) {
        struct str n = name_at(o->names, i);
        if (!n.len) return;
        /* -s takes one letter, -o a long name with one dash. */
        bool two = str_starts(n, "--");
        struct str bare = str_from(n, two ? 2 : 1);
        buf_format(out, "complete -c mlxcel -n '__fish_seen_subcommand_from %s' -%c %.*s", c->name,
                   two ? 'l' : bare.len == 1 ? 's' : 'o', STR_ARG(bare));
        if (o->kind == V_CHOICE) {
            buf_str(out, S(" -x -a '"));
            words_of(out, o->choices);
            buf_char(out, '\'');
        } else if (o->kind == V_FILE) {
            buf_str(out, S(" -r -F"));
        } else if (o->kind == V_DIR) {
            buf_str(out, S(" -x -a '(__fish_complete_directories)'"));
        } else if (o->value) {
            buf_str(out, S(" -x"));
        }
        buf_str(out, S(" -d "));
        struct buf help = { 0 };
        buf_str(&help, str_of(o->help));
        quoted(out, buf_c(&help));
        buf_free(&help);
        buf_char(out, '\n');
    }
}

static void fish(struct buf *out, const struct command *c, int n) {
    buf_str(out, S("# fish completion for mlxcel\n"));
    for (int i = 0; i < n; i++) {
        buf_format(out, "complete -c mlxcel -n __fish_use_subcommand -x -a %s -d ", c[i].name);
        quoted(out, c[i].summary);
        buf_char(out, '\n');
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n_options; k++)
            if (options[k].commands & c[i].bit) fish_option(out, &c[i], &options[k]);
        if (c[i].bit == CMD_COMPLETION)
            buf_str(out, S("complete -c mlxcel -n '__fish_seen_subcommand_from completion' -x "
                           "-a 'bash zsh fish'\n"));
    }
}

int cli_completion(struct args *a) {
    struct err err = { 0 };
    struct buf out = { 0 };
    int n;
    const struct command *c = cli_commands(&n);
    const char *shell = a->n_positionals ? a->positional[0] : "";
    if (!strcmp(shell, "bash")) {
        bash(&out, c, n);
    } else if (!strcmp(shell, "zsh")) {
        zsh(&out, c, n);
    } else if (!strcmp(shell, "fish")) {
        fish(&out, c, n);
    } else {
        err_code(&err, ERR_USAGE, "completion is for bash, zsh or fish, not '%s'", shell);
        return cli_fail(&err);
    }
    fwrite(out.at, 1, out.len, stdout);
    buf_free(&out);
    return 0;
}
