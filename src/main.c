/* main.c - the commands, a row each. What they share begins in cli/cli.c. */
#include "cli/cli.h"

static const struct command commands[] = {
    { "tokenize", CMD_TOKENIZE, "[MODEL]", "text to token ids and back",
      "Reads text from standard input, or takes it with -p, and prints a line per token: the id "
      "and its text. With --decode it reads ids, as a list or as JSON, and prints the text.", 1,
      cli_tokenize },
    { "help", CMD_HELP, "[COMMAND]", "help on a command, or its manual page",
      "Lists the commands, or the options of one. With --man it writes the manual page of the "
      "command, or of mlxcel itself, as roff.", 1, cli_help },
    { "completion", CMD_COMPLETION, "bash|zsh|fish", "a completion script for a shell",
      "Writes a script that completes commands, options and values. In bash: "
      "source <(mlxcel completion bash).", 1, cli_completion },
};

int main(int argc, char **argv) {
    return cli_main(commands, (int)COUNT(commands), argc, argv);
}
