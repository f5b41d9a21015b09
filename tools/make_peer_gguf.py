#!/usr/bin/env python3
"""A GGUF of drawn blocks with the shape of a checkpoint that tools/synth made: every matrix, the
embedding too, is of the given type. Q4_0 has the bytes of affine 4 bits in groups of 64.

    make_peer_gguf.py CHECKPOINT q4_0|q8_0|iq4_xs|f16|bf16 OUT.gguf  (needs pip's gguf and numpy)
"""
import json
import sys

import gguf
import numpy

TYPES = gguf.GGMLQuantizationType
# Values in a block, its bytes, where its 16-bit scale is; llama.cpp's number for such a file.
KINDS = {
    "q4_0": (TYPES.Q4_0, 32, 18, 0, 2), "q8_0": (TYPES.Q8_0, 32, 34, 0, 7),
    "iq4_xs": (TYPES.IQ4_XS, 256, 136, 0, 30), "f16": (TYPES.F16, 1, 2, None, 1),
    "bf16": (TYPES.BF16, 1, 2, None, 32),
}


def main():
    folder, kind, path = sys.argv[1:]
    dtype, block, block_bytes, scale_at, file_type = KINDS[kind]
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
    w.add_file_type(file_type)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("default")
    w.add_token_list(["t%d" % i for i in range(c["vocab_size"])])
    w.add_token_types([1] * c["vocab_size"])
    w.add_token_merges(["t 0"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    rng = numpy.random.default_rng(1)

    def matrix(name, rows, cols):
        if scale_at is None:
            values = rng.standard_normal((rows, cols), dtype=numpy.float32) / cols ** 0.5
            data = values.astype(numpy.float16) if kind == "f16" else \
                (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
            w.add_tensor(name, data.view(numpy.uint8).reshape(rows, cols * 2), raw_dtype=dtype)
            return
        blocks = rng.integers(0, 256, (rows, cols // block, block_bytes), dtype=numpy.uint8)
        scale = numpy.array([{"q4_0": 0.4, "q8_0": 0.02, "iq4_xs": 0.002}[kind] / cols ** 0.5],
                            dtype=numpy.float16)
        blocks[:, :, scale_at:scale_at + 2] = scale.view(numpy.uint8)
        w.add_tensor(name, blocks.reshape(rows, cols // block * block_bytes), raw_dtype=dtype)

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
