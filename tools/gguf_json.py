"""A vocabulary of a GGUF file as tokenizer.json, for tools that compare us with the `tokenizers` package.

    gguf_json.py FILE.gguf OUT_FOLDER [CHAIN]

CHAIN is a folder of tests/tokens whose normalizer, pre-tokenizer and decoder are taken; without it the one that
the file's `pre` names. Needs no package. The tables are read as the format says, apart from src/tokens/gguf_vocab.c.
"""
import json
import os
import struct
import sys

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "tokens")
# By tokenizer.ggml.model and .pre; an absent pre is the default. Others have no chain under tests/tokens
# that is theirs letter for letter.
CHAINS = {("gpt2", "gpt-2"): "gpt2", ("gpt2", None): "gpt2", ("gpt2", "starcoder"): "starcoder",
          ("gpt2", "falcon"): "falcon", ("bert", "bert-bge"): "bert", ("llama", None): "llama2",
          ("llama", "default"): "llama2"}
NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def metadata(path):
    """Every key and value of the file's head."""
    with open(path, "rb") as f:
        data = f.read()
    at = 0

    def take(form):
        nonlocal at
        v = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return v

    def text():
        nonlocal at
        n, = take("Q")
        at += n
        return data[at - n:at].decode("utf-8", "surrogateescape")

    def value(kind):
        if kind == STRING:
            return text()
        if kind != ARRAY:
            return take(FIXED[kind])[0]
        of, n = take("IQ")
        return list(take(f"{n}{FIXED[of]}")) if of in FIXED else [value(of) for _ in range(n)]

    magic, version, _, keys = take("4sIQQ")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"{path}: not GGUF of version 2 or 3")
    out = {}
    for _ in range(keys):
        key = text()
        out[key] = value(take("I")[0])
    return out


def vocabulary(path):
    keys = metadata(path)
    return {k[len("tokenizer.ggml."):]: v for k, v in keys.items() if k.startswith("tokenizer.ggml.")}


def chain_of(v):
    return CHAINS.get((v["model"], v.get("pre")))


def merges_of_pieces(v, vocab):
    """SentencePiece has scores, not merges: every way to halve a token, the best token first."""
    out = []
    for i, (token, score) in enumerate(zip(v["tokens"], v["scores"])):
        if v["token_type"][i] != NORMAL:
            continue
        for cut in range(1, len(token)):
            left, right = vocab.get(token[:cut]), vocab.get(token[cut:])
            if left is not None and right is not None:
                out.append((-score, left, right, token[:cut], token[cut:]))
    return [[left, right] for *_, left, right in sorted(out)]


def tokenizer_json(v, chain):
    with open(os.path.join(DATA, chain, "tokenizer.json"), encoding="utf-8") as f:
        out = json.load(f)
    names, kinds, model = v["tokens"], v["token_type"], out["model"]
    if v["model"] == "bert":        # words begin with U+2581 there, and what goes on with ## here
        names = [t if k != NORMAL else t[1:] if t[:1] == "\u2581" else "##" + t for t, k in zip(names, kinds)]
    model["vocab"] = {t: i for i, t in enumerate(names)}
    if v["model"] == "gpt2":        # a token may begin with a space, no other has one
        model["merges"] = [[m[:m.index(" ", 1)], m[m.index(" ", 1) + 1:]] for m in v["merges"]]
    if v["model"] == "llama":
        model["merges"] = merges_of_pieces(v, model["vocab"])
        model["unk_token"] = names[v.get("unknown_token_id", 0)]
    if v["model"] == "bert":
        model["unk_token"] = names[v["unknown_token_id"]]
    out["added_tokens"] = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": k == CONTROL} for i, (t, k) in enumerate(zip(names, kinds)) if k in (CONTROL, USER)]
    out["post_processor"] = None
    return out


def write(v, folder, chain):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer_json(v, chain), f, ensure_ascii=False)


def main():
    v = vocabulary(sys.argv[1])
    chain = sys.argv[3] if len(sys.argv) > 3 else chain_of(v)
    if not chain:
        sys.exit(f"{sys.argv[1]}: no chain for {v['model']} {v.get('pre')}")
    write(v, sys.argv[2], chain)


if __name__ == "__main__":
    main()
