/* test_api_params.c - every field of a request about sampling and the answer's shape, on each route
 * that knows it: what type it has, what range, what null and odd numbers mean, and that a refusal
 * names the field. Rows AP-01 to AP-11 of the catalogue. */
#include "../api/offline.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CHAT = 1, TEXT = 2, NATIVE = 4, OPENAI = CHAT | TEXT, ALL = 7 };
enum kind { REAL, WHOLE, BOOL, STRING, LIST, OBJECT };

static const struct { int route; const char *path, *begin; } routes_of[] = {
    { CHAT, "/v1/chat/completions", "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]" },
    { TEXT, "/v1/completions", "\"prompt\":\"hello\"" },
    { NATIVE, "/completion", "\"prompt\":\"hello\"" },
};

/* `with` is what the field needs beside it. What is in range here is also taken: fields that are
 * refused unless they are off have a range of one value. */
static const struct field { int routes; const char *name; enum kind kind; double min, max;
                            const char *with; } table[] = {
    { ALL, "temperature", REAL, 0, 100, "" },
    { ALL, "top_p", REAL, 0, 1, "" },
    { ALL, "min_p", REAL, 0, 1, "" },
    { ALL, "typical_p", REAL, 0, 1, "" },
    { ALL, "typ_p", REAL, 0, 1, "" },
    { ALL, "top_n_sigma", REAL, -1, 1000, "" },
    { ALL, "repeat_penalty", REAL, 0.01, 100, "" },
    { ALL, "repetition_penalty", REAL, 0.01, 100, "" },
    { ALL, "presence_penalty", REAL, -100, 100, "" },
    { ALL, "frequency_penalty", REAL, -100, 100, "" },
    { ALL, "dry_multiplier", REAL, 0, 1000, "" },
    { ALL, "dry_base", REAL, 1, 1000, "" },
    { ALL, "xtc_probability", REAL, 0, 1, "" },
    { ALL, "xtc_threshold", REAL, 0, 1, "" },
    { ALL, "mirostat", REAL, -1e300, 0, "" },
    { ALL, "dynatemp_range", REAL, -1e300, 0, "" },
    { ALL, "top_k", WHOLE, -1, INT_MAX, "" },
    { ALL, "repeat_last_n", WHOLE, -1, INT_MAX, "" },
    { ALL, "dry_allowed_length", WHOLE, 0, INT_MAX, "" },
    { ALL, "dry_penalty_last_n", WHOLE, -1, INT_MAX, "" },
    { ALL, "seed", WHOLE, -0x1p63, 0x1p63, "" },
    { ALL, "max_tokens", WHOLE, -1, 0x1p63, "" },
    { ALL, "max_completion_tokens", WHOLE, -1, 0x1p63, "" },
    { ALL, "n_predict", WHOLE, -2, 0x1p63, "" },
    { ALL, "n", WHOLE, 1, 128, "\"max_tokens\":1" },
    { ALL, "best_of", WHOLE, 1, 1, "" },
    { ALL, "priority", WHOLE, INT_MIN, INT_MAX, "" },
    { ALL, "stream", BOOL, 0, 1, "" },
    { ALL, "ignore_eos", BOOL, 0, 1, "\"max_tokens\":1" },
    { ALL, "cache_prompt", BOOL, 0, 1, "" },
    { ALL, "timings_per_token", BOOL, 0, 1, "" },
    { ALL, "return_progress", BOOL, 0, 1, "" },
    { ALL, "use_beam_search", BOOL, 0, 0, "" },
    { ALL, "stream_options", OBJECT, 0, 0, "\"stream\":true" },
    { ALL, "model", STRING, 0, 0, "" },
    { ALL, "dry_sequence_breakers", LIST, 0, 0, "" },
    { ALL, "lora", LIST, 0, 0, "" },
    { CHAT, "logprobs", BOOL, 0, 1, "" },
    { CHAT, "top_logprobs", WHOLE, 0, 20, "\"logprobs\":true" },
    { CHAT, "parallel_tool_calls", BOOL, 0, 1, "" },
    { CHAT, "add_generation_prompt", BOOL, 0, 1, "" },
    { CHAT, "continue_final_message", BOOL, 0, 0, "" },
    { CHAT, "thinking_budget_tokens", WHOLE, -1, 0x1p63, "" },
    { CHAT, "tools", LIST, 0, 0, "" },
    { CHAT, "functions", LIST, 0, 0, "" },
    { CHAT, "modalities", LIST, 0, 0, "" },
    { CHAT, "documents", LIST, 0, 0, "" },
    { CHAT, "chat_template_kwargs", OBJECT, 0, 0, "" },
    { CHAT, "reasoning", OBJECT, 0, 0, "" },
    { TEXT, "logprobs", WHOLE, 0, 20, "" },
    { TEXT, "echo", BOOL, 0, 1, "" },
    { NATIVE, "n_probs", WHOLE, 0, 64, "" },
    { NATIVE, "n_cmpl", WHOLE, 1, 128, "\"n_predict\":1" },
    { NATIVE, "t_max_predict_ms", WHOLE, -1, INT_MAX, "" },
    { NATIVE, "n_indent", WHOLE, INT_MIN, 0, "" },
    { NATIVE, "min_keep", WHOLE, INT_MIN, 1, "" },
    { NATIVE, "return_tokens", BOOL, 0, 1, "" },
    { NATIVE, "post_sampling_probs", BOOL, 0, 0, "\"n_probs\":1" },
    { NATIVE, "response_fields", LIST, 0, 0, "" },
};

