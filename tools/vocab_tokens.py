"""Runs our tokenizer over real vocabularies, where there are any.

Usage: vocab_tokens.py [-n STRINGS] [--seed N]   (needs: make tools; pip's tokenizers and sentencepiece)

MLXCEL_VOCABS, or ../shared/data/vocabs beside the checkout, is a folder of GGUF files, *.model files, and perhaps
NAME.inp (texts between __ggml_vocab_test__ lines) with NAME.out (a line of ids for each). Beside those texts, each
vocabulary meets the random strings of diff_tokens.py: the GGUF file itself and a tokenizer.json made of it, against
the package, or against sentencepiece where the vocabulary is of its kind. Vocabularies of bytes are also tried with
the pre-tokenizers of other families. Without such a folder this says so and ends with 0.
"""
import argparse
import glob
import os
import random
import shutil
import sys
import tempfile

import diff_tokens as diff
import gguf_json

OTHER_CHAINS = ["llama3", "qwen2", "qwen35", "o200k", "tekken", "kimi", "deepseek1", "deepseek3"]


def given(path):
    """The texts and ids that came with the file."""
    with open(path + ".inp", encoding="utf-8", newline="") as f:
        texts = f.read().split("\n__ggml_vocab_test__\n")
    with open(path + ".out") as f:
        outs = [[int(x) for x in line.split()] for line in f.read().split("\n")]
    ours, wrong = diff.Ours(path), 0
    for text, want in zip(texts, outs):
        got, _ = ours.ask(text.encode(), 0)
        if got != want:
            wrong += 1
            print(f"  {text!r}\n  ids  {got}\n  want {want}")
    ours.close()
    print(f"{os.path.basename(path)}: its own {len(texts)} texts, {wrong} differences")
    return wrong


def spm(sp, path, name, n, seed):
    """path: what we open, a folder or a file."""
    draw, wrong, tried = random.Random(f"{seed} {name}"), 0, 0
    ours = diff.Ours(path)
    while tried < n:
        data = diff.make(draw)
        text = data.decode("utf-8", "replace")
        if "\0" in text:            # the package's strings end there
            continue
        tried += 1
        got, gone = ours.ask(data, 0)
        want = sp.encode(text)
        known = sp.unk_id() not in want     # we spell that token, the package writes a sign
        if got != want or known and gone.decode() != sp.decode(want):
            wrong += 1
            if wrong <= 10:
                print(f"  {text!r}\n  ids  {got}\n  want {want}\n  text {gone.decode()!r}\n  want {sp.decode(want)!r}")
    ours.close()
    print(f"{name}: {n} strings, {wrong} differences from sentencepiece")
    return wrong


def model_of(v):
    """A SentencePiece model of a GGUF file's pieces, as the file's defaults say."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    model = pb.ModelProto()
    for text, score, kind in zip(v["tokens"], v["scores"], v["token_type"]):
        model.pieces.add(piece=text, score=score, type=kind)
    spec, norm = model.trainer_spec, model.normalizer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = pb.TrainerSpec.BPE, True, len(v["tokens"])
    spec.unk_id = v.get("unknown_token_id", 0)
    norm.name, norm.add_dummy_prefix = "identity", v.get("add_space_prefix", True)
    norm.remove_extra_whitespaces, norm.escape_whitespaces = v.get("remove_extra_whitespaces", False), True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def gguf(path, n, seed):
    name = os.path.basename(path)
    v = gguf_json.vocabulary(path)
    if v["model"] == "llama":
        return spm(model_of(v), path, name, n, seed)
    own = gguf_json.chain_of(v)
    wrong = 0
    chains = ([own] if own else []) + (OTHER_CHAINS if v["model"] == "gpt2" else [])
    with tempfile.TemporaryDirectory() as work:
        for chain in chains:
            folder = os.path.join(work, chain)
            gguf_json.write(v, folder, chain)
            bad = diff.run(folder, n, seed)
            if chain == own:
                bad += diff.run(folder, n, seed + 1, path)
            print(f"{name}, pre-tokenizer of {chain}: {n * (2 if chain == own else 1)} strings, {bad} differences")
            wrong += bad
    return wrong


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=10000)
    args.add_argument("--seed", type=int, default=1)
    a = args.parse_args()
    folder = os.environ.get("MLXCEL_VOCABS", os.path.join(diff.ROOT, "..", "shared", "data", "vocabs"))
    if not os.path.isdir(folder):
        print(f"{folder} is not there: no real vocabularies compared")
        return 0
    wrong = 0
    for path in sorted(glob.glob(os.path.join(folder, "*.gguf"))):
        wrong += given(path) if os.path.exists(path + ".inp") else 0
        wrong += gguf(path, a.n, a.seed)
    for path in sorted(glob.glob(os.path.join(folder, "*.model"))):
        import sentencepiece
        with tempfile.TemporaryDirectory() as work:
            shutil.copy(path, os.path.join(work, "tokenizer.model"))
            wrong += spm(sentencepiece.SentencePieceProcessor(model_file=path), work, os.path.basename(path), a.n, a.seed)
    print(f"real vocabularies: {wrong} differences")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
