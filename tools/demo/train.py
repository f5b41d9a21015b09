"""Trains the built-in model on one GPU and writes the checkpoint.

    python3 train.py TOKENIZER_DIR OUT_DIR [--seconds 300] [--rows 64] [--start WEIGHTS.npz]

The last 40 % of the time the forward pass sees the weights as the exporter will store them, so that the
quantized model is the one that was trained. OUT_DIR gets the model, weights.npz (bf16 bits) and report.txt."""
import argparse
import json
import math
import os
import shutil
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import dialogues
import evaluate
from affine import to_bf16
from export import export
from model import forward, greedy, initial, logits, quantized, rope_table
from rows import LENGTH, Encoder, rows

WARM, QUANT_FROM = 0.02, 0.55


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, folder, seed, batch):
        self.folder, self.seed, self.batch = folder, seed, batch

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        source = rows(self.folder, self.seed * 1000 + (info.id if info else 0))
        while True:
            part = [next(source) for _ in range(self.batch)]
            yield tuple(torch.from_numpy(np.stack([p[i] for p in part])) for i in range(3))


def loss_of(weights, batch, table, device):
    ids, w, docs = (t.to(device, non_blocking=True) for t in batch)
    seen, doc = ids[:, :-1], docs[:, :-1]
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=device).tril()
    mask = ((doc[:, :, None] == doc[:, None, :]) & causal)[:, None]
    hidden = forward(weights, seen, mask, table)
    target = ids[:, 1:]
    weight = torch.where(docs[:, 1:] == doc, w[:, 1:], torch.zeros_like(w[:, 1:]))
    keep = weight > 0                        # the head runs only where a token is judged
    out = logits(weights, hidden[keep])
    each = F.cross_entropy(out.float(), target[keep], reduction="none")
    answers = weight[keep] == 1
    return (each * weight[keep]).sum() / weight.sum(), each[answers].mean().detach()


def judged(weights, encoder, maker, seed, count, device, wrong=None):
    cases = dialogues.held_out(maker, seed, count)
    stop = [encoder.end, encoder.text_end]
    ids = greedy(weights, evaluate.prompts_of(cases, encoder), evaluate.BUDGET, stop, device)
    return evaluate.judge(cases, [encoder.decode(i) for i in ids], maker, wrong)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("tokenizer")
    args.add_argument("out")
    args.add_argument("--seconds", type=float, default=300)
    args.add_argument("--rows", type=int, default=64)
    args.add_argument("--rate", type=float, default=3e-3)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--workers", type=int, default=14)
    args.add_argument("--judge", type=int, default=3000)
    args.add_argument("--start", help="weights.npz of an earlier run")
    a = args.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.time()
    weights = initial(a.seed, device)
    if a.start:
        for n, bits in np.load(a.start).items():
            weights[n].data.copy_(torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32)))
    matrices = [w for w in weights.values() if w.ndim == 2]
    vectors = [w for w in weights.values() if w.ndim == 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                            lr=a.rate, betas=(0.9, 0.95), fused=device == "cuda")
    data = iter(torch.utils.data.DataLoader(Stream(a.tokenizer, a.seed, a.rows), batch_size=None,
                                            num_workers=a.workers, prefetch_factor=4, pin_memory=device == "cuda"))
    table = rope_table(LENGTH, device)
    next(data)
    print(f"first rows after {time.time() - started:.1f} s", flush=True)
    began, step, told, tokens = time.time(), 0, 0.0, 0
    while True:
        done = (time.time() - began) / a.seconds
        if done >= 1:
            break
        rate = a.rate * min(1.0, step / 200 + 0.005) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        for g in opt.param_groups:
            g["lr"] = rate
        full = quantized(weights) if done > QUANT_FROM else weights
        loss, plain = loss_of({n: w.bfloat16() for n, w in full.items()}, next(data), table, device)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        opt.step()
        step += 1
        tokens += a.rows * LENGTH
        if time.time() - told > 10:
            told = time.time()
            print(f"{told - began:6.1f} s  step {step}  {tokens / 1e6:.0f} M tokens  loss {plain.item():.4f}  "
                  f"rate {rate:.2e}", flush=True)
    spent = time.time() - began
    os.makedirs(a.out, exist_ok=True)
    for name in os.listdir(a.tokenizer):
        if name not in ("model.safetensors", "config.json"):
            shutil.copyfile(os.path.join(a.tokenizer, name), os.path.join(a.out, name))
    export({n: w.detach().cpu().numpy() for n, w in weights.items()}, a.out)
    np.savez(os.path.join(a.out, "weights.npz"), **{n: to_bf16(w.detach().cpu().numpy()) for n, w in weights.items()})
    encoder, maker, wrong = Encoder(a.tokenizer), dialogues.Maker(), []
    with torch.no_grad():
        stored = quantized(weights)
    with open(os.path.join(a.out, "report.txt"), "w") as f:
        for out in (sys.stdout, f):
            print(f"{spent:.0f} s, {step} steps, {tokens / 1e6:.0f} M tokens", file=out)
        result = judged(stored, encoder, maker, 7, a.judge, device, wrong)
        for out in (sys.stdout, f):
            print("quantized", file=out)
            evaluate.show(result, out)
        result = judged({n: w.detach() for n, w in weights.items()}, encoder, maker, 7, a.judge, device)
        for out in (sys.stdout, f):
            print("float", file=out)
            evaluate.show({"all": result["all"]}, out)
        if os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "wild.txt")):
            cases, stop = evaluate.wild(), [encoder.end, encoder.text_end]
            ids = greedy(stored, [encoder.prompt([{"role": "user", "content": q}]) for q, _ in cases],
                         evaluate.BUDGET, stop, device)
            got = [encoder.decode(i) for i in ids]
            right = [all(m in g for m in must) for g, (_, must) in zip(got, cases)]
            print(f"by hand: {sum(right)} of {len(right)}", file=f)
            print(f"by hand: {sum(right)} of {len(right)}")
            for good, g, (q, must) in zip(right, got, cases):
                if not good:
                    print(json.dumps(["wild", q, must, g]), file=f)
        for w in wrong:
            print(json.dumps(w), file=f)
    print(f"all in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
