"""Compares vocabulary files that are not tokenizer.json with their makers' own packages, on random strings.

Usage: diff_formats.py [-n STRINGS] [--seed N]   (needs: make tools; pip's mistral-common, tiktoken, sentencepiece, tokenizers)

tekken.json beside mistral-common, in each version that it reads; the *.tiktoken files beside tiktoken with the
regexes that the package itself has; tokenizer.model beside sentencepiece. The tokens are those under tests/tokens, and GPT-2's where
MLXCEL_VOCABS, or ../shared/data/vocabs beside the checkout, has them. n strings for each.
"""
import argparse
import base64
import json
import os
import random
import sys
import tempfile

import diff_tokens as diff
import gguf_json
import make_tokenizer_data as data
import vocab_tokens

TEKKEN_VERSIONS = ["v3", "v7", "v11", "v13"]
SPECIALS = 100


def ordered(tokens):
    """Ranks as Mistral wants them: the bytes first, by value, then what merges made, in the order given."""
    single = [bytes([i]) for i in range(256)]
    return {t: i for i, t in enumerate(single + [t for t in tokens if len(t) > 1])}


def test_tokens():
    with open(os.path.join(gguf_json.DATA, "tekken-file", "tekken.json")) as f:
        return [base64.b64decode(t["token_bytes"]) for t in json.load(f)["vocab"]]


def real_tokens():
    path = os.path.join(os.environ.get("MLXCEL_VOCABS", os.path.join(diff.ROOT, "..", "shared", "data", "vocabs")),
                        "ggml-vocab-gpt-2.gguf")
    if not os.path.exists(path):
        print(f"{path} is not there: test vocabularies only")
        return None
    v = gguf_json.vocabulary(path)
    byte_of = {chr(c): b for b, c in data.stand_ins().items()}
    return [bytes(byte_of[c] for c in t) for t, k in zip(v["tokens"], v["token_type"]) if k == gguf_json.NORMAL]


def compare(name, path, encode, decode, n, seed):
    draw, ours, wrong = random.Random(f"{seed} {name}"), diff.Ours(path), 0
    for _ in range(n):
        raw = diff.make(draw)
        text = raw.decode("utf-8", "replace")
        got, gone = ours.ask(raw, 0)
        want = encode(text)
        back = decode(want)
        if got != want or gone.decode() != back:
            wrong += 1
            if wrong <= 10:
                print(f"  {text!r}\n  ids  {got}\n  want {want}\n  text {gone.decode()!r}\n  want {back!r}")
    ours.close()
    print(f"{name}: {n} strings, {wrong} differences", flush=True)
    return wrong


def tekken(label, tokens, n, seed):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    table, wrong = ordered(tokens), 0
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, i in table.items()]
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
             "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
             "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    for version in TEKKEN_VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tekken.json")
            out = {"config": {"pattern": data.TEKKEN, "num_vocab_tokens": len(vocab), "default_vocab_size": len(vocab) + SPECIALS - 7,
                              "default_num_special_tokens": SPECIALS, "version": version}, "vocab": vocab}
            if version != "v3":
                out["special_tokens"] = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(names)]
            with open(path, "w") as f:
                json.dump(out, f)
            theirs = Tekkenizer.from_file(path)
            wrong += compare(f"tekken.json {version}, {label}", folder, lambda t: theirs.encode(t, False, False), theirs.decode, n, seed)
            wrong += specials(folder, theirs)
    return wrong


def specials(folder, theirs):
    """Every special token's id and text, those that the file does not list among them."""
    ours, wrong = diff.Ours(folder), 0
    for i in range(theirs.num_special_tokens):
        text = theirs.id_to_piece(i)
        got, _ = ours.ask(text.encode(), diff.SPECIALS)
        if got != [i]:
            wrong += 1
            print(f"  special token {i} {text!r}: ids {got}")
    got, _ = ours.ask(b"x", diff.BOS)
    if got != theirs.encode("x", True, False):
        wrong += 1
        print(f"  with bos {got}, want {theirs.encode('x', True, False)}")
    ours.close()
    return wrong


def openai(label, tokens, n, seed):
    import tiktoken
    from tiktoken_ext import openai_public
    table, wrong = ordered(tokens), 0
    openai_public.load_tiktoken_bpe = lambda *_, **__: dict(table)      # the regexes are the package's, the ranks ours
    for name in ("cl100k_base", "o200k_base"):
        theirs = tiktoken.Encoding(**{**getattr(openai_public, name)(), "special_tokens": {}, "explicit_n_vocab": None})
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, name + ".tiktoken"), "w") as f:
                f.writelines(f"{base64.b64encode(t).decode()} {i}\n" for t, i in table.items())
            wrong += compare(f"{name}.tiktoken, {label}", folder, lambda t: theirs.encode(t, disallowed_special=()), theirs.decode, n, seed)
    return wrong


def main():
    import sentencepiece
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=10000)
    args.add_argument("--seed", type=int, default=1)
    a = args.parse_args()
    wrong = 0
    for label, tokens in ("test tokens", test_tokens()), ("GPT-2's tokens", real_tokens()):
        if tokens:
            wrong += tekken(label, tokens, a.n, a.seed) + openai(label, tokens, a.n, a.seed)
    for name in sorted(os.listdir(gguf_json.DATA)):
        model = os.path.join(gguf_json.DATA, name, "tokenizer.model")
        if os.path.exists(model):
            sp = sentencepiece.SentencePieceProcessor(model_file=model)
            wrong += vocab_tokens.spm(sp, os.path.dirname(model), name, a.n, a.seed)
    print(f"files of other formats: {wrong} differences")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
