"""Makes tests/tokens/gguf-*/: a vocabulary of each kind in a GGUF file, and what its makers' tools say of texts.

Usage: make_gguf_vocabs.py   (needs what make_tokenizer_data.py needs)

No tensors; the metadata as llama.cpp's converters write it. The ids come from the tool that the same
vocabulary has in its own form: tokenizers, sentencepiece, or a statement of the rule in Python.
"""
import json
import os
import struct

import make_tokenizer_data as data
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
U8, I32, U32, F32, BOOL, STRING, ARRAY = 0, 5, 4, 6, 7, 8, 9
TEXTS = data.TEXTS[::2]


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    return {STRING: text, BOOL: lambda x: struct.pack("<B", x), U32: lambda x: struct.pack("<I", x),
            I32: lambda x: struct.pack("<i", x), F32: lambda x: struct.pack("<f", x)}[kind](v)


def write(name, fields, rows):
    """fields: (key, kind, value), of which a kind of (ARRAY, kind) is a list, one of bytes of U8."""
    out = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields) + 1) + text("general.architecture") + struct.pack("<I", STRING) + text("llama")
    for key, kind, v in fields:
        out += text("tokenizer.ggml." + key)
        if isinstance(kind, tuple):
            out += struct.pack("<IIQ", ARRAY, kind[1], len(v))
            out += v if kind[1] == U8 else b"".join(value(kind[1], x) for x in v)
        else:
            out += struct.pack("<I", kind) + value(kind, v)
    folder = os.path.join(data.HERE, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.gguf"), "wb") as f:
        f.write(out)
    data.write_cases(folder, rows)
    print(name, len(out))


def pieces(name):
    from sentencepiece import sentencepiece_model_pb2 as pb
    model = data.spm(name)
    spec = pb.ModelProto.FromString(model)
    fields = [("tokens", (ARRAY, STRING), [p.piece for p in spec.pieces]), ("scores", (ARRAY, F32), [p.score for p in spec.pieces]),
              ("token_type", (ARRAY, I32), [p.type for p in spec.pieces]), ("unknown_token_id", U32, 0),
              ("bos_token_id", U32, 1), ("eos_token_id", U32, 2), ("add_space_prefix", BOOL, spec.normalizer_spec.add_dummy_prefix),
              ("remove_extra_whitespaces", BOOL, spec.normalizer_spec.remove_extra_whitespaces)]
    if spec.normalizer_spec.precompiled_charsmap:
        fields.append(("precompiled_charsmap", (ARRAY, U8), spec.normalizer_spec.precompiled_charsmap))
    return fields, data.spm_cases(model)


def listed(tok, control):
    """tokens and token_type of a tokenizer of the package."""
    names = [n for n, _ in sorted(tok.get_vocab().items(), key=lambda kv: kv[1])]
    return names, [CONTROL if n in control else NORMAL for n in names]


def gpt2():
    tok = data.KINDS["starcoder"]()
    names, types = listed(tok, ("<s>", "</s>", "<|end|>"))
    merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    write("gguf-gpt2", [("model", STRING, "gpt2"), ("pre", STRING, "starcoder"), ("tokens", (ARRAY, STRING), names),
                        ("token_type", (ARRAY, I32), types), ("merges", (ARRAY, STRING), merges), ("eos_token_id", U32, 1)],
          data.cases(tok))


def bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok = data.other(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=special),
                     norm=normalizers.BertNormalizer(lowercase=True), pre=pre_tokenizers.BertPreTokenizer(),
                     decoder=decoders.WordPiece(), post=lambda t: setattr(t, "post_processor", processors.BertProcessing(
                         ("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))))
    names, types = listed(tok, special)
    spelt = [n if k != NORMAL else n[2:] if n.startswith("##") else "▁" + n for n, k in zip(names, types)]
    write("gguf-bert", [("model", STRING, "bert"), ("tokens", (ARRAY, STRING), spelt), ("token_type", (ARRAY, I32), types),
                        ("unknown_token_id", U32, 1), ("seperator_token_id", U32, 3), ("cls_token_id", U32, 2)], data.cases(tok))


def rwkv():
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        rows = data.rwkv(folder)
        with open(os.path.join(folder, "rwkv_vocab_v20230424.txt"), encoding="utf-8") as f:
            lines = f.read().rstrip("\n").split("\n")
    tokens = ["<s>"]
    for line in lines:
        token = eval(line[line.index(" "):line.rindex(" ")])
        tokens.append(repr(token.encode() if isinstance(token, str) else token)[2:-1])
    n = len(tokens)
    tokens += ["[PAD%d]" % (n + i) for i in range(3)]
    rows.append({"text": "[PAD%d]" % n, "ids": greedy(lines, "[PAD%d]" % n)})
    write("gguf-rwkv", [("model", STRING, "rwkv"), ("tokens", (ARRAY, STRING), tokens),
                        ("token_type", (ARRAY, I32), [CONTROL] + [NORMAL] * (n - 1) + [UNUSED] * 3),
                        ("bos_token_id", U32, 0), ("eos_token_id", U32, 0)],
          [r for r in rows if "<s>" not in r["text"]])


def greedy(lines, s):
    ids = {}
    for line in lines:
        token = eval(line[line.index(" "):line.rindex(" ")])
        ids[token.encode() if isinstance(token, str) else token] = int(line[:line.index(" ")])
    b, at, out = s.encode(), 0, []
    while at < len(b):
        n = next(n for n in range(len(b) - at, 0, -1) if b[at:at + n] in ids)
        out.append(ids[b[at:at + n]])
        at += n
    return out


def plamo2():
    kinds = {"UNKNOWN": UNKNOWN, "CONTROL": CONTROL, "BYTE": BYTE, "NORMAL": NORMAL}
    rows = data.plamo_rows()
    single = [[r[0], struct.unpack("<f", struct.pack("<f", r[1]))[0], *r[2:]] for r in rows]
    write("gguf-plamo2", [("model", STRING, "plamo2"), ("pre", STRING, "default"),
                          ("tokens", (ARRAY, STRING), [r[0] for r in rows] + ["[PAD1]"]),
                          ("scores", (ARRAY, F32), [r[1] for r in rows] + [-1000.0]),
                          ("token_type", (ARRAY, I32), [kinds[r[2]] for r in rows] + [UNUSED]),
                          ("bos_token_id", U32, 1), ("eos_token_id", U32, 2), ("add_bos_token", BOOL, False)],
          data.plamo(None, single))


def main():
    data.TEXTS[:] = TEXTS
    fields, rows = pieces("spm-bpe")
    write("gguf-llama", [("model", STRING, "llama")] + fields, rows)
    fields, rows = pieces("spm-unigram")
    write("gguf-t5", [("model", STRING, "t5")] + fields, [{**r, "bos": r["ids"] + [2]} for r in rows])
    gpt2()
    bert()
    rwkv()
    plamo2()


if __name__ == "__main__":
    main()
