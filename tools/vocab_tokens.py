"""Runs our tokenizer over real vocabularies, where there are any.

Usage: vocab_tokens.py [-n STRINGS]   (needs: make tools; sentencepiece for *.model files)

MLXCEL_VOCABS, or ../shared/data/vocabs beside the checkout, is a folder of GGUF files, each with
NAME.inp (texts between __ggml_vocab_test__ lines) and NAME.out (a line of ids for each). A *.model
file in it is compared with the sentencepiece package on the random strings of diff_tokens.py.
Without such a folder this says so and ends with 0.
"""
import argparse
import glob
import os
import random
import shutil
import sys
import tempfile

import diff_tokens as diff


def gguf(path):
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
    print(f"{os.path.basename(path)}: {len(texts)} texts, {wrong} differences")
    return wrong


def spm(path, n):
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    draw, wrong = random.Random(3), 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, os.path.join(folder, "tokenizer.model"))
        ours = diff.Ours(folder)
        for _ in range(n):
            data = diff.make(draw)
            text = data.decode("utf-8", "replace")
            if "\0" in text:            # the package's strings end there
                continue
            got, gone = ours.ask(data, 0)
            want = sp.encode(text)
            known = sp.unk_id() not in want     # we spell that token, the package writes a sign
            if got != want or known and gone.decode() != sp.decode(want):
                wrong += 1
                if wrong <= 10:
                    print(f"  {text!r}\n  ids  {got}\n  want {want}\n  text {gone.decode()!r}\n  want {sp.decode(want)!r}")
        ours.close()
    print(f"{os.path.basename(path)}: {n} strings, {wrong} differences")
    return wrong


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=20000)
    n = args.parse_args().n
    folder = os.environ.get("MLXCEL_VOCABS", os.path.join(diff.ROOT, "..", "shared", "data", "vocabs"))
    if not os.path.isdir(folder):
        print(f"{folder} is not there: no real vocabularies compared")
        return 0
    wrong = 0
    for path in sorted(glob.glob(os.path.join(folder, "*.gguf"))):
        if os.path.exists(path + ".inp"):
            wrong += gguf(path)
    for path in sorted(glob.glob(os.path.join(folder, "*.model"))):
        wrong += spm(path, n)
    return wrong > 0


sys.exit(main())
