/* options_table.c - the options themselves.
 *
 * Spellings are those that llama.cpp, Ollama, vLLM and mlx-lm taught people. A row's first long
 * name stands for it in help, in its variable and in the config file. Rows of a group stand
 * together. */
#include "cli/options.h"
#include <limits.h>

#define AT(field) offsetof(struct args, field)
#define ANSWERS (CMD_RUN | CMD_GENERATE)
#define OPENS (ANSWERS | CMD_LOGITS | CMD_BENCH | CMD_SELFTEST | CMD_SERVE)
#define MODELS (OPENS | CMD_INSPECT | CMD_TOKENIZE | CMD_TEMPLATE)
#define TEMPLATES (CMD_RUN | CMD_TEMPLATE | CMD_SERVE)
#define SAMPLES (ANSWERS | CMD_SERVE)
#define JSON (ANSWERS | CMD_INSPECT | CMD_ARCH | CMD_TOKENIZE | CMD_BENCH)
#define SETTINGS (OPENS | CMD_INSPECT | CMD_TOKENIZE | CMD_TEMPLATE | CMD_HEALTH)
#define ENV(name) "LLAMA_ARG_" name

#define ROW(names, value, kind, group, commands, field, variable, help) \
    { names, value, kind, group, commands, AT(field), NULL, 0, 0, variable, help },
#define FLAG(names, group, commands, field, variable, help) \
    ROW(names, NULL, V_FLAG, group, commands, field, variable, help)
#define OFF(names, group, commands, field, variable, help) \
    ROW(names, NULL, V_OFF, group, commands, field, variable, help)
#define PICK(names, group, commands, field, choices, variable, help) \
    { names, choices, V_CHOICE, group, commands, AT(field), choices, 0, 0, variable, help },
#define WHOLE(names, group, commands, field, min, max, variable, help) \
    { names, "N", V_INT, group, commands, AT(field), NULL, min, max, variable, help },
#define REAL(names, field, variable, help) \
    ROW(names, "X", V_FLOAT, "Sampling", SAMPLES, sample.field, variable, help)
#define SERVE(names, value, kind, group, field, variable, help) \
    ROW(names, value, kind, group, CMD_SERVE, field, variable, help)