static const char *const odd[] = {
    "null", "true", "false", "\"\"", "\"x\"", "\"1\"", "\"NaN\"", "[]", "{}", "[1]",
    "0", "-0", "-0.0", "1", "1.0", "-1", "-2", "0.5", "1.5", "2", "1e-30", "1e30",
    "1e308", "-1e308", "20", "21", "100", "101", "128", "129", "1000.5", "2147483647",
    "2147483648", "-2147483648", "-2147483649", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "18446744073709551615", "1e18", "1e19",
};

/* Not JSON, or a number of which nobody could say what it is. */
static const char *const broken[] = {
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "18446744073709551616", "01", "1.", ".5",
    "+1", "0x1", "True", "None", "'x'", "nan", "1_000", "",
};

static void ask(const char *path, const char *begin, const char *with, const char *name,
                const char *value, struct offline_reply *r) {
    struct buf text = { 0 };
    *r = (struct offline_reply){ 0 };
    buf_format(&text, "POST %s HTTP/1.1\nHost: localhost\nContent-Type: application/json\n\n{%s",
               path, begin);
    if (*with) buf_format(&text, ",%s", with);
    buf_format(&text, ",\"%s\":%s}", name, value);
    assert_true(offline_ask(text.at, text.len, SIZE_MAX, r));
    const char *wrong = offline_wrong(r);
    if (wrong) fail_msg("%s %s:%s: %s: %s", path, name, value, wrong, buf_c(&r->body));
    buf_free(&text);
}

static bool in_range(const struct field *f, const char *value) {
    struct json_object *o = json_tokener_parse(value);
    double d = json_object_get_double(o);
    json_object_put(o);
    if (f->kind == REAL) return d >= f->min && d <= f->max;
    /* At 2^63 a double no longer tells the last number that fits from the first that does not. */
    if (d != floor(d) || !strcmp(value, "9223372036854775808") || d > 0x1p63) return false;
    if (strpbrk(value, ".e") && fabs(d) > 0x1p53) return false;
    return d >= f->min && d <= f->max;
}

enum outcome { TAKEN, WRONG_TYPE, WRONG_VALUE };

static enum outcome expected(const struct field *f, const char *value) {
    bool number = (*value >= '0' && *value <= '9') || *value == '-';
    if (!strcmp(value, "null")) return TAKEN;
    switch (f->kind) {
    case REAL: case WHOLE:
        return !number ? WRONG_TYPE : in_range(f, value) ? TAKEN : WRONG_VALUE;
    case BOOL:
        if (strcmp(value, "true") && strcmp(value, "false")) return WRONG_TYPE;
        return *value == 't' && f->max < 1 ? WRONG_VALUE : TAKEN;
    case STRING: return *value == '"' ? TAKEN : WRONG_TYPE;
    case LIST: return *value != '[' ? WRONG_TYPE : value[1] == ']' ? TAKEN : WRONG_VALUE;
    case OBJECT: return *value == '{' ? TAKEN : WRONG_TYPE;
    }
    return TAKEN;
}

