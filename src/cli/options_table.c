/* options_table.c - the options themselves, and the foreign ones that are refused.
 *
 * Spellings are those that llama.cpp, Ollama and mlx-lm taught people. A row's first
 * long name stands for it in help. Rows of a group stand together. */
#include "cli/options.h"
#include <limits.h>

#define AT(field) offsetof(struct args, field)
#define ANSWERS (CMD_RUN | CMD_GENERATE)
#define OPENS (ANSWERS | CMD_LOGITS | CMD_BENCH | CMD_SELFTEST)
#define MODELS (OPENS | CMD_INSPECT | CMD_TOKENIZE | CMD_TEMPLATE)
#define JSON (ANSWERS | CMD_INSPECT | CMD_ARCH | CMD_TOKENIZE | CMD_BENCH)

#define FLAG(names, group, commands, field, help) \
    { names, NULL, V_FLAG, group, commands, AT(field), NULL, 0, 0, help },
#define TEXT(names, value, kind, group, commands, field, help) \
    { names, value, kind, group, commands, AT(field), NULL, 0, 0, help },
#define PICK(names, group, commands, field, choices, help) \
    { names, choices, V_CHOICE, group, commands, AT(field), choices, 0, 0, help },
#define WHOLE(names, group, commands, field, min, max, help) \
    { names, "N", V_INT, group, commands, AT(field), NULL, min, max, help },
#define REAL(names, field, help) \
    { names, "X", V_FLOAT, "Sampling", ANSWERS, AT(sample.field), NULL, 0, 0, help },

