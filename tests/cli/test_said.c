/* test_said.c - `mlxcel run` with models that say a script: what of it is shown where, hidden, or
 * printed as JSON. Such a model has a token for each word of its script, and each token's logits
 * name the next one: attention and mlp add nothing. */
#include "program.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { WORDS_MAX = 26, DIM = 32 };
static char *home;

static const char *const tags[] = { "<think>", "</think>", "<tool_call>", "</tool_call>" };

static void put_token(struct json_object *added, const char *text, int id, bool special) {
    struct json_object *one = json_object_new_object();
    json_object_object_add(one, "id", json_object_new_int(id));
    json_object_object_add(one, "content", json_object_new_string(text));
    json_object_object_add(one, "special", json_object_new_boolean(special));
    json_object_array_add(added, one);
}

/* Token 0 begins, 1 ends, the words follow, and the tags that are none of them. Tags are added
 * tokens, special where `special`. */
static void write_tokenizer(const char *dir, const char *const *word, bool special) {
    struct json_object *vocab = json_object_new_object(), *added = json_object_new_array();
    json_object_object_add(vocab, "<s>", json_object_new_int(0));
    json_object_object_add(vocab, "</s>", json_object_new_int(1));
    put_token(added, "<s>", 0, true);
    put_token(added, "</s>", 1, true);
    int n = 2;
    for (int i = 0; word[i]; i++, n++) {
        json_object_object_add(vocab, word[i], json_object_new_int(n));
        for (size_t k = 0; k < COUNT(tags); k++)
            if (!strcmp(word[i], tags[k])) put_token(added, tags[k], n, special);
    }
    for (size_t k = 0; k < COUNT(tags); k++) {
        if (json_object_object_get_ex(vocab, tags[k], NULL)) continue;
        json_object_object_add(vocab, tags[k], json_object_new_int(n));
        put_token(added, tags[k], n++, special);
    }
    struct buf b = { 0 };
    buf_format(&b, "{\"version\":\"1.0\",\"added_tokens\":%s,\"decoder\":{\"type\":\"Fuse\"},"
               "\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"<s>\",\"vocab\":%s}}",
               json_object_to_json_string(added), json_object_to_json_string(vocab));
    temp_write(dir, "tokenizer.json", buf_view(&b));
    json_object_put(vocab);
    json_object_put(added);
    buf_free(&b);
}

static void add(struct maker *m, const char *name, int rows, int cols, float (*at)(int, int)) {
    float *f = mem_array((size_t)rows * (size_t)cols, sizeof *f);
    char shape[32];
    for (int i = 0; i < rows * cols; i++) f[i] = at(i / cols, i % cols);
    if (rows == 1) snprintf(shape, sizeof shape, "[%d]", cols);
    else snprintf(shape, sizeof shape, "[%d,%d]", rows, cols);
    maker_add(m, name, "F32", shape, f, (size_t)rows * (size_t)cols * sizeof *f);
    free(f);
}

static int n_words;
static float zero(int row, int col) { return (float)(row < 0 || col < 0); }
static float one(int row, int col) { return (float)(row == 0 && col >= 0); }
static float same(int row, int col) { return (float)(row == col); }
/* 0 -> 2 -> 3 ... -> the last word -> 1 */
static float next(int row, int col) {
    int follows = col == 0 ? 2 : col == n_words + 1 ? 1 : col + 1;
    return row == follows && col != 1 ? 4 : 0;
}

