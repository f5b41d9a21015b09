/* options_foreign.c - options that other programs have and this one does not, each with
 * the reason. They are refused with it, never ignored. */
#include "cli/options.h"

#define SERVERS CMD_SERVE
#define OTHERS (CMD_ALL & ~CMD_SERVE)

const struct foreign foreign_options[] = {
    { "-ngl --gpu-layers --n-gpu-layers", "no layer is placed by hand; --device picks where the "
      "model runs", CMD_ALL },
    { "-ts --tensor-split -mg --main-gpu -sm --split-mode",
      "a model runs on one device for now", CMD_ALL },
    { "--cpu-moe -cmoe --n-cpu-moe -ncmoe -ot --override-tensor",
      "tensors are not placed by hand", CMD_ALL },
    { "-tb --threads-batch", "prompts and answers use the same threads; see --threads", CMD_ALL },
    { "-ctk --cache-type-k -ctv --cache-type-v --kv-bits --kv-group-size",
      "keys and values are kept alike; see --kv", CMD_ALL },
    { "-fa --flash-attn", "there is one attention kernel, and it never stores the scores",
      CMD_ALL },
    { "--mirostat --mirostat-lr --mirostat-ent --dynatemp-range --dynatemp-exp --adaptive-target "
      "--adaptive-decay", "this sampler is not offered; see --min-p and --top-n-sigma", CMD_ALL },
    { "--sampler-seq --sampling-seq", "see --samplers", CMD_ALL },
    { "--grammar --grammar-file -j --json-schema --json-schema-file -jf --format",
      "answers cannot be held to a grammar yet", CMD_ALL },
    { "--mmproj -mm --mmproj-url -mmu --image --audio --video", "only text goes in for now",
      CMD_ALL },
    { "--lora --lora-scaled --adapter-path --control-vector", "adapters are not loaded yet",
      CMD_ALL },
    { "-md --model-draft --draft-model --draft --draft-max --draft-min --num-draft-tokens "
      "--spec-type", "speculative decoding is not offered yet", CMD_ALL },
    { "--mlock --no-mmap --mmap --numa", "weights are always mapped from their files", CMD_ALL },
    { "--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx "
      "--yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast",
      "the checkpoint's config.json says how positions are scaled", CMD_ALL },
    { "-e --escape", "text is taken literally; let the shell write the escapes, as in $'a\\nb'",
      CMD_ALL },
    { "-b --batch-size --max-num-batched-tokens", "see --chunk", CMD_ALL },
    { "--no-jinja", "templates always run as Jinja", CMD_ALL },
    { "--jinja", "templates always run as Jinja", OTHERS },
    { "--no-chat-template", "use 'mlxcel generate' for text without a template", OTHERS },
    { "--prefill-response", "use a trailing assistant message with 'mlxcel apply-template'",
      OTHERS },
    { "--reasoning-format --reasoning-budget -rea --reasoning", "see --think", CMD_ALL },
    { "--hf-token -hft --hf-file -hff --revision --offline --model-url -mu --docker-repo -dr",
      "models are not downloaded; put them into the Hugging Face cache, or name a folder",
      CMD_ALL },
    { "--trust-remote-code", "code that comes with a model is never run", CMD_ALL },
    { "--host --port --api-key --api-key-file --alias -np --parallel",
      "this belongs to 'mlxcel serve'", OTHERS },
    { "--ssl-key-file --ssl-cert-file --ssl-keyfile --ssl-certfile",
      "the server speaks plain HTTP; put a proxy in front of it (docs/server.md)", CMD_ALL },
    { "-n --predict --n-predict --ignore-eos -r --reverse-prompt --stop -s --seed -l --logit-bias",
      "each request says this for itself", SERVERS },
    { "-to", "see --timeout, the limit of a whole request", SERVERS },
    { "--threads-http --reuse-port", "the server has few threads for HTTP, and needs no tuning",
      SERVERS },
    { "--embedding --embeddings --rerank --reranking --pooling --embd-normalize",
      "embeddings and ranking are not offered yet", SERVERS },
    { "--models-dir --models-max --models-autoload --no-models-autoload --tags",
      "a server has one model for now; start one for each", SERVERS },
    { "--slot-save-path", "the state of requests is not written to files", SERVERS },
    { "--sleep-idle-seconds", "the model stays loaded; socket activation can start the server "
      "when it is needed", SERVERS },
    { "--path --webui --ui --ui-config --webui-config --ui-config-file --webui-config-file "
      "--media-path", "there is no web page yet", SERVERS },
    { "--cors-methods --cors-headers --cors-credentials --no-cors-credentials",
      "only origins are chosen; see --cors-origin", SERVERS },
    { "--no-cont-batching -nocb --no-kv-unified -no-kvu", "requests always share batches and "
      "memory", SERVERS },
    { "--cache-reuse --ctx-checkpoints -ctxcp --swa-checkpoints --slot-prompt-similarity -sps",
      "kept prefixes are found without being told how; see --no-prefix-cache", SERVERS },
    { "--log-jsonl", "see --log-format json", SERVERS },
    { "--log-disable -lv --verbosity --log-verbosity", "see -q and -v", SERVERS },
    { "--log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --log-colors",
      "log lines have one form; see --log-format", SERVERS },
    { "-cnv --conversation -st --single-turn -i --interactive",
      "'mlxcel run' chats on a terminal and answers once with a prompt", CMD_ALL },
    { "-no-cnv --no-conversation", "use 'mlxcel generate'", CMD_ALL },
    { "-ins --instruct", "use 'mlxcel run'", CMD_ALL },
    { "--verbose-prompt", "'mlxcel apply-template' and 'mlxcel tokenize' show prompts", CMD_ALL },
    { "--keep --context-shift --no-context-shift",
      "nothing of a conversation is dropped silently; a full context ends the answer", CMD_ALL },
};
const int n_foreign_options = COUNT(foreign_options);
