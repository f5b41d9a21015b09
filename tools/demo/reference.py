"""A Qwen3 forward pass in numpy, f32, from the exported files: the judge of the exporter and the source
of the test vectors. One sequence, keys and values kept."""
import json
import os

import numpy as np

from affine import dequantize, from_bf16, read_safetensors


class Reference:
    def __init__(self, folder):
        c = self.c = json.load(open(os.path.join(folder, "config.json")))
        raw = read_safetensors(os.path.join(folder, "model.safetensors"))
        quant = c["quantization"]
        self.w = {}
        for name, (dtype, a) in raw.items():
            if name.endswith((".scales", ".biases")):
                continue
            if dtype == "U32":
                base = name[:-len(".weight")]
                q = quant.get(base, quant)
                a = dequantize(a, raw[base + ".scales"][1], raw[base + ".biases"][1], q["bits"], q["group_size"])
            else:
                a = from_bf16(a)
            self.w[name] = a
        half = c["head_dim"] // 2
        self.inv = (1.0 / c["rope_theta"] ** (np.arange(half, dtype=np.float64) / half)).astype(np.float32)

    def norm(self, x, w):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.c["rms_norm_eps"])) * w

    def rope(self, x, pos):
        angle = pos[:, None].astype(np.float32) * self.inv
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def start(self):
        return [None] * self.c["num_hidden_layers"]

    def run(self, ids, cache, last=True):
        """Logits [rows, vocab] for ids appended to the cache; of the last token only if `last`."""
        c, w = self.c, self.w
        n, d = len(ids), c["head_dim"]
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        x = w["model.embed_tokens.weight"][np.asarray(ids)]
        past = 0 if cache[0] is None else cache[0][0].shape[0]
        pos = np.arange(past, past + n)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            h = self.norm(x, w[p + "input_layernorm.weight"])
            q = (h @ w[p + "self_attn.q_proj.weight"].T).reshape(n, heads, d)
            k = (h @ w[p + "self_attn.k_proj.weight"].T).reshape(n, kv, d)
            v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(n, kv, d)
            q = self.rope(self.norm(q, w[p + "self_attn.q_norm.weight"]), pos)
            k = self.rope(self.norm(k, w[p + "self_attn.k_norm.weight"]), pos)
            if cache[i] is not None:
                k, v = np.concatenate([cache[i][0], k]), np.concatenate([cache[i][1], v])
            cache[i] = (k, v)
            scores = np.einsum("qhgd,khd->hgqk", q.reshape(n, kv, heads // kv, d), k) * np.float32(d**-0.5)
            scores = np.where(np.arange(past + n)[None] > pos[:, None], np.float32(-np.inf), scores)
            e = np.exp(scores - scores.max(-1, keepdims=True))
            e /= e.sum(-1, keepdims=True)
            mix = np.einsum("hgqk,khd->qhgd", e, v).reshape(n, heads * d)
            x = x + mix @ w[p + "self_attn.o_proj.weight"].T
            h = self.norm(x, w[p + "post_attention_layernorm.weight"])
            gate = h @ w[p + "mlp.gate_proj.weight"].T
            up = h @ w[p + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
        x = self.norm(x[-1:] if last else x, w["model.norm.weight"])
        return x @ w["model.embed_tokens.weight"].T

    def greedy(self, ids, n, stop):
        """(generated ids without the end token, logits after the prompt)."""
        cache, out = self.start(), []
        logits = first = self.run(ids, cache)[-1]
        while len(out) < n:
            token = int(logits.argmax())
            if token in stop:
                break
            out.append(token)
            logits = self.run([token], cache)[-1]
        return out, first