static void write_model(const char *name, const char *const *word, bool special,
                        const char *template) {
    static const char layer[] = "model.layers.0.";
    static const struct { const char *name; float (*at)(int, int); } parts[] = {
        { "self_attn.q_proj", zero }, { "self_attn.k_proj", zero }, { "self_attn.v_proj", zero },
        { "self_attn.o_proj", zero }, { "mlp.gate_proj", zero }, { "mlp.up_proj", zero },
        { "mlp.down_proj", zero } };
    static const char *const norms[] = { "input_layernorm", "post_attention_layernorm" };
    struct maker m = { 0 };
    struct buf file = { 0 }, dir = { 0 }, path = { 0 };
    buf_format(&dir, "%s/%s", home, name);
    mkdir(buf_c(&dir), 0700);
    for (n_words = 0; word[n_words];) n_words++;
    assert_true(n_words <= WORDS_MAX);
    add(&m, "model.embed_tokens.weight", DIM, DIM, same);
    add(&m, "lm_head.weight", DIM, DIM, next);
    add(&m, "model.norm.weight", 1, DIM, one);
    for (size_t i = 0; i < COUNT(parts) + COUNT(norms); i++) {
        bool norm = i >= COUNT(parts);
        buf_clear(&path);
        buf_format(&path, "%s%s.weight", layer, norm ? norms[i - COUNT(parts)] : parts[i].name);
        add(&m, buf_c(&path), norm ? 1 : DIM, DIM, norm ? one : parts[i].at);
    }
    buf_char(&m.header, '}');
    struct buf header = { 0 };
    buf_char(&header, '{');
    buf_str(&header, buf_view(&m.header));
    maker_file(&file, buf_view(&header), buf_view(&m.data));
    temp_write(buf_c(&dir), "model.safetensors", buf_view(&file));
    temp_write(buf_c(&dir), "config.json",
               S("{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
                 "\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,"
                 "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"vocab_size\":32,"
                 "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":512,\"rope_theta\":10000.0,"
                 "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"bos_token_id\":0,"
                 "\"eos_token_id\":1}"));
    temp_write(buf_c(&dir), "chat_template.jinja", str_of(template));
    write_tokenizer(buf_c(&dir), word, special);
    buf_free(&file), buf_free(&header), buf_free(&dir), buf_free(&path);
    buf_free(&m.header), buf_free(&m.data);
}

static const char template[] =
    "{% if false %}<think></think><tool_call></tool_call>{% endif %}<s>";
static const char *const thinks_and_calls[] = {
    "<think>", "They", " ask\n", " it.", "</think>", "\n\nI", " look.", "<tool_call>",
    "{\"name\": \"weather\",", " \"arguments\"", ": {\"city\"", ": \"Zürich\"", "}}",
    "</tool_call>", NULL };
static const char *const thinks_and_answers[] = {
    "<think>", "Hm.", "</think>", "\n\nYes", ", \"", "so\".", NULL };
/* Letters that spell tags the vocabulary has as tokens. */
static const char *const letters[] = {
    "Use", " <thi", "nk> ", "and", " <tool", "_call>", "{\"name\":", " \"weather\"}", " </tool",
    "_call> ", "here", NULL };
static const char *const tokens_too[] = {
    "Use", " <tool", "_call>{\"name\":", " \"x\"} ", "but", "<tool_call>", "{\"name\": ",
    "\"weather\"}", "</tool_call>", "</think>", NULL };

static struct ran run(const char *line, int code) {
    struct ran r = program_run(line, NULL, home, NULL);
    if (r.code != code)
        fail_msg("mlxcel %s: exit %d, not %d\nstdout: %s\nstderr: %s", line, r.code, code,
                 buf_c(&r.out), buf_c(&r.err));
    return r;
}

static struct json_object *at(struct json_object *o, const char *key) {
    struct json_object *value;
    if (!json_object_object_get_ex(o, key, &value)) fail_msg("no %s", key);
    return value;
}

/* The printed message; `calls` is its only call's arguments, NULL: it has none. */
static void message(const char *options, const char *content, const char *reasoning,
                    const char *arguments, const char *finish) {
    char line[300];
    snprintf(line, sizeof line, "run --temp 0 --json -p Hi %s", options);
    struct ran r = run(line, 0);
    struct json_object *o = json_tokener_parse(buf_c(&r.out)), *calls = at(o, "tool_calls");
    assert_string_equal(json_object_get_string(at(o, "role")), "assistant");
    assert_string_equal(json_object_get_string(at(o, "content")), content);
    const char *thought = json_object_get_string(at(o, "reasoning_content"));
    if (reasoning) assert_string_equal(thought ? thought : "null", reasoning);
    else assert_null(thought);
    assert_string_equal(json_object_get_string(at(o, "finish_reason")), finish);
    assert_int_equal(json_object_array_length(calls), arguments ? 1 : 0);
    if (arguments) {
        struct json_object *call = json_object_array_get_idx(calls, 0), *f = at(call, "function");
        assert_string_equal(json_object_get_string(at(call, "type")), "function");
        assert_string_equal(json_object_get_string(at(call, "id")), "call00000");
        assert_string_equal(json_object_get_string(at(f, "name")), "weather");
        assert_string_equal(json_object_get_string(at(f, "arguments")), arguments);
    }
    json_object_put(o);
    ran_free(&r);
}

