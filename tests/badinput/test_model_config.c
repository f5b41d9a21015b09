/* test_model_config.c - hostile and broken config.json files, from the text to a checked spec:
 * each is refused by one sentence that names the file and the key. Rows carry the number of
 * the catalogue: CF-xx. */
#include "../maker.h"
#include "model/load.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static char *dir;

/* A small model that is fine; each row changes one key of it. */
static const struct { const char *key, *value; } base[] = {
    { "model_type", "\"llama\"" }, { "hidden_size", "64" }, { "intermediate_size", "96" },
    { "num_hidden_layers", "2" }, { "num_attention_heads", "4" }, { "num_key_value_heads", "2" },
    { "head_dim", "16" }, { "vocab_size", "100" }, { "rms_norm_eps", "1e-5" },
    { "rope_theta", "10000" }, { "max_position_embeddings", "128" },
    { "tie_word_embeddings", "true" }, { "hidden_act", "\"silu\"" },
};

/* The base with key set to value (JSON); NULL value: without the key. */
static void write_config(const char *key, const char *value) {
    struct buf text = { 0 };
    bool found = false;
    for (size_t i = 0; i < COUNT(base); i++) {
        bool this = !strcmp(base[i].key, key);
        found |= this;
        if (this && !value) continue;
        buf_format(&text, "%s\"%s\":%s", text.len ? "," : "{", base[i].key,
                   this ? value : base[i].value);
    }
    if (!found && value) buf_format(&text, ",\"%s\":%s", key, value);
    buf_char(&text, '}');
    temp_write(dir, "config.json", buf_view(&text));
    buf_free(&text);
}

/* Reads dir/config.json to a spec; NULL part: must be taken. */
static void check(const char *id, const char *what, const char *part) {
    struct loaded m = { 0 };
    struct err err = { 0 };
    bool ok = load_spec(&m, dir, &err);
    load_close(&m);
    if (!part && !ok) fail_msg("%s %s: refused: %s", id, what, err.text);
    if (!part) return;
    if (ok) fail_msg("%s %s: taken", id, what);
    if (!strstr(err.text, part) || !strstr(err.text, "config.json"))
        fail_msg("%s %s: got \"%s\", wanted \"%s\"", id, what, err.text, part);
}

static const struct { const char *id, *key, *value, *part; } rows[] = {
    { "CF-00", "hidden_act", "\"silu\"", NULL },
    { "CF-02", "model_type", NULL, "model_type" },
    { "CF-02", "model_type", "\"nonesuch\"", "\"nonesuch\" is not supported" },
    { "CF-02", "model_type", "7", "model_type is 7" },
    { "CF-02", "model_type", "\"\"", "model_type" },
    { "CF-03", "hidden_size", "0", "hidden_size" },
    { "CF-03", "hidden_size", "-1", "hidden_size is -1" },
    { "CF-03", "hidden_size", "1.5", "hidden_size is 1.5" },
    { "CF-03", "hidden_size", "\"4096\"", "hidden_size is \"4096\"" },
    { "CF-03", "hidden_size", "2147483648", "hidden_size is 2147483648" },
    { "CF-03", "hidden_size", "4611686018427387904", "hidden_size is" },
    { "CF-03", "hidden_size", "null", "hidden_size" },
    { "CF-03", "hidden_size", "true", "hidden_size is true" },
    { "CF-04", "num_attention_heads", "0", "heads" },
    { "CF-04", "num_key_value_heads", "3", "heads" },
    { "CF-04", "num_key_value_heads", "8", "heads" },
    { "CF-04", "num_key_value_heads", "0", "heads" },
    { "CF-04", "head_dim", "0", "head_dim" },
    { "CF-04", "head_dim", "15", "rotary dimensions: 15" },
    { "CF-05", "num_hidden_layers", "0", "layers" },
    { "CF-05", "num_hidden_layers", "1000000000", "layers" },
    { "CF-06", "vocab_size", "0", "vocab" },
    { "CF-06", "vocab_size", "2147483648", "vocab_size is 2147483648" },
    { "CF-07", "rms_norm_eps", "NaN", "rms_norm_eps is NaN" },
    { "CF-07", "rms_norm_eps", "Infinity", "rms_norm_eps is Infinity" },
    { "CF-07", "rms_norm_eps", "-1", "eps" },
    { "CF-07", "rms_norm_eps", "1e400", "rms_norm_eps is" },
    { "CF-07", "rope_theta", "0", "rope" },
    { "CF-07", "rope_theta", "-1", "rope" },
    { "CF-07", "rope_theta", "1e308", "rope_theta is" },
    { "CF-08", "rope_scaling", "{\"rope_type\":\"nonesuch\"}", "nonesuch" },
    { "CF-08", "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":0}", "factor" },
    { "CF-08", "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":NaN}", "factor is NaN" },
    { "CF-08", "rope_scaling", "{\"rope_type\":\"linear\"}", "factor" },
    { "CF-08", "rope_scaling", "[1]", "rope_scaling" },
    { "CF-09", "max_position_embeddings", "0", "max_position_embeddings is 0" },
    { "CF-09", "max_position_embeddings", "4611686018427387904", "max_position_embeddings is" },
    { "CF-15", "intermediate_size", "2147483647", "intermediate_size is" },
    { "CF-16", "hidden_size", "64,\"hidden_size\":128", "duplicate key \"hidden_size\"" },
    { "CF-17", "auto_map", "{\"AutoModel\":\"evil.Model\"}", NULL },
};

