/* scripted.h - a checkpoint that says what it is told to, for cases about tool calls, reasoning and
 * characters that come in pieces, which the built-in model never writes.
 *
 * The token after each token is fixed: embeddings are unit vectors, the one layer adds nothing, and
 * the head's row of a token looks at the token before it. A user's message that is a script's name
 * makes the template end with the token that begins the script; other words are one token. */
#pragma once
#include "../maker.h"

#include <sys/stat.h>

enum { SCRIPTED_DIM = 128, SCRIPTED_PIECES = 12 };
enum { SCRIPTED_UNKNOWN, SCRIPTED_END, SCRIPTED_SAY, SCRIPTED_FIRST };

/* No piece may be the same as one of another script: a token has one successor. */
static const struct { const char *name, *piece[SCRIPTED_PIECES]; } scripted[] = {
    { "hello", { "Good", " day", "." } },
    { "call", { "Let me look.", "<tool_call>", "\n{\"name\": \"get_weather\", \"argu",
                "ments\": {\"city\": \"Par", "is\", \"days\"", ": 2", "}}\n", "</tool_call>" } },
    { "two", { "<tool", "_call>\n{\"name\": \"first\", \"arguments\": {\"a\": 1}",
               "}\n</tool_call>\n", "<tool_ca", "ll>\n{\"name\": \"second\"",
               ", \"arguments\": {}}\n", "</tool_ca", "ll>" } },
    { "numbered", { "<tool_c", "all>{\"id\": \"call_7f\",", " \"name\": \"now\", ",
                    "\"arguments\": {", "\"a\": 7}", "}</tool_c", "all>" } },
    { "broken", { "<too", "l_call>\nnot JSON", " at all\n</tool", "_call>" } },
    { "think", { "<think>", "\nFirst", " this,", " then that.", "\n</think>", "\n\nIt is",
                 " done." } },
    { "ponder", { "<thi", "nk>\nI need", " the weather.\n</th", "ink>\n\n<to",
                  "ol_call>\n{\"name\": ", "\"get_weather\", ",
                  "\"arguments\": {\"city\": \"Rome\"}}", "\n</to", "ol_call>" } },
    { "told", { "It is", " twenty", " degrees." } },
    { "bytes", { "caf", "\xc3", "\xa9", " \xf0\x9f", "\x98", "\x80", "!" } },
    { "stop", { "one", " two", " thr", "ee fo", "ur five" } },
    { "loop", { "la\n" } },            /* without an end */
    { "lines", { "a\n", "b\n", "c\n", "d" } },
};

/* GPT-2's characters for bytes. */
static inline void scripted_spell(struct buf *to, const char *text) {
    for (; *text; text++) {
        unsigned byte = (unsigned char)*text, point = byte;
        bool plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        if (!plain) point = 256 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
        if (point < 128) {
            buf_char(to, (char)point);
        } else {
            buf_char(to, (char)(0xc0 | point >> 6));
            buf_char(to, (char)(0x80 | (point & 63)));
        }
    }
}

struct scripted_made { struct buf vocab, added, choose; float *head; int n; };

static inline int scripted_token(struct scripted_made *m, const char *text, bool control) {
    struct buf spelt = { 0 };
    if (control) {
        buf_str(&spelt, str_of(text));
        buf_format(&m->added, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true,"
                   "\"normalized\":false,\"lstrip\":false,\"rstrip\":false,\"single_word\":false}",
                   m->added.len ? "," : "", m->n, text);
    } else {
        scripted_spell(&spelt, text);
    }
    if (m->n) buf_char(&m->vocab, ',');
    buf_json(&m->vocab, buf_view(&spelt));
    buf_format(&m->vocab, ":%d", m->n);
    buf_free(&spelt);
    if (m->n == SCRIPTED_DIM) abort();
    return m->n++;
}

static inline void scripted_follows(struct scripted_made *m, int token, int before) {
    m->head[token * SCRIPTED_DIM + before] = 4;
}

static inline void scripted_tokens(struct scripted_made *m) {
    scripted_token(m, "[unk]", false);
    scripted_token(m, "<|end|>", true);
    scripted_token(m, "<|say|>", true);
    for (size_t i = 0; i < COUNT(scripted); i++) {
        char start[32];
        snprintf(start, sizeof start, "<|%s|>", scripted[i].name);
        int last = scripted_token(m, start, true);
        for (int k = 0; k < SCRIPTED_PIECES && scripted[i].piece[k]; k++) {
            int token = scripted_token(m, scripted[i].piece[k], false);
            scripted_follows(m, token, last);
            last = token;
        }
        bool loop = !strcmp(scripted[i].name, "loop");
        scripted_follows(m, loop ? last : SCRIPTED_END, last);
        buf_format(&m->choose, "{%%- elif said == '%s' %%}%s", scripted[i].name, start);
    }
    scripted_follows(m, SCRIPTED_END, SCRIPTED_UNKNOWN);
    scripted_follows(m, SCRIPTED_END, SCRIPTED_END);
    scripted_follows(m, SCRIPTED_END, SCRIPTED_SAY);
}