static void test_json(void **state) {
    (void)state;
    const char arguments[] = "{\"city\": \"Zürich\"}";
    message("-m @H/call --tools @H/tools.json", "I look.", "They ask\n it.", arguments,
            "tool_calls");
    message("-m @H/call", "I look.<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": "
            "\"Zürich\"}}</tool_call>", "They ask\n it.", NULL, "stop");
    message("-m @H/answer", "Yes, \"so\".", "Hm.", NULL, "stop");
    message("-m @H/answer -n 2", "", "Hm.", NULL, "length");
    /* What is hidden on a screen is in the message all the same. */
    message("-m @H/answer --hide-thinking", "Yes, \"so\".", "Hm.", NULL, "stop");
    /* Cut within the arguments: they are closed. */
    message("-m @H/call --tools @H/tools.json -n 12", "I look.", "They ask\n it.",
            arguments, "length");
}

/* A tag that the vocabulary has as a token is one only by that token, special or not, whatever
 * stop texts hold back. */
static void test_tokens_and_letters(void **state) {
    (void)state;
    static const char *const stops[] = {
        "", "--stop '} butter'", "--stop '_call>{\"name\": \"weather\"}x'" };
    char line[300];
    message("-m @H/letters --tools @H/tools.json", "Use <think> and <tool_call>{\"name\": "
            "\"weather\"} </tool_call> here", NULL, NULL, "stop");
    for (size_t i = 0; i < COUNT(stops); i++) {
        snprintf(line, sizeof line, "-m @H/both --tools @H/tools.json %s", stops[i]);
        message(line, "Use <tool_call>{\"name\": \"x\"} but", NULL, "{}", "tool_calls");
    }
}

static void test_shown(void **state) {
    (void)state;
    /* Standard output is the answer alone; a file gets no reasoning at all. */
    struct ran r = run("run --temp 0 -p Hi -m @H/answer", 0);
    assert_string_equal(buf_c(&r.out), "Yes, \"so\".\n");
    assert_int_equal(r.err.len, 0);
    ran_free(&r);
    struct terminal t = terminal_open("run --temp 0 -p Hi -m @H/answer --color always", home, NULL);
    assert_true(terminal_finds(&t, "\033[2mHm.", 30));
    assert_true(terminal_finds(&t, "\033[0m", 30) || terminal_finds(&t, "\033[22m", 30));
    assert_true(terminal_finds(&t, "Yes, \"so\".", 30));
    assert_int_equal(terminal_close(&t), 0);
    t = terminal_open("run --temp 0 -p Hi -m @H/answer --color always --hide-thinking", home, NULL);
    assert_true(terminal_finds(&t, "Yes, \"so\".", 30));
    assert_null(strstr(buf_c(&t.seen), "Hm."));
    assert_int_equal(terminal_close(&t), 0);
    /* A call is on a line of its own; a file gets the text before it. */
    t = terminal_open("run --temp 0 -p Hi -m @H/call --tools @H/tools.json -q --color always", home,
                      NULL);
    assert_true(terminal_finds(&t, "I look.\r\n\033[2m[calls weather {\"city\": \"Zürich\"}]"
                               "\033[0m\r\n", 30));
    assert_int_equal(terminal_close(&t), 0);
    r = run("run --temp 0 -p Hi -m @H/call --tools @H/tools.json", 0);
    assert_string_equal(buf_c(&r.out), "I look.\n");
    assert_int_equal(r.err.len, 0);
    ran_free(&r);
}

static int set_up(void **state) {
    (void)state;
    home = temp_dir();
    write_model("call", thinks_and_calls, true, template);
    write_model("answer", thinks_and_answers, false, template);
    write_model("letters", letters, false, template);
    write_model("both", tokens_too, false, template);
    temp_write(home, "tools.json",
               S("[{\"type\":\"function\",\"function\":{\"name\":\"weather\"}}]"));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_json), cmocka_unit_test(test_tokens_and_letters),
        cmocka_unit_test(test_shown),
    };
    return cmocka_run_group_tests(all, set_up, tear_down);
}
