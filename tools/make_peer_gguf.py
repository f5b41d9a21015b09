#!/usr/bin/env python3
"""A GGUF of drawn Q4_0 blocks with the shape of a checkpoint that tools/synth made: every matrix,
the embedding too, is Q4_0, so that it has the bytes of affine 4 bits in groups of 64.

    make_peer_gguf.py CHECKPOINT OUT.gguf        (needs pip's gguf and numpy)
"""
import json
import sys

import gguf
import numpy

Q4_0 = gguf.GGMLQuantizationType.Q4_0


def main():
    folder, path = sys.argv[1:]
    with open(folder + "/config.json", encoding="utf-8") as f:
        c = json.load(f)
    hidden, ffn, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    kv, qwen = c["num_key_value_heads"], c["model_type"] == "qwen3"
    dim = c.get("head_dim", hidden // heads)
    w = gguf.GGUFWriter(path, "qwen3" if qwen else "llama")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(dim)
    w.add_value_length(dim)
    w.add_rope_dimension_count(dim)
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    w.add_file_type(2)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("default")
    w.add_token_list(["t%d" % i for i in range(c["vocab_size"])])
    w.add_token_types([1] * c["vocab_size"])
    w.add_token_merges(["t 0"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    rng = numpy.random.default_rng(1)

    def matrix(name, rows, cols):
        blocks = rng.integers(0, 256, (rows, cols // 32, 18), dtype=numpy.uint8)
        scale = numpy.array([0.4 / cols ** 0.5], dtype=numpy.float16)
        blocks[:, :, :2] = scale.view(numpy.uint8)
        w.add_tensor(name, blocks.reshape(rows, cols // 32 * 18), raw_dtype=Q4_0)

    def ones(name, n):
        w.add_tensor(name, numpy.ones(n, dtype=numpy.float32))

    matrix("token_embd.weight", c["vocab_size"], hidden)
    ones("output_norm.weight", hidden)
    for i in range(c["num_hidden_layers"]):
        b = "blk.%d." % i
        ones(b + "attn_norm.weight", hidden)
        ones(b + "ffn_norm.weight", hidden)
        matrix(b + "attn_q.weight", heads * dim, hidden)
        matrix(b + "attn_k.weight", kv * dim, hidden)
        matrix(b + "attn_v.weight", kv * dim, hidden)
        matrix(b + "attn_output.weight", hidden, heads * dim)
        matrix(b + "ffn_gate.weight", ffn, hidden)
        matrix(b + "ffn_up.weight", ffn, hidden)
        matrix(b + "ffn_down.weight", hidden, ffn)
        if qwen:
            ones(b + "attn_q_norm.weight", dim)
            ones(b + "attn_k_norm.weight", dim)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