static inline void scripted_tensor(struct maker *m, const char *name, int rows, int cols,
                                   const float *values) {
    char shape[32];
    float *zeros = mem_array((size_t)rows * (size_t)cols, sizeof *zeros);
    snprintf(shape, sizeof shape, cols > 1 ? "[%d,%d]" : "[%d]", rows, cols);
    maker_add(m, name, "F32", shape, values ? values : zeros,
              (size_t)rows * (size_t)cols * sizeof *zeros);
    free(zeros);
}

static inline void scripted_weights(const char *dir, const float *head) {
    enum { D = SCRIPTED_DIM, H = 16 };
    static float one[D], unit[D * D];
    struct maker m = { 0 };
    for (int i = 0; i < D; i++) one[i] = unit[i * D + i] = 1;
    scripted_tensor(&m, "model.embed_tokens.weight", D, D, unit);
    scripted_tensor(&m, "lm_head.weight", D, D, head);
    scripted_tensor(&m, "model.norm.weight", D, 1, one);
    static const struct { const char *name; int rows, cols; } zero[] = {
        { "self_attn.q_proj", H, D }, { "self_attn.k_proj", H, D }, { "self_attn.v_proj", H, D },
        { "self_attn.o_proj", D, H }, { "mlp.gate_proj", H, D }, { "mlp.up_proj", H, D },
        { "mlp.down_proj", D, H },
    };
    char name[96];
    for (size_t i = 0; i < COUNT(zero); i++) {
        snprintf(name, sizeof name, "model.layers.0.%s.weight", zero[i].name);
        scripted_tensor(&m, name, zero[i].rows, zero[i].cols, NULL);
    }
    scripted_tensor(&m, "model.layers.0.input_layernorm.weight", D, 1, one);
    scripted_tensor(&m, "model.layers.0.post_attention_layernorm.weight", D, 1, one);
    maker_write(&m, dir, "model.safetensors");
}

static inline void scripted_texts(const char *dir, struct scripted_made *m) {
    struct buf b = { 0 };
    buf_format(&b, "{\"version\":\"1.0\",\"added_tokens\":[%s],\"normalizer\":null,"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"trim_offsets\":false,\"use_regex\":true},\"post_processor\":null,"
               "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"dropout\":null,"
               "\"unk_token\":\"[unk]\",\"fuse_unk\":true,\"byte_fallback\":false,"
               "\"ignore_merges\":true,\"vocab\":{%s},\"merges\":[]}}",
               buf_c(&m->added), buf_c(&m->vocab));
    temp_write(dir, "tokenizer.json", buf_view(&b));
    buf_clear(&b);
    buf_format(&b, "{%%- if tools %%}Answer, or <tool_call>{\"name\": ..., \"arguments\": ...}"
               "</tool_call>{{ tools | tojson }}{%%- endif %%}"
               "{%%- for m in messages %%}<|say|>{{ m.role }} {{ m.content }}"
               "{%%- if not loop.last or m.role != 'assistant' %%}<|end|>{%%- endif %%}"
               "{%%- endfor %%}{%%- if add_generation_prompt %%}<|say|>"
               "{%%- set said = messages[-1].content %%}"
               "{%%- if messages[-1].role == 'tool' %%}<|told|>"
               "{%%- elif enable_thinking is defined and not enable_thinking %%}<|told|>%s"
               "{%%- endif %%}{%%- endif %%}", buf_c(&m->choose));
    temp_write(dir, "chat_template.jinja", buf_view(&b));
    buf_free(&b);
    temp_write(dir, "tokenizer_config.json",
               S("{\"eos_token\":\"<|end|>\",\"bos_token\":null,\"tokenizer_class\":\"x\"}"));
    temp_write(dir, "config.json",
               S("{\"model_type\":\"llama\",\"hidden_size\":128,\"num_hidden_layers\":1,"
                 "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"head_dim\":16,"
                 "\"intermediate_size\":16,\"vocab_size\":128,\"max_position_embeddings\":512,"
                 "\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"tie_word_embeddings\":false,"
                 "\"hidden_act\":\"silu\",\"eos_token_id\":1,\"torch_dtype\":\"float32\"}"));
}

/* Writes HOME/scripted. */
static inline void scripted_write(const char *home) {
    char dir[256];
    struct scripted_made m = { 0 };
    snprintf(dir, sizeof dir, "%s/scripted", home);
    if (mkdir(dir, 0700)) abort();
    m.head = mem_array((size_t)SCRIPTED_DIM * SCRIPTED_DIM, sizeof *m.head);
    scripted_tokens(&m);
    while (m.n < SCRIPTED_DIM) {       /* the vocabulary is as large as the model says */
        char name[16];
        snprintf(name, sizeof name, "[%d]", m.n);
        scripted_token(&m, name, false);
    }
    scripted_weights(dir, m.head);
    scripted_texts(dir, &m);
    buf_free(&m.vocab), buf_free(&m.added), buf_free(&m.choose);
    free(m.head);
}