static void by_key(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        write_config(rows[i].key, rows[i].value);
        check(rows[i].id, rows[i].value ? rows[i].value : rows[i].key, rows[i].part);
    }
}

/* Where a list or experts are needed, another family says so. */
static const struct { const char *id, *config, *part; } whole[] = {
    { "CF-01", "", "config.json" },
    { "CF-01", "[]", "config.json" },
    { "CF-01", "{\"model_type\":\"llama\"", "config.json" },
    { "CF-10", "{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,\"intermediate_size\":96,"
      "\"moe_intermediate_size\":32,\"num_experts\":4,\"num_experts_per_tok\":5,"
      "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
      "\"head_dim\":16,\"vocab_size\":100,\"rms_norm_eps\":1e-5}", "num_experts_per_tok is" },
    { "CF-10", "{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,\"intermediate_size\":96,"
      "\"moe_intermediate_size\":32,\"num_experts\":4,\"num_experts_per_tok\":0,"
      "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
      "\"head_dim\":16,\"vocab_size\":100,\"rms_norm_eps\":1e-5}", "num_experts_per_tok is" },
    { "CF-11", "{\"model_type\":\"gpt_oss\",\"hidden_size\":64,\"intermediate_size\":96,"
      "\"num_local_experts\":4,\"num_experts_per_tok\":2,\"sliding_window\":16,"
      "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
      "\"head_dim\":16,\"vocab_size\":100,\"rms_norm_eps\":1e-5,\"layer_types\":"
      "[\"sliding_attention\"]}", "layer_types" },
    { "CF-04", "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_heads\":8,\"head_dim\":16,"
      "\"n_groups\":1,\"state_size\":16,\"conv_kernel\":10,\"num_hidden_layers\":1,"
      "\"vocab_size\":100}", "conv_kernel is 10, but must be 2 to 9" },
};

static void by_text(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(whole); i++) {
        temp_write(dir, "config.json", str_of(whole[i].config));
        check(whole[i].id, whole[i].config, whole[i].part);
    }
    struct buf text = { 0 };
    buf_str(&text, S("{\"model_type\":\"llama\",\"a\":"));
    for (int i = 0; i < 100000; i++) buf_str(&text, S("{\"text_config\":"));
    temp_write(dir, "config.json", buf_view(&text));
    check("CF-22", "depth", "deep");
    buf_clear(&text);
    buf_str(&text, S("{\"model_type\":\""));
    for (int i = 0; i < 1 << 20; i++) buf_char(&text, 'x');
    buf_str(&text, S("\"}"));
    temp_write(dir, "config.json", buf_view(&text));
    check("CF-02", "1 MiB", "is not supported");
    buf_free(&text);
}

static void without_a_file(void **state) {
    (void)state;
    check("CF-01", "missing", "config.json");
}

/* Every cut of a good config is refused; every flipped bit is refused or makes a checked spec. */
static void cut_and_flipped(void **state) {
    (void)state;
    struct buf text = { 0 };
    struct err err = { 0 };
    char path[512];
    write_config("", NULL);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_true(buf_read_file(&text, path, 1 << 20, &err));
    for (size_t n = 0; n < text.len; n++) {
        temp_write(dir, "config.json", (struct str){ text.at, n });
        check("CF-01", "cut", "config.json");
    }
    int taken = 0;
    for (size_t bit = 0; bit < text.len * 8; bit++) {
        struct loaded m = { 0 };
        err = (struct err){ 0 };
        text.at[bit / 8] = (char)(text.at[bit / 8] ^ 1 << bit % 8);
        temp_write(dir, "config.json", buf_view(&text));
        bool ok = load_spec(&m, dir, &err);
        taken += ok;
        assert_true(ok || err.text[0]);
        load_close(&m);
        text.at[bit / 8] = (char)(text.at[bit / 8] ^ 1 << bit % 8);
    }
    assert_true(taken > 0);
    buf_free(&text);
}

static int setup(void **state) {
    (void)state;
    dir = temp_dir();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    temp_free(dir);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(by_key), TEST(by_text), TEST(without_a_file), TEST(cut_and_flipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
