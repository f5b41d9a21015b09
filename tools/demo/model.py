"""Qwen3 in PyTorch, as functions over a dictionary of tensors named as in the checkpoint."""
import math

import torch
import torch.nn.functional as F

from config import (BITS, DIM, EMBED_BITS, EPS, GROUP, HEAD_DIM, HEADS, KV_HEADS, LAYERS, THETA, bits_of,
                    shapes)


def initial(seed, device):
    gen = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes().items():
        if len(shape) == 1:
            w = torch.ones(shape)
        else:
            std = 0.02 if "embed" in name else 1 / math.sqrt(shape[1])
            if "o_proj" in name or "down_proj" in name:
                std /= math.sqrt(2 * LAYERS)
            w = torch.randn(shape, generator=gen) * std
        weights[name] = w.to(device).requires_grad_(True)
    return weights


def fake_quantize(groups, bits):
    """[n, GROUP] f32 as it comes back from the exporter's arithmetic (affine.quantize)."""
    top, low = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    steps = 2**bits - 1
    side = low.abs() > top.abs()
    scale = ((top - low) / steps).clamp_min(1e-7)
    scale = torch.where(side, scale, -scale)
    edge = torch.where(side, low, top)
    q0 = torch.round(edge / scale)
    some = q0 != 0
    scale = torch.where(some, edge / torch.where(some, q0, torch.ones_like(q0)), scale)
    bias = torch.where(some, edge, torch.zeros_like(edge))
    q = torch.round((groups - bias) / scale).clamp(0, steps)
    return q * scale.bfloat16().float() + bias.bfloat16().float()


def quantized(weights):
    """The weights as the exported file holds them; gradients pass straight through."""
    out = dict(weights)
    for bits in (BITS, EMBED_BITS):
        names = [n for n, w in weights.items() if w.ndim == 2 and bits_of(n) == bits]
        flat = torch.cat([weights[n].reshape(-1, GROUP) for n in names])
        with torch.no_grad():
            step = fake_quantize(flat, bits) - flat
        at = 0
        for n in names:
            rows = weights[n].numel() // GROUP
            out[n] = weights[n] + step[at:at + rows].view(weights[n].shape)
            at += rows
    for n, w in weights.items():
        if w.ndim == 1:
            out[n] = w + (w.bfloat16().float() - w).detach()
    return out


def rope_table(length, device):
    inv = 1.0 / THETA ** (torch.arange(HEAD_DIM // 2, device=device, dtype=torch.float32) / (HEAD_DIM // 2))
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inv
    return angle.cos(), angle.sin()


def rope(x, table):
    cos, sin = (t[: x.shape[-2]].to(x.dtype) for t in table)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def forward(weights, ids, mask, table):
    """ids [B, T] to the hidden states after the last norm [B, T, DIM]. mask: bool [B, 1, T, T], or None
    for a plain causal one. The type of the weights is the type of the arithmetic."""
    batch, length = ids.shape
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    kind = x.dtype
    x = x.float()

    def norm(v, name):
        return F.rms_norm(v.float(), v.shape[-1:], weights[name].float(), EPS).to(kind)

    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q = F.linear(h, weights[p + "self_attn.q_proj.weight"]).view(batch, length, HEADS, HEAD_DIM)
        k = F.linear(h, weights[p + "self_attn.k_proj.weight"]).view(batch, length, KV_HEADS, HEAD_DIM)
        v = F.linear(h, weights[p + "self_attn.v_proj.weight"]).view(batch, length, KV_HEADS, HEAD_DIM)
        q = rope(norm(q, p + "self_attn.q_norm.weight").transpose(1, 2), table)
        k = rope(norm(k, p + "self_attn.k_norm.weight").transpose(1, 2), table)
        times = HEADS // KV_HEADS
        k, v = k.repeat_interleave(times, 1), v.transpose(1, 2).repeat_interleave(times, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        y = y.transpose(1, 2).reshape(batch, length, HEADS * HEAD_DIM)
        x = x + F.linear(y, weights[p + "self_attn.o_proj.weight"])
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = F.linear(h, weights[p + "mlp.gate_proj.weight"])
        up = F.linear(h, weights[p + "mlp.up_proj.weight"])
        x = x + F.linear(F.silu(gate) * up, weights[p + "mlp.down_proj.weight"])
    assert x.shape[-1] == DIM
    return norm(x, "model.norm.weight")


def logits(weights, hidden):
    return F.linear(hidden, weights["model.embed_tokens.weight"])


@torch.no_grad()
def greedy(weights, prompts, n, stop, device, chunk=500):
    """Greedy answers to many prompts (lists of ids): lists of ids without the end token."""
    out = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), chunk):
        part = order[start:start + chunk]
        lens = torch.tensor([len(prompts[i]) for i in part], device=device)
        width = int(lens.max()) + n
        table = rope_table(width, device)
        ids = torch.zeros((len(part), width), dtype=torch.long, device=device)
        for r, i in enumerate(part):
            ids[r, :len(prompts[i])] = torch.tensor(prompts[i], device=device)
        done = torch.zeros(len(part), dtype=torch.bool, device=device)
        row = torch.arange(len(part), device=device)
        for step in range(n):
            seen = int(lens.max()) + step
            h = forward(weights, ids[:, :seen], None, table)[row, lens + step - 1]
            token = logits(weights, h).argmax(-1)
            token = torch.where(done, torch.full_like(token, stop[0]), token)
            ids[row, lens + step] = token
            for s in stop:
                done |= token == s
            if bool(done.all()):
                break
        ids = ids.cpu().tolist()
        for r, i in enumerate(part):
            got = []
            for token in ids[r][len(prompts[i]):len(prompts[i]) + n]:
                if token in stop:
                    break
                got.append(token)
            out[i] = got
    return out
