"""The shape of the built-in model: one place for training, export and reference."""
DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 256, 8, 4, 2, 64, 512
VOCAB = 3072
THETA, EPS = 10000.0, 1e-6
GROUP, BITS, EMBED_BITS = 64, 4, 8       # the embedding is also the head, and pays for 8 bits
CONTEXT = 2048


def shapes():
    """{tensor name: shape}, as a Qwen3 checkpoint with a tied head has them."""
    s = {"model.embed_tokens.weight": (VOCAB, DIM), "model.norm.weight": (DIM,)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        s[p + "input_layernorm.weight"] = s[p + "post_attention_layernorm.weight"] = (DIM,)
        s[p + "self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, DIM)
        s[p + "self_attn.k_proj.weight"] = s[p + "self_attn.v_proj.weight"] = (KV_HEADS * HEAD_DIM, DIM)
        s[p + "self_attn.o_proj.weight"] = (DIM, HEADS * HEAD_DIM)
        s[p + "self_attn.q_norm.weight"] = s[p + "self_attn.k_norm.weight"] = (HEAD_DIM,)
        s[p + "mlp.gate_proj.weight"] = s[p + "mlp.up_proj.weight"] = (FFN, DIM)
        s[p + "mlp.down_proj.weight"] = (DIM, FFN)
    return s


def bits_of(name):
    return EMBED_BITS if "embed_tokens" in name else BITS


def parameters():
    total = 0
    for shape in shapes().values():
        n = 1
        for d in shape:
            n *= d
        total += n
    return total


def config_json(eos):
    quantization = {"group_size": GROUP, "bits": BITS, "mode": "affine",
                    "model.embed_tokens": {"group_size": GROUP, "bits": EMBED_BITS, "mode": "affine"}}
    return {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "eos_token_id": eos, "head_dim": HEAD_DIM, "hidden_act": "silu", "hidden_size": DIM,
        "initializer_range": 0.02, "intermediate_size": FFN, "max_position_embeddings": CONTEXT,
        "max_window_layers": LAYERS, "model_type": "qwen3", "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS, "quantization": quantization,
        "quantization_config": quantization, "rms_norm_eps": EPS, "rope_scaling": None,
        "rope_theta": THETA, "sliding_window": None, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB}