const struct option options[] = {
    ROW("-m --model -hf --hf-repo", "MODEL", V_DIR, "Model", MODELS, model,
        ENV("MODEL") " " ENV("HF_REPO"),
        "folder of a checkpoint, or owner/name in the Hugging Face cache; without it the "
        "built-in model")
    ROW("--device -dev", "NAME", V_TEXT, "Model", OPENS, device, ENV("DEVICE"), "cpu, cuda or auto")
    PICK("--isa", "Model", OPENS, isa, "generic|avx2|avx512|avx512_bf16|amx|neon|dotprod|i8mm",
         NULL, "CPU instruction set; without it the best one there is")
    PICK("--compute", "Model", OPENS, compute, "auto|f32", NULL,
         "f32 keeps activations, arithmetic and KV cache in f32 (parity mode)")
    PICK("--kv --kv-cache-dtype", "Model", OPENS | CMD_INSPECT, kv, "auto|f32|bf16|q8|fp8",
         NULL,
         "what keys and values are cached as; auto is bf16, or f32 with --compute f32; q8 and fp8, "
         "8 bits with a scale for each head and token, halve their memory")
    FLAG("--fast", "Model", OPENS, fast, NULL,
         "a GPU reads prompts up to 8 % faster, and a reply may differ in its last bits by what it "
         "was computed with; on a CPU without effect")
    ROW("--packed", "DIR", V_DIR, "Model", OPENS, packed, NULL,
        "folder for weights in the order that the CPU likes, packed once; memory packs them at "
        "every start, off never; auto, the default, takes ~/.cache/mlxcel/packed for models of "
        "64 MiB or more")
    WHOLE("-t --threads", "Model", OPENS, threads, -1, 1024, ENV("THREADS"),
          "CPU threads; 0 means as many as this process may use")
    WHOLE("-c --ctx-size --max-kv-size --max-model-len", "Model", OPENS | CMD_INSPECT, context, 0,
          INT_MAX, ENV("CTX_SIZE"),
          "context in tokens; 0 means the model's, or the largest that fits")
    WHOLE("--chunk --prefill-step-size -ub --ubatch-size", "Model", OPENS, chunk, 0, 65536,
          ENV("UBATCH"), "prompt tokens per step; 0 means the default")
    ROW("--cache-bytes", "BYTES", V_BYTES, "Model", OPENS, cache_bytes, NULL,
        "memory for the KV cache, with K, M or G")
    ROW("--cache-ram -cram", "MIB", V_MIB, "Model", OPENS, cache_bytes, NULL, "the same in MiB")
    FLAG("--no-prefix-cache --no-cache-prompt", "Model", OPENS, no_prefix_cache, NULL,
         "never start from the kept tokens of an earlier request")

    ROW("-p --prompt", "TEXT", V_TEXT, "Input", ANSWERS | CMD_TOKENIZE, prompt, NULL,
        "the prompt; - reads standard input")
    ROW("-f --file", "FILE", V_FILE, "Input", ANSWERS, file, NULL, "read the prompt from a file")
    ROW("--ids", "LIST", V_TEXT, "Input", CMD_GENERATE | CMD_LOGITS | CMD_TOKENIZE, ids, NULL,
        "token ids: 1,2,3 or @FILE with a JSON list or {\"ids\": [...]}")
    ROW("-sys --system --system-prompt", "TEXT", V_TEXT, "Input", CMD_RUN, system, NULL,
        "system message")
    ROW("-sysf --system-file --system-prompt-file", "FILE", V_FILE, "Input", CMD_RUN, system_file,
        NULL, "read the system message from a file")
    ROW("--messages", "FILE", V_FILE, "Input", CMD_TEMPLATE, messages, NULL,
        "JSON list of messages, as in OpenAI's API")
    ROW("--tools", "FILE", V_FILE, "Input", CMD_TEMPLATE | CMD_RUN, tools, NULL,
        "JSON list of tools")
    ROW("--chat-template", "TEXT|NAME", V_TEXT, "Input", TEMPLATES, template_text,
        ENV("CHAT_TEMPLATE"),
        "Jinja text to use instead of the model's own template, or the name of another of its own")
    ROW("--template --chat-template-file", "FILE", V_FILE, "Input", TEMPLATES, template_file,
        ENV("CHAT_TEMPLATE_FILE"), "the same, read from a file")
    ROW("--var", "NAME=JSON", V_LIST, "Input", TEMPLATES, vars, NULL,
        "set a variable of the template; may be repeated")
    ROW("--chat-template-kwargs --chat-template-config", "JSON", V_TEXT, "Input", TEMPLATES,
        template_vars, ENV("CHAT_TEMPLATE_KWARGS"), "the same for an object of several")
    PICK("--think", "Input", TEMPLATES, think, "on|off|low|medium|high", NULL,
         "whether, or how hard, the model should think first, if its template can say so")
    ROW("--reasoning-effort", "WORD", V_TEXT, "Input", TEMPLATES, reasoning_effort,
        ENV("REASONING_EFFORT"), "the template's reasoning_effort")
    FLAG("--no-generation-prompt", "Input", CMD_TEMPLATE, no_generation_prompt, NULL,
         "leave out the opening of the answer")
    FLAG("--no-bos", "Input", CMD_GENERATE | CMD_TOKENIZE, no_bos, NULL,
         "do not add what the tokenizer puts around a text")
    FLAG("--literal", "Input", CMD_GENERATE | CMD_TOKENIZE, literal, NULL,
         "control tokens in the text are ordinary text")
    FLAG("--decode", "Input", CMD_TOKENIZE, decode, NULL, "ids in, text out")

    WHOLE("-n --predict --n-predict --max-tokens", "Generation", ANSWERS, n_max, -1, INT_MAX,
          ENV("N_PREDICT"), "tokens to generate; -1 means until end of text or context")
    ROW("-r --reverse-prompt --stop", "TEXT", V_LIST, "Generation", ANSWERS, stop, NULL,
        "end before this text; may be repeated")
    FLAG("--ignore-eos", "Generation", ANSWERS, ignore_eos, NULL,
         "go on after end-of-text tokens")

    REAL("--temp --temperature", temperature, ENV("TEMPERATURE"),
         "0 always takes the likeliest token")
    WHOLE("--top-k", "Sampling", SAMPLES, sample.top_k, 0, INT_MAX, ENV("TOP_K"),
          "keep the N likeliest; 0 is off")
    REAL("--top-p", top_p, ENV("TOP_P"), "keep the likeliest that together reach X; 1 is off")
    REAL("--min-p", min_p, ENV("MIN_P"), "drop tokens under X times the likeliest; 0 is off")
    REAL("--typical --typical-p", typical_p, NULL, "locally typical sampling; 1 is off")
    REAL("--top-nsigma --top-n-sigma", top_n_sigma, NULL,
         "keep logits within X deviations; 0 is off")
    REAL("--repeat-penalty", repeat_penalty, ENV("REPEAT_PENALTY"),
         "divide the logits of seen tokens; 1 is off")
    REAL("--presence-penalty", presence_penalty, ENV("PRESENCE_PENALTY"),
         "subtract from seen tokens; 0 is off")
    REAL("--frequency-penalty", frequency_penalty, ENV("FREQUENCY_PENALTY"),
         "subtract for each time seen; 0 is off")
    WHOLE("--repeat-last-n", "Sampling", SAMPLES, sample.penalty_last, -1, INT_MAX, NULL,
          "tokens the penalties look back at; -1 is all")
    REAL("--dry-multiplier", dry_multiplier, NULL, "penalty for repeating a sequence; 0 is off")
    REAL("--dry-base", dry_base, NULL, "growth of that penalty with length")
    WHOLE("--dry-allowed-length", "Sampling", SAMPLES, sample.dry_allowed, 0, INT_MAX, NULL,
          "repeats up to N tokens are free")
    WHOLE("--dry-penalty-last-n", "Sampling", SAMPLES, sample.dry_last, -1, INT_MAX, NULL,
          "tokens DRY looks back at; -1 is all")
    ROW("--dry-sequence-breaker", "TEXT", V_LIST, "Sampling", SAMPLES, dry_breakers, NULL,
        "text whose token ends a repeat, instead of the usual ones; none for none")
    REAL("--xtc-probability", xtc_probability, NULL,
         "chance of leaving out the likeliest; 0 is off")
    REAL("--xtc-threshold", xtc_threshold, NULL,
         "tokens XTC may leave out have at least this share")
    ROW("-s --seed", "N", V_SEED, "Sampling", ANSWERS, sample.seed, NULL,
        "start of the random numbers; -1, the default, draws one")
    ROW("-l --logit-bias", "ID+X", V_LIST, "Sampling", ANSWERS, logit_bias, NULL,
        "add to a token's logit: 42+1.5, 42-3, 42-inf; may be repeated")
    ROW("--samplers", "LIST", V_TEXT, "Sampling", SAMPLES, samplers, NULL,
        "the steps and their order, such as penalties;top_k;top_p;temperature")

    SERVE("--host --listen", "ADDRESS", V_LIST, "Server", hosts, ENV("HOST"),
          "where to listen: an address, unix:PATH or a path that ends in .sock, or fd:N; may be "
          "repeated or have commas; without it 127.0.0.1")
    WHOLE("--port", "Server", CMD_SERVE | CMD_HEALTH, port, 0, 65535, ENV("PORT"),
          "TCP port, 8080 without it; 0 takes a free one and says which")
    ROW("--api-prefix", "PATH", V_TEXT, "Server", CMD_SERVE | CMD_HEALTH, api_prefix,
        ENV("API_PREFIX"), "before every path, such as /llm")
    SERVE("-a --alias --served-model-name", "NAME", V_TEXT, "Server", alias, ENV("ALIAS"),
          "what clients call the model; without it the name of its folder")
    FLAG("--strict-model", "Server", CMD_SERVE, strict_model, NULL,
         "refuse requests for a model of another name")
    WHOLE("-np --parallel --max-num-seqs", "Server", CMD_SERVE, parallel, -1, 1024,
          ENV("N_PARALLEL"), "sequences that run at a time; 0 or -1 means the default, 16")
    WHOLE("--queue --max-queue-depth", "Server", CMD_SERVE, queue, 1, 1 << 20, NULL,
          "requests that run or wait, in all; one more gets a 503")
    WHOLE("--key-limit", "Server", CMD_SERVE, key_limit, 1, 1 << 20, NULL,
          "requests of one API key that run or wait; one more gets a 429")
    WHOLE("--connections", "Server", CMD_SERVE, connections, 1, 1 << 20, NULL,
          "open connections; one more gets a 503")
    SERVE("--slowdown", "X", V_FLOAT, "Server", slowdown, NULL,
          "how many times slower running answers may get while prompts are read, 2 "
          "without it; 0: no limit")
    PICK("--reasoning-field", "Server", CMD_SERVE, reasoning_field,
         "both|reasoning_content|reasoning", NULL, "what replies call the model's thoughts")
    SERVE("--timeout", "SECONDS", V_SECONDS, "Server", timeout_s, NULL,
          "end requests that take longer; 0, the default, never does")
    SERVE("--drain-timeout --stop-timeout", "SECONDS", V_SECONDS, "Server", drain_s, NULL,
          "time for running requests to end after SIGTERM, 30 without it")
    SERVE("--sse-ping-interval", "SECONDS", V_SECONDS, "Server", ping_s, ENV("SSE_PING_INTERVAL"),
          "between comments that keep a silent stream open, 15 without it; -1 sends none")
    SERVE("--body-limit", "BYTES", V_BYTES, "Server", body_max, NULL,
          "of one request, with K, M or G")
    SERVE("--header-timeout", "SECONDS", V_SECONDS, "Server", header_s, NULL,
          "for a request's head to arrive whole, 10 without it")
    SERVE("--body-timeout", "SECONDS", V_SECONDS, "Server", body_s, NULL,
          "for its body to arrive whole, 30 without it")
    SERVE("--idle-timeout --keep-alive-timeout --timeout-keep-alive", "SECONDS", V_SECONDS,
          "Server", idle_s, NULL, "between requests of one connection, 75 without it")
    SERVE("--stall-timeout --write-timeout", "SECONDS", V_SECONDS, "Server", stall_s, NULL,
          "for a client that reads nothing of its stream, 30 without it; twice as long for a whole "
          "reply to be read")
    OFF("--slots", "Server", CMD_SERVE, no_slots, ENV("ENDPOINT_SLOTS"),
        "offer /slots, as without any option")
    FLAG("--no-slots", "Server", CMD_SERVE, no_slots, NULL, "leave /slots out")
    OFF("--props", "Server", CMD_SERVE, no_props, ENV("ENDPOINT_PROPS"),
        "offer /props, as without any option")
    FLAG("--no-props", "Server", CMD_SERVE, no_props, NULL, "leave /props out")
    OFF("--metrics", "Server", CMD_SERVE, no_metrics, ENV("ENDPOINT_METRICS"),
        "offer /metrics, as without any option")
    FLAG("--no-metrics", "Server", CMD_SERVE, no_metrics, NULL, "leave /metrics out")
    OFF("--warmup", "Server", CMD_SERVE, no_warmup, NULL,
        "generate a little before serving, as without any option")
    FLAG("--no-warmup", "Server", CMD_SERVE, no_warmup, NULL, "serve at once")
    SERVE("--jinja --cont-batching -cb --cache-prompt --kv-unified -kvu --no-context-shift "
          "--no-webui --no-ui", NULL, V_ALWAYS, "Server", always, ENV("JINJA"),
          "what other servers must be told and what always holds here")

    SERVE("--api-key", "KEY", V_LIST, "Access", api_keys, "LLAMA_API_KEY " ENV("API_KEY"),
          "ask clients for this key; may be repeated or have commas. Other users see command "
          "lines: a file or a variable is safer")
    SERVE("--api-key-file", "FILE", V_FILE, "Access", api_key_file, ENV("API_KEY_FILE"),
          "the keys of a file, one a line, that others may not read")
    FLAG("--no-api-key", "Access", CMD_SERVE, no_api_key, NULL,
         "need no key, also on an address that others can reach")
    SERVE("--cors-origin --cors-origins --allowed-origins", "ORIGIN", V_LIST, "Access", origins,
          ENV("CORS_ORIGINS"), "web pages that may ask, such as https://chat.example, or * for "
          "any; without it those of this machine. May be repeated or have commas")
    SERVE("--allow-host --allowed-hosts", "NAME", V_LIST, "Access", allowed_hosts, NULL,
          "a name this server is called by, beside its addresses; may be repeated or have commas")

    WHOLE("-p --n-prompt", "Measurement", CMD_BENCH, bench_prompt, 1, 1 << 24, NULL,
          "tokens of each prompt")
    WHOLE("-n --n-gen", "Measurement", CMD_BENCH, bench_generate, 0, 1 << 24, NULL,
          "tokens to generate after it")
    ROW("-b --batch", "LIST", V_TEXT, "Measurement", CMD_BENCH, batches, NULL,
        "requests at a time, such as 1,4,16")
    WHOLE("-r --repetitions", "Measurement", CMD_BENCH, repeats, 1, 1000, NULL,
          "runs, of which the median counts")

    ROW("--host", "ADDRESS", V_LIST, "Output", CMD_HEALTH, hosts, ENV("HOST"),
        "where the server listens, as its own option says")
    ROW("--timeout", "SECONDS", V_SECONDS, "Output", CMD_HEALTH, timeout_s, "-",
        "how long to wait for the answer, 5 without it")
    ROW("-o --output", "FILE", V_FILE, "Output", CMD_LOGITS, output, NULL,
        "safetensors file to write")
    WHOLE("--last", "Output", CMD_LOGITS, last, 0, INT_MAX, NULL,
          "only the last N positions; 0 means all")
    FLAG("--json", "Output", JSON, json, NULL,
         "one JSON object on standard output; run prints the message: content, reasoning_content, "
         "tool_calls and finish_reason")
    FLAG("--print-ids", "Output", CMD_GENERATE, print_ids, NULL,
         "print the generated ids, as 1,2,3, instead of text")
    FLAG("--specials", "Output", CMD_GENERATE | CMD_TOKENIZE, specials, NULL,
         "show control tokens in the text")
    FLAG("--hide-thinking --hidethinking", "Output", CMD_RUN, hide_thinking, NULL,
         "do not show what the model thinks")
    FLAG("--no-history", "Output", CMD_RUN, no_history, NULL,
         "neither read nor write the chat's history")
    ROW("--no-display-prompt", NULL, V_ALWAYS, "Output", ANSWERS, no_display_prompt, NULL,
        "what always holds here: the prompt is not repeated")
    PICK("--color", "Output", ANSWERS | CMD_SELFTEST, color, "auto|always|never", NULL,
         "colours; auto asks the terminal, NO_COLOR and CLICOLOR_FORCE")
    FLAG("--no-perf", "Output", ANSWERS, no_perf, NULL, "no line of speeds at the end")
    FLAG("-q --quiet", "Output", OPENS, quiet, NULL, "no timings, no progress, no warnings")
    ROW("-v --verbose", NULL, V_COUNT, "Output", OPENS, verbose, NULL,
        "say more on standard error; twice for everything")
    ROW("--log-file", "FILE", V_FILE, "Output", CMD_SERVE, log_file, ENV("LOG_FILE"),
        "append log lines to a file instead of standard error; SIGHUP opens it anew")
    PICK("--log-format", "Output", CMD_SERVE, log_format, "text|json", NULL,
         "of log lines; json is an object on each line")
    PICK("--log-level", "Output", CMD_SERVE, log_level, "error|warning|info|debug", NULL,
         "the least that is logged; info without it, which -q and -v change, too")
    FLAG("--man", "Output", CMD_HELP, man, "-", "the manual page, as roff")

    ROW("--config --models-preset", "FILE", V_FILE, "Settings", SETTINGS, config,
        ENV("MODELS_PRESET"), "read settings from a file: 'option = value' lines, after [*] for "
        "all models, after [NAME] for one")
    FLAG("--print-config", "Settings", CMD_SERVE, print_config, "-",
         "print each setting and where it came from, and end")
    ROW("-h --help", NULL, V_FLAG, "Settings", CMD_ALL, help, "-", "this text")
};
const int n_options = COUNT(options);
_Static_assert(COUNT(options) <= OPTIONS_MAX, "struct args notes where each row came from");

void args_init(struct args *a) {
    *a = (struct args){ .n_max = -1, .compute = "auto", .kv = "auto", .color = "auto",
                        .bench_prompt = 512, .bench_generate = 128, .repeats = 3, .batches = "1",
                        .port = 8080, .log_format = "text", .reasoning_field = "both",
                        .timeout_s = 0, .drain_s = 30, .ping_s = 15,
                        .header_s = 10, .body_s = 30, .idle_s = 75, .stall_s = 30 };
}