static void check(const struct field *f, size_t route, const char *value) {
    struct offline_reply r;
    const char *path = routes_of[route].path;
    char named[80];
    snprintf(named, sizeof named, "%s", f->name);
    enum outcome want = expected(f, value);
    /* A list of anything may be lists of things that are looked at later, or not at all. */
    if (want == WRONG_VALUE && f->kind == LIST) return;
    ask(path, routes_of[route].begin, f->with, f->name, value, &r);
    const char *body = buf_c(&r.body);
    if (r.status != (want == TAKEN ? 200 : 400))
        fail_msg("%s with %s: %s is a %d: %s", path, f->name, value, r.status, body);
    if (want != TAKEN && !strstr(body, named))
        fail_msg("%s with %s: %s: the field is not named: %s", path, f->name, value, body);
    if (want != TAKEN && routes_of[route].route != NATIVE) {
        char param[100];
        snprintf(param, sizeof param, "\"param\":\"%s\"", f->name);
        if (!strstr(body, param)) fail_msg("%s: %s, but not %s", f->name, body, param);
    }
    if (want == WRONG_TYPE && !strstr(body, "Invalid type for"))
        fail_msg("%s with %s: %s: %s", path, f->name, value, body);
    offline_reply_free(&r);
}

static void test_each(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(table); i++)
        for (size_t k = 0; k < COUNT(routes_of); k++)
            for (size_t v = 0; table[i].routes & routes_of[k].route && v < COUNT(odd); v++)
                check(&table[i], k, odd[v]);
}

static void test_broken(void **state) {
    (void)state;
    struct offline_reply r;
    for (size_t i = 0; i < COUNT(table); i += 5)
        for (size_t v = 0; v < COUNT(broken); v++) {
            const struct field *f = &table[i];
            size_t k = f->routes & CHAT ? 0 : f->routes & TEXT ? 1 : 2;
            ask(routes_of[k].path, routes_of[k].begin, f->with, f->name, broken[v], &r);
            if (r.status != 400 || !strstr(buf_c(&r.body), "not JSON that can be read"))
                fail_msg("%s: %s is a %d: %s", f->name, broken[v], r.status, buf_c(&r.body));
            offline_reply_free(&r);
        }
}