const struct option options[] = {
    TEXT("-m --model -hf --hf-repo", "MODEL", V_DIR, "Model", MODELS, model,
         "folder of a checkpoint, or owner/name in the Hugging Face cache; without it the "
         "built-in model")
    TEXT("--device -dev", "NAME", V_TEXT, "Model", OPENS, device, "cpu or auto")
    PICK("--isa", "Model", OPENS, isa, "generic|avx2|avx512",
         "CPU instruction set; without it the best one there is")
    PICK("--compute", "Model", OPENS, compute, "auto|f32",
         "f32 keeps activations, arithmetic and KV cache in f32 (parity mode)")
    WHOLE("-t --threads", "Model", OPENS, threads, 0, 1024,
          "CPU threads; 0 means as many as this process may use")
    WHOLE("-c --ctx-size --max-kv-size", "Model", OPENS | CMD_INSPECT, context, 0, INT_MAX,
          "context in tokens; 0 means the model's, or the largest that fits")
    WHOLE("--chunk --prefill-step-size -ub --ubatch-size", "Model", OPENS, chunk, 0, 65536,
          "prompt tokens per step; 0 means the default")
    { "--cache-bytes", "BYTES", V_BYTES, "Model", OPENS, AT(cache_bytes), NULL, 0, 0,
      "memory for the KV cache, with K, M or G" },
    { "--cache-ram", "MIB", V_MIB, "Model", OPENS, AT(cache_bytes), NULL, 0, 0,
      "the same in MiB" },
    FLAG("--no-prefix-cache", "Model", OPENS, no_prefix_cache,
         "never start from the kept tokens of an earlier request")

    TEXT("-p --prompt", "TEXT", V_TEXT, "Input", ANSWERS | CMD_TOKENIZE, prompt,
         "the prompt; - reads standard input")
    TEXT("-f --file", "FILE", V_FILE, "Input", ANSWERS, file, "read the prompt from a file")
    TEXT("--ids", "LIST", V_TEXT, "Input", CMD_GENERATE | CMD_LOGITS | CMD_TOKENIZE, ids,
         "token ids: 1,2,3 or @FILE with a JSON list or {\"ids\": [...]}")
    TEXT("-sys --system --system-prompt", "TEXT", V_TEXT, "Input", CMD_RUN, system,
         "system message")
    TEXT("-sysf --system-file --system-prompt-file", "FILE", V_FILE, "Input", CMD_RUN, system_file,
         "read the system message from a file")
    TEXT("--messages", "FILE", V_FILE, "Input", CMD_TEMPLATE, messages,
         "JSON list of messages, as in OpenAI's API")
    TEXT("--tools", "FILE", V_FILE, "Input", CMD_TEMPLATE | CMD_RUN, tools, "JSON list of tools")
    TEXT("--chat-template", "TEXT", V_TEXT, "Input", CMD_RUN | CMD_TEMPLATE, template_text,
         "Jinja text to use instead of the model's own template")
    TEXT("--template --chat-template-file", "FILE", V_FILE, "Input", CMD_RUN | CMD_TEMPLATE,
         template_file, "the same, read from a file")
    TEXT("--var", "NAME=JSON", V_LIST, "Input", CMD_RUN | CMD_TEMPLATE, vars,
         "set a variable of the template; may be repeated")
    TEXT("--chat-template-kwargs --chat-template-config", "JSON", V_TEXT, "Input",
         CMD_RUN | CMD_TEMPLATE, template_vars, "the same for an object of several")
    PICK("--think", "Input", CMD_RUN | CMD_TEMPLATE, think, "on|off|low|medium|high",
         "whether, or how hard, the model should think first, if its template can say so")
    TEXT("--reasoning-effort", "WORD", V_TEXT, "Input", CMD_RUN | CMD_TEMPLATE, reasoning_effort,
         "the template's reasoning_effort")
    FLAG("--no-generation-prompt", "Input", CMD_TEMPLATE, no_generation_prompt,
         "leave out the opening of the answer")
    FLAG("--no-bos", "Input", CMD_GENERATE | CMD_TOKENIZE, no_bos,
         "do not add what the tokenizer puts around a text")
    FLAG("--literal", "Input", CMD_GENERATE | CMD_TOKENIZE, literal,
         "control tokens in the text are ordinary text")
    FLAG("--decode", "Input", CMD_TOKENIZE, decode, "ids in, text out")

    WHOLE("-n --predict --n-predict --max-tokens", "Generation", ANSWERS, n_max, -1, INT_MAX,
          "tokens to generate; -1 means until end of text or context")
    TEXT("-r --reverse-prompt --stop", "TEXT", V_LIST, "Generation", ANSWERS, stop,
         "end before this text; may be repeated")
    FLAG("--ignore-eos", "Generation", ANSWERS, ignore_eos, "go on after end-of-text tokens")

    REAL("--temp --temperature", temperature, "0 always takes the likeliest token")
    { "--top-k", "N", V_INT, "Sampling", ANSWERS, AT(sample.top_k), NULL, 0, INT_MAX,
      "keep the N likeliest; 0 is off" },
    REAL("--top-p", top_p, "keep the likeliest that together reach X; 1 is off")
    REAL("--min-p", min_p, "drop tokens under X times the likeliest; 0 is off")
    REAL("--typical --typical-p", typical_p, "locally typical sampling; 1 is off")
    REAL("--top-nsigma --top-n-sigma", top_n_sigma, "keep logits within X deviations; 0 is off")
    REAL("--repeat-penalty", repeat_penalty, "divide the logits of seen tokens; 1 is off")
    REAL("--presence-penalty", presence_penalty, "subtract from seen tokens; 0 is off")
    REAL("--frequency-penalty", frequency_penalty, "subtract for each time seen; 0 is off")
    { "--repeat-last-n", "N", V_INT, "Sampling", ANSWERS, AT(sample.penalty_last), NULL, -1,
      INT_MAX, "tokens the penalties look back at; -1 is all" },
    REAL("--dry-multiplier", dry_multiplier, "penalty for repeating a sequence; 0 is off")
    REAL("--dry-base", dry_base, "growth of that penalty with length")
    { "--dry-allowed-length", "N", V_INT, "Sampling", ANSWERS, AT(sample.dry_allowed), NULL, 0,
      INT_MAX, "repeats up to N tokens are free" },
    { "--dry-penalty-last-n", "N", V_INT, "Sampling", ANSWERS, AT(sample.dry_last), NULL, -1,
      INT_MAX, "tokens DRY looks back at; -1 is all" },
    TEXT("--dry-sequence-breaker", "TEXT", V_LIST, "Sampling", ANSWERS, dry_breakers,
         "text whose token ends a repeat, instead of the usual ones; none for none")
    REAL("--xtc-probability", xtc_probability, "chance of leaving out the likeliest; 0 is off")
    REAL("--xtc-threshold", xtc_threshold, "tokens XTC may leave out have at least this share")
    { "-s --seed", "N", V_SEED, "Sampling", ANSWERS, AT(sample.seed), NULL, 0, 0,
      "start of the random numbers; -1, the default, draws one" },
    TEXT("-l --logit-bias", "ID+X", V_LIST, "Sampling", ANSWERS, logit_bias,
         "add to a token's logit: 42+1.5, 42-3, 42-inf; may be repeated")
    TEXT("--samplers", "LIST", V_TEXT, "Sampling", ANSWERS, samplers,
         "the steps and their order, such as penalties;top_k;top_p;temperature")

    WHOLE("-p --n-prompt", "Measurement", CMD_BENCH, bench_prompt, 1, 1 << 24,
          "tokens of each prompt")
    WHOLE("-n --n-gen", "Measurement", CMD_BENCH, bench_generate, 0, 1 << 24,
          "tokens to generate after it")
    TEXT("-b --batch", "LIST", V_TEXT, "Measurement", CMD_BENCH, batches,
         "requests at a time, such as 1,4,16")
    WHOLE("-r --repetitions", "Measurement", CMD_BENCH, repeats, 1, 1000,
          "runs, of which the median counts")

    TEXT("-o --output", "FILE", V_FILE, "Output", CMD_LOGITS, output, "safetensors file to write")
    WHOLE("--last", "Output", CMD_LOGITS, last, 0, INT_MAX,
          "only the last N positions; 0 means all")
    FLAG("--json", "Output", JSON, json, "one JSON object on standard output")
    FLAG("--print-ids", "Output", CMD_GENERATE, print_ids,
         "print the generated ids, as 1,2,3, instead of text")
    FLAG("--specials", "Output", CMD_GENERATE | CMD_TOKENIZE, specials,
         "show control tokens in the text")
    FLAG("--hide-thinking --hidethinking", "Output", CMD_RUN, hide_thinking,
         "do not show what the model thinks")
    FLAG("--no-history", "Output", CMD_RUN, no_history, "neither read nor write the chat's history")
    FLAG("--no-display-prompt", "Output", ANSWERS, no_display_prompt,
         "what always holds here: the prompt is not repeated")
    PICK("--color", "Output", ANSWERS | CMD_SELFTEST, color, "auto|always|never",
         "colours; auto asks the terminal, NO_COLOR and CLICOLOR_FORCE")
    FLAG("-q --quiet", "Output", OPENS, quiet, "no timings, no progress, no warnings")
    { "-v --verbose", NULL, V_COUNT, "Output", OPENS, AT(verbose), NULL, 0, 0,
      "say more on standard error; twice for everything" },
    FLAG("--man", "Output", CMD_HELP, man, "the manual page, as roff")
    FLAG("-h --help", "Output", CMD_ALL, help, "this text")
};
const int n_options = COUNT(options);

