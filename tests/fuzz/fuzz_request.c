/* Fuzzes what a body means: the first byte chooses a route, the rest is JSON for it. Whatever it
 * says, the answer is one of the shapes that clients know, and no fault of ours. Half of the
 * changes put one more field into an object, as bytes alone rarely make one. */
#include "../api/offline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

enum { BODY_MAX = 1 << 16, STREAM_MAX = 1 << 16 };

static const char *const paths[] = {
    "/v1/chat/completions", "/v1/completions", "/completion", "/tokenize", "/detokenize",
    "/apply-template",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!offline_server) offline_open();
    if (!size || size > BODY_MAX) return 0;
    struct buf text = { 0 };
    struct offline_reply r = { 0 };
    buf_format(&text, "POST %s HTTP/1.1\nHost: localhost\nContent-Type: application/json\n\n",
               paths[data[0] % COUNT(paths)]);
    buf_put(&text, (const char *)data + 1, size - 1);
    if (!offline_ask(text.at, text.len, STREAM_MAX, &r)) abort();
    const char *wrong = r.status ? offline_wrong(&r) : "no reply";
    if (wrong) {
        fprintf(stderr, "%s: %d %s\n", wrong, r.status, buf_c(&r.body));
        abort();
    }
    offline_reply_free(&r);
    buf_free(&text);
    return 0;
}

static const char *const names[] = {
    "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "repeat_penalty",
    "repeat_last_n", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability",
    "xtc_threshold", "samplers", "seed", "stop", "logit_bias", "max_tokens", "n_predict",
    "max_completion_tokens", "n", "best_of", "n_cmpl", "stream", "stream_options", "logprobs",
    "top_logprobs", "n_probs", "echo", "suffix", "ignore_eos", "cache_prompt", "return_progress",
    "timings_per_token", "return_tokens", "response_fields", "t_max_predict_ms", "tools",
    "functions", "tool_choice", "parallel_tool_calls", "reasoning", "reasoning_effort", "think",
    "thinking", "chat_template_kwargs", "continue_final_message", "add_generation_prompt",
    "documents", "response_format", "extra_body", "model", "priority", "messages", "prompt",
    "content", "tokens", "with_pieces", "add_special", "role", "name", "tool_calls", "type",
    "text", "function_call", "tool_call_id", "arguments", "function", "include_usage", "effort",
};

static const char *const values[] = {
    "null", "true", "false", "0", "-0.0", "1", "-1", "2", "0.5", "3", "20", "100", "1e30", "1e-40",
    "9223372036854775807", "-9223372036854775808", "18446744073709551615", "\"\"", "\"a\"",
    "\"loop\"", "\"call\"", "\"think\"", "\"none\"", "\"high\"", "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "[]", "{}", "[\"a\"]", "[1,2]", "[[1,-1]]", "[[\"a\",false]]", "{\"1\":5}", "{\"a\":\"b\"}",
    "[{\"role\":\"user\",\"content\":\"two\"}]", "[{\"name\":\"f\",\"arguments\":\"{}\"}]",
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]",
    "{\"include_usage\":true}", "{\"effort\":\"low\"}", "[\"top_k\",\"temperature\"]",
};

/* Behind one of the braces that open an object. */
static size_t add_field(uint8_t *data, size_t size, size_t max, unsigned seed) {
    char field[256];
    const char *name = names[seed / 7 % COUNT(names)], *value = values[seed / 911 % COUNT(values)];
    size_t n_open = 0, at = 1;
    for (size_t i = 1; i < size; i++) n_open += data[i] == '{';
    if (!n_open) return 0;
    for (size_t skip = seed / 65537 % n_open + 1; skip; at++) skip -= data[at] == '{';
    bool empty = at < size && data[at] == '}';
    int n = snprintf(field, sizeof field, "\"%s\":%s%s", name, value, empty ? "" : ",");
    if (size + (size_t)n > max) return 0;
    memmove(data + at + n, data + at, size - at);
    memcpy(data + at, field, (size_t)n);
    return size + (size_t)n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
    size_t n = seed & 1 ? add_field(data, size, max, seed) : 0;
    return n ? n : LLVMFuzzerMutate(data, size, max);
}