/* What a value became, as /completion tells. */
static const struct { const char *name, *value, *settings; } values[] = {
    { "temperature", "0.25", "\"temperature\":0.25," },
    { "temperature", "1", "\"temperature\":1," },
    { "temperature", "-0", "\"temperature\":0," },
    { "temperature", "null", "\"temperature\":0," },
    { "temperature", "1e-30", "\"temperature\":1e-30," },
    { "top_p", "0.5", "\"top_p\":0.5," },
    { "top_k", "7", "\"top_k\":7," },
    { "top_k", "7.0", "\"top_k\":7," },
    { "top_k", "-1", "\"top_k\":-1," },
    { "min_p", "0.125", "\"min_p\":0.125," },
    { "typ_p", "0.5", "\"typical_p\":0.5," },
    { "repetition_penalty", "1.5", "\"repeat_penalty\":1.5," },
    { "presence_penalty", "-2", "\"presence_penalty\":-2," },
    { "frequency_penalty", "2", "\"frequency_penalty\":2," },
    { "repeat_last_n", "-1", "\"repeat_last_n\":-1," },
    { "dry_multiplier", "0.5", "\"dry_multiplier\":0.5," },
    { "xtc_threshold", "0.25", "\"xtc_threshold\":0.25," },
    { "seed", "42", "\"seed\":42," },
    { "seed", "0", "\"seed\":0," },
    { "seed", "-2", "\"seed\":-2," },
    { "seed", "9007199254740993", "\"seed\":9007199254740993," },
    { "seed", "9223372036854775807", "\"seed\":9223372036854775807," },
    { "seed", "-9223372036854775808", "\"seed\":-9223372036854775808," },
    { "n_predict", "5", "\"n_predict\":5," },
    { "n_predict", "-1", "\"n_predict\":-1," },
    { "n_predict", "-2", "\"n_predict\":-1," },
    { "max_tokens", "6", "\"n_predict\":6," },
    { "max_tokens", "9223372036854775807", "\"n_predict\":2147483647," },
    { "samplers", "[\"top_k\",\"temperature\"]", "\"samplers\":[\"top_k\",\"temperature\"]," },
    { "samplers", "\"min_p;top_k\"", "\"samplers\":[\"min_p\",\"top_k\"]," },
    { "logit_bias", "{\"3\":-100}", "\"logit_bias\":[{\"token\":3,\"bias\":-100}]" },
    { "logit_bias", "[[3,false],[4,1.5]]",
      "\"logit_bias\":[{\"token\":3,\"bias\":false},{\"token\":4,\"bias\":1.5}]" },
    { "logit_bias", "[]", "\"logit_bias\":[]" },
    { "stop", "\"x\"", "\"stop\":[\"x\"]" },
    { "stop", "[\"x\",\"\\u00e9\"]", "\"stop\":[\"x\",\"\xc3\xa9\"]" },
    { "stop", "[]", "\"stop\":[]" },
    { "stop", "null", "\"stop\":[]" },
    { "extra_body", "{\"top_k\":9}", "\"top_k\":9," },
    { "extra_body", "[]", "\"top_k\":" },
    { "Temperature", "\"x\"", "\"temperature\":0," },
    { "nobody_knows_this", "[{}]", "\"temperature\":0," },
};

static void test_values(void **state) {
    (void)state;
    struct offline_reply r;
    for (size_t i = 0; i < COUNT(values); i++) {
        ask("/completion", "\"prompt\":\"hello\"", "", values[i].name, values[i].value, &r);
        if (r.status != 200 || !strstr(buf_c(&r.body), values[i].settings))
            fail_msg("%s: %s: wanted %s: %d %s", values[i].name, values[i].value,
                     values[i].settings, r.status, buf_c(&r.body));
        offline_reply_free(&r);
    }
}