const struct foreign foreign_options[] = {
    { "-ngl --gpu-layers --n-gpu-layers", "no layer is placed by hand; --device picks where the "
      "model runs" },
    { "-ts --tensor-split -mg --main-gpu -sm --split-mode",
      "a model runs on one device for now" },
    { "--cpu-moe -cmoe --n-cpu-moe -ncmoe -ot --override-tensor",
      "tensors are not placed by hand" },
    { "-tb --threads-batch", "prompts and answers use the same threads; see --threads" },
    { "-ctk --cache-type-k -ctv --cache-type-v --kv-bits --kv-group-size",
      "the KV cache is not quantized yet" },
    { "-fa --flash-attn", "there is one attention kernel, and it never stores the scores" },
    { "--mirostat --mirostat-lr --mirostat-ent --dynatemp-range --dynatemp-exp",
      "this sampler is not offered; see --min-p and --top-n-sigma" },
    { "--grammar --grammar-file -j --json-schema --json-schema-file -jf --format",
      "answers cannot be held to a grammar yet" },
    { "--mmproj --image --audio --video", "only text goes in for now" },
    { "--lora --lora-scaled --adapter-path --control-vector", "adapters are not loaded yet" },
    { "-md --model-draft --draft-model --draft-max --draft-min --num-draft-tokens",
      "speculative decoding is not offered yet" },
    { "--mlock --no-mmap --numa", "weights are always mapped from their files" },
    { "-e --escape", "text is taken literally; let the shell write the escapes, as in $'a\\nb'" },
    { "-b --batch-size", "see --chunk" },
    { "--jinja", "templates always run as Jinja" },
    { "--no-chat-template", "use 'mlxcel generate' for text without a template" },
    { "--prefill-response", "use a trailing assistant message with 'mlxcel apply-template'" },
    { "--reasoning-format --reasoning-budget", "see --think and --hide-thinking" },
    { "--hf-token --hf-file -hff --revision --offline",
      "models are not downloaded; put them into the Hugging Face cache, or name a folder" },
    { "--trust-remote-code", "code that comes with a model is never run" },
    { "--host --port --api-key --api-key-file --alias -np --parallel --ssl-key-file "
      "--ssl-cert-file", "there is no server yet" },
    { "-cnv --conversation -st --single-turn -i --interactive",
      "'mlxcel run' chats on a terminal and answers once with a prompt" },
    { "-no-cnv --no-conversation", "use 'mlxcel generate'" },
    { "-ins --instruct", "use 'mlxcel run'" },
    { "--verbose-prompt", "'mlxcel apply-template' and 'mlxcel tokenize' show prompts" },
    { "--keep --context-shift --no-context-shift",
      "nothing of a conversation is dropped silently; a full context ends the answer" },
};
const int n_foreign_options = COUNT(foreign_options);

void args_init(struct args *a) {
    *a = (struct args){ .n_max = -1, .compute = "auto", .color = "auto",
                        .bench_prompt = 512, .bench_generate = 128, .repeats = 3, .batches = "1" };
}
