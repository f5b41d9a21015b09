"""Writes a checkpoint from trained f32 weights: model.safetensors and config.json.

    python3 export.py WEIGHTS.npz OUT_DIR      (OUT_DIR already holds the tokenizer's files)
"""
import json
import os
import sys

import numpy as np

from affine import quantize, to_bf16, write_safetensors
from config import GROUP, bits_of, config_json, shapes


def export(weights, out):
    tensors = {}
    for name, shape in shapes().items():
        w = np.asarray(weights[name], np.float32)
        assert w.shape == shape, name
        if w.ndim == 1:
            tensors[name] = ("BF16", to_bf16(w))
            continue
        q, scales, biases = quantize(w, bits_of(name), GROUP)
        base = name[:-len(".weight")]
        tensors[name] = ("U32", q)
        tensors[base + ".scales"] = ("BF16", scales)
        tensors[base + ".biases"] = ("BF16", biases)
    write_safetensors(os.path.join(out, "model.safetensors"), tensors, {"format": "mlx"})
    generation = json.load(open(os.path.join(out, "generation_config.json")))
    with open(os.path.join(out, "config.json"), "w") as f:
        f.write(json.dumps(config_json(generation["eos_token_id"][0]), indent=2) + "\n")


if __name__ == "__main__":
    export(dict(np.load(sys.argv[1])), sys.argv[2])