/* Fields with a shape of their own, and two at once. */
static const struct { int route; const char *with, *name, *value, *words; } refused[] = {
    { CHAT, "\"temperature\":1", "temperature", "1", "a key that the object has already" },
    { TEXT, "\"prompt\":\"b\"", "n", "1", "a key that the object has already" },
    { CHAT, "\"a\":{\"b\":1,\"b\":1}", "n", "1", "a key that the object has already" },
    { CHAT, "\"n\":2", "best_of", "3", "'best_of' is not supported" },
    { TEXT, "", "n", "129", "above the maximum of 128" },
    { ALL, "", "stop", "\"\"", "an empty string" },
    { ALL, "", "stop", "[\"a\",\"\"]", "an empty string" },
    { ALL, "", "stop", "7", "Invalid type for 'stop'" },
    { ALL, "", "stop", "[[]]", "Invalid type for 'stop'" },
    { ALL, "", "stop", "{}", "Invalid type for 'stop'" },
    { ALL, "", "logit_bias", "{\"abc\":1}", "no token id" },
    { ALL, "", "logit_bias", "{\"-1\":1}", "no token id" },
    { ALL, "", "logit_bias", "{\"1\":101}", "from -100 to 100" },
    { ALL, "", "logit_bias", "{\"1\":1e308}", "from -100 to 100" },
    { ALL, "", "logit_bias", "{\"1\":\"1\"}", "from -100 to 100" },
    { ALL, "", "logit_bias", "{\"1\":null}", "from -100 to 100" },
    { ALL, "", "logit_bias", "{\"128\":1}", "no token 128" },
    { ALL, "", "logit_bias", "[[1]]", "pairs" },
    { ALL, "", "logit_bias", "[[1,true]]", "from -100 to 100" },
    { ALL, "", "logit_bias", "[[1.5,1]]", "an id or a text" },
    { ALL, "", "logit_bias", "[1]", "pairs" },
    { ALL, "", "logit_bias", "3", "Invalid type for 'logit_bias'" },
    { ALL, "", "samplers", "7", "'samplers'" },
    { ALL, "", "samplers", "[7]", "'samplers'" },
    { ALL, "", "samplers", "[\"magic\"]", "magic" },
    { ALL, "", "stream_options", "{\"include_usage\":true}", "only allowed when 'stream' is true" },
    { ALL, "\"stream\":true", "stream_options", "{\"include_usage\":1}", "include_usage" },
    { ALL, "\"dry_multiplier\":1", "dry_sequence_breakers", "[1]", "dry_sequence_breakers[0]" },
    { ALL, "", "response_format", "\"text\"", "Invalid type for 'response_format'" },
    { ALL, "", "response_format", "{\"type\":\"json_object\"}", "not supported yet" },
    { ALL, "", "response_format", "{}", "response_format" },
    { ALL, "", "grammar", "\"root ::= x\"", "'grammar' is not supported yet" },
    { ALL, "", "json_schema", "{}", "'json_schema' is not supported yet" },
    { ALL, "", "guided_regex", "\"a\"", "'guided_regex' is not supported yet" },
    { ALL, "", "guided_choice", "[\"a\"]", "'guided_choice' is not supported yet" },
    { ALL, "", "structured_outputs", "{\"regex\":\"a\"}", "is not supported yet" },
    { ALL, "", "lora", "[{\"id\":0,\"scale\":1}]", "No adapters" },
    { CHAT, "", "top_logprobs", "3", "needs 'logprobs'" },
    { CHAT, "\"logprobs\":true", "top_logprobs", "21", "above the maximum of 20" },
    { CHAT, "", "tool_choice", "\"required\"", "forced call is not supported" },
    { CHAT, "", "tool_choice", "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
      "forced call is not supported" },
    { CHAT, "", "tool_choice", "7", "Invalid value for 'tool_choice'" },
    { CHAT, "", "tool_choice", "\"maybe\"", "Invalid value for 'tool_choice'" },
    { CHAT, "", "tools", "[7]", "tools[0]" },
    { CHAT, "", "tools", "[{\"type\":\"function\"}]", "tools[0]" },
    { CHAT, "", "tools", "[{\"type\":\"function\",\"function\":{\"name\":7}}]", "tools[0]" },
    { CHAT, "", "reasoning_effort", "\"huge\"", "'reasoning_effort'" },
    { CHAT, "", "reasoning_effort", "3", "'reasoning_effort'" },
    { CHAT, "", "think", "3", "'think'" },
    { CHAT, "", "chat_template", "\"{{ x }}\"", "'chat_template' cannot be given" },
    { CHAT, "", "modalities", "[\"text\",\"audio\"]", "text only" },
    { CHAT, "", "continue_final_message", "true", "needs a last message of the assistant" },
    { TEXT, "", "suffix", "\"x\"", "'suffix' is not supported" },
    { TEXT, "", "logprobs", "true", "Invalid type for 'logprobs'" },
    { NATIVE, "", "response_fields", "[7]", "response_fields[0]" },
};

static void test_refused(void **state) {
    (void)state;
    struct offline_reply r;
    for (size_t i = 0; i < COUNT(refused); i++)
        for (size_t k = 0; k < COUNT(routes_of); k++) {
            if (!(refused[i].route & routes_of[k].route)) continue;
            ask(routes_of[k].path, routes_of[k].begin, refused[i].with, refused[i].name,
                refused[i].value, &r);
            if (r.status != 400 || !strstr(buf_c(&r.body), refused[i].words))
                fail_msg("%s with %s: %s: wanted \"%s\": %d %s", routes_of[k].path,
                         refused[i].name, refused[i].value, refused[i].words, r.status,
                         buf_c(&r.body));
            offline_reply_free(&r);
        }
}

static int open_all(void **state) {
    (void)state;
    offline_open();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, open_all, NULL);
}
