/* main.c - the commands, a row each. What they share begins in cli/cli.c. */
#include "cli/cli.h"

static const struct command commands[] = {
    { "run", CMD_RUN, "[MODEL] [PROMPT]...", "chat with a model, or answer one prompt",
      "On a terminal without a prompt it opens a chat; /help lists what can be typed there. With "
      "-p, words, --file or a pipe it answers once. Only the answer goes to standard output. A "
      "first word with a slash that names a folder, or is spelt owner/name, is the model.",
      POSITIONALS_MAX, cli_run },
    { "generate", CMD_GENERATE, "[MODEL] [PROMPT]", "continue a text, without a chat template",
      "Takes a text or token ids and prints what the model goes on with. Control tokens in the "
      "text count unless --literal is given. A checkpoint without a tokenizer works with --ids and "
      "--print-ids.", 2, cli_generate },
    { "inspect", CMD_INSPECT, "[MODEL]", "what a checkpoint holds and would need",
      "Prints the configuration as it was understood, an estimate of memory, what each tensor is, "
      "and the keys of config.json that nobody read.", 1, cli_inspect },
    { "arch", CMD_ARCH, "", "the families of models that can run",
      "Lists every supported family, the model_type values it stands for, and what it was checked "
      "against.", 0, cli_arch },
    { "tokenize", CMD_TOKENIZE, "[MODEL]", "text to token ids and back",
      "Reads text from standard input, or takes it with -p, and prints a line per token: the id "
      "and its text. With --decode it reads ids, as a list or as JSON, and prints the text.", 1,
      cli_tokenize },
    { "help", CMD_HELP, "[COMMAND]", "help on a command, or its manual page",
      "Lists the commands, or the options of one. With --man it writes the manual page of the "
      "command, or of mlxcel itself, as roff.", 1, cli_help },
    { "apply-template", CMD_TEMPLATE, "[MODEL]", "the exact prompt that messages become",
      "Renders the chat template of a model, or the one given with --template, over a list of "
      "messages, and prints the text and nothing else.", 1, cli_apply_template },
    { "logits", CMD_LOGITS, "[MODEL]", "write the logits for given ids to a file",
      "Runs the ids through the model and writes a safetensors file with one tensor, logits, F32 "
      "[rows, vocabulary], a row for each position. The file appears complete or not at all.", 1,
      cli_logits },
    { "bench", CMD_BENCH, "[MODEL]", "measure prefill and decode",
      "Runs prompts of arbitrary tokens, several at a time, and prints tokens per second: the "
      "median of some runs after one that does not count.", 1, cli_bench },
    { "selftest", CMD_SELFTEST, "[MODEL]", "check a model's exactness on this machine",
      "Checks that an answer does not depend, in a single bit, on how the prompt was cut, on "
      "neighbours in the batch, on kept prefixes, or on having been interrupted.", 1,
      cli_selftest },
    { "serve", CMD_SERVE, "[MODEL]", "serve a model over HTTP, as OpenAI's API does",
      "Listens on 127.0.0.1:8080, loads the model and answers clients of OpenAI's API and of "
      "llama-server, until SIGTERM or Ctrl-C: then running requests may finish, and a second "
      "signal ends them, too. mlxcel-server is the same. docs/server.md has the details.", 1,
      cli_serve },
    { "health", CMD_HEALTH, "[URL]", "ask whether a server is ready",
      "Asks the server at URL, or where --host and --port or their variables say, for /health. "
      "Exit code 0: it serves.", 1, cli_health },
    { "completion", CMD_COMPLETION, "bash|zsh|fish", "a completion script for a shell",
      "Writes a script that completes commands, options and values. In bash: "
      "source <(mlxcel completion bash).", 1, cli_completion },
};

int main(int argc, char **argv) {
    return cli_main(commands, (int)COUNT(commands), argc, argv);
}
