"""Makes the small tokenizers under tests/tokens/ and what the `tokenizers` package says of them.

Usage: make_tokenizer_data.py [NAME...]   (needs: pip install tokenizers)

Each folder gets a tokenizer.json, trained on the sentences below, and cases.json: texts, their ids
with and without the tokens of the post-processor, and what the ids decode to.
"""
import json
import os
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "tokens")

CORPUS = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.
We'll meet again at 10:45 on 2024-03-17; they've said they'd bring 1234567 apples & 3.14159 pies!
Il était une fois un garçon qui aimait les œufs brûlés; ça va très bien, merci à l'élève.
Die Straße über den Fluß führt nach Köln. Öfter mal was Neues, größer als früher.
Съешь же ещё этих мягких французских булок, да выпей чаю. Привет, мир!
天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。我喜欢吃苹果，你呢？
いろはにほへと ちりぬるを わかよたれそ つねならむ。カタカナとひらがな。
나는 오늘 학교에 갔습니다. 안녕하세요 세계!
مرحبا بالعالم، كيف حالك اليوم؟ ١٢٣٤٥
नमस्ते दुनिया, आप कैसे हैं? हिन्दी में लिखना।
สวัสดีชาวโลก ภาษาไทยไม่มีวรรค
def main(argv):\n    for i in range(10):\n        print(f"{i}: {argv[i]!r}")\n    return 0
#include <stdio.h>\nint main(void) { printf("hello, world\\n"); return x->y == z ? 1 : -1; }
{"name": "value", "list": [1, 2, 3], "nested": {"a": null, "b": true}}
Email me@example.com or see https://www.example.org/path?query=1&other=2#frag.
👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumbs, 🇩🇪🇫🇷 flags, ❤️ heart
CamelCaseWords and SCREAMING_SNAKE and kebab-case-words IPv6 HTTPServer
""".split("\n")

TEXTS = CORPUS + [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "a", " a", "a ", "  a  b   c    ",
    "Hello, world!", "hello   world", "I'm you're he'd WE'LL It'S ſ'ſ", "12345 6 78 901234 ٣٤٥ Ⅷ ½",
    "e\u0301 é \u1e9b\u0323 ﬁ Å \u212b \ufdfa \u0344 가 \u1100\u1161", "a\u0300\u0301\u0327\u0323b",
    "\u00a0nbsp\u2003em\u3000ideo\u180emvs\u200bzw\ufeffbom\u0085nel", "İstanbul ΣΑΣ ǅ",
    "<s>hi</s>", "<s> hi </s> there", "x<mask>y", "x <mask> y", "a<|end|>b", "<|end|><|end|>",
    "<|en", "<|end|", "day monday today day.", "new york new  york", "▁under▁score ▁", "<0x41>", "a\x00b",
    "\x01\x02\x7f\x80\x9f", "\U0001d54f\U00010348\U000e0041", "....!!!???---___===", "don't  won't\n\n\nstop",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ab" * 60, " " * 70, "\n" * 40, "ｆｕｌｌ　ｗｉｄｔｈ１２３", "日本語とEnglish混在123テスト", "ﾊﾝｶｸ ｶﾞｷﾞ",
    "\u0e01\u0e33 \u0d4a \u09cb", "\ufffd \ufffe", "f(x)=x^2+y_1; //ok", "\r\n\r\n  \r x", "9" * 25, "A" * 9 + "b" * 9,
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(regex, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


def bytes_after(*steps):
    return pre_tokenizers.Sequence(list(steps) + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def template(before=(), after=()):
    def make(tok):
        names = list(before) + list(after)
        single = " ".join(list(before) + ["$A"] + list(after))
        tok.post_processor = processors.TemplateProcessing(
            single=single, pair=single + " $B:1", special_tokens=[(n, tok.token_to_id(n)) for n in set(names)])
    return make


def bpe(pre=None, norm=None, decoder=None, vocab=420, specials=("<s>", "</s>", "<|end|>"), added=(), post=None,
        alphabet=True, model=None, limit=None):
    tok = Tokenizer(models.BPE(**(model or {})))
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    if decoder:
        tok.decoder = decoder
    if isinstance(added, tuple):
        added = list(added)
    byte_names = [f"<0x{i:02X}>" for i in range(256)] if (model or {}).get("byte_fallback") else []
    unk = [model["unk_token"]] if model and model.get("unk_token") else []
    plain = {k: v for k, v in (model or {}).items() if k in ("continuing_subword_prefix", "end_of_word_suffix")}
    trainer = trainers.BpeTrainer(vocab_size=vocab + len(byte_names), show_progress=False,
                                  special_tokens=unk + byte_names + list(specials),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
                                  **({"limit_alphabet": limit} if limit else {}), **plain)
    tok.train_from_iterator(CORPUS * 2, trainer)
    if byte_names:                      # they are plain tokens of the model, not special ones
        data = json.loads(tok.to_str())
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in byte_names]
        tok = Tokenizer.from_str(json.dumps(data))
    if added:
        tok.add_tokens(added)
    if post:
        post(tok)
    return tok


def config(tok, **changes):
    """The same tokenizer with fields of its model changed in the file."""
    data = json.loads(tok.to_str())
    data["model"].update(changes)
    return Tokenizer.from_str(json.dumps(data))


def old_merges(tok):
    data = json.loads(tok.to_str())
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return data


BYTES = decoders.ByteLevel
ADDED = [AddedToken("<mask>", lstrip=True, special=True), AddedToken("day", single_word=True, normalized=False),
         AddedToken("new york", rstrip=True, normalized=True), AddedToken("  ", normalized=False),
         AddedToken("<|end|>x", special=True), AddedToken("\n\n", normalized=False)]


def llama2(prefix=True):
    norm = [normalizers.Prepend("▁")] if prefix else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return bpe(norm=normalizers.Sequence(norm + [normalizers.Replace(" ", "▁")]), alphabet=False, limit=180, vocab=330,
               decoder=decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else [])),
               model=dict(byte_fallback=True, fuse_unk=True, unk_token="<unk>"), post=template(["<s>"]))


def metaspace(scheme, split_it):
    return bpe(pre=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split_it), alphabet=False, limit=180, vocab=330,
               decoder=decoders.Metaspace(prepend_scheme=scheme), added=ADDED, post=template(["<s>"], ["</s>"]),
               model=dict(byte_fallback=True, fuse_unk=False, unk_token="<unk>"))


def other(model, trainer, norm=None, pre=None, decoder=None, post=None, added=()):
    tok = Tokenizer(model)
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    if decoder:
        tok.decoder = decoder
    tok.train_from_iterator(CORPUS * 2, trainer)
    if added:
        tok.add_tokens(list(added))
    if post:
        post(tok)
    return tok


def unigram(scheme="always", norm=None, byte_fallback=False, unk=True, pre=None):
    byte_names = [f"<0x{i:02X}>" for i in range(256)] if byte_fallback else []
    tok = other(models.Unigram(), trainers.UnigramTrainer(vocab_size=300 + len(byte_names), show_progress=False,
                special_tokens=["<s>", "</s>", "<unk>"] + byte_names, unk_token="<unk>" if unk else None),
                norm=norm, pre=pre or pre_tokenizers.Metaspace(prepend_scheme=scheme),
                decoder=decoders.Metaspace(prepend_scheme=scheme), post=template(["<s>"], ["</s>"]), added=ADDED)
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in byte_names]
    data["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(data))


def charsmap():
    """A small map as SentencePiece compiles it: some of NFKC, full width, and removals."""
    import base64
    import io
    import tempfile
    import unicodedata
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    rules = {chr(c): unicodedata.normalize("NFKC", chr(c)) for c in list(range(0xff01, 0xff5f)) + list(range(0xfb00, 0xfb07)) +
             list(range(0x2160, 0x2180)) + [0x212b, 0x3000, 0xa0, 0xfdfa, 0xbd, 0x2003]}
    rules.update({"e\u0301": "é", "a\u0300": "à", "\u200b": "", "\t": " ", "\x7f": "", "か\u3099": "が"})
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as f:
        for a, b in sorted((a, b) for a, b in rules.items() if a != b):
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
        f.flush()
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 2), model_writer=out, vocab_size=400,
                                                 normalization_rule_tsv=f.name, minloglevel=2, hard_vocab_limit=False)
    spec = pb.ModelProto.FromString(out.getvalue()).normalizer_spec
    return normalizers.Precompiled(spec.precompiled_charsmap)


def bert(lowercase):
    return other(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(
        vocab_size=500, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        norm=normalizers.BertNormalizer(lowercase=lowercase, strip_accents=None), pre=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(), added=[AddedToken("<mask>", lstrip=True, special=True)],
        post=lambda t: setattr(t, "post_processor", processors.BertProcessing(
            ("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))))


KINDS = {
    "unigram": lambda: unigram(norm=normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])),
    "unigram-bytes": lambda: unigram("first", byte_fallback=True),
    "unigram-charsmap": lambda: unigram(norm=charsmap(), pre=pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])),
    "bert": lambda: bert(True),
    "bert-cased": lambda: bert(False),
    "wordlevel": lambda: other(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(
        vocab_size=150, show_progress=False, special_tokens=["<unk>", "<s>"]), pre=pre_tokenizers.Whitespace()),
    "fixed": lambda: other(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(
        vocab_size=150, show_progress=False, special_tokens=["<unk>"]), pre=pre_tokenizers.FixedLength(3),
        decoder=decoders.CTC(pad_token="<unk>", word_delimiter_token="|")),
    "scripts": lambda: other(models.Unigram(), trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<s>", "<unk>"], unk_token="<unk>"),
        pre=pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Metaspace(prepend_scheme="first")]),
        decoder=decoders.Metaspace(prepend_scheme="first"), added=ADDED),
    "gpt2": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=BYTES(), added=ADDED),
    "gpt2-prefix": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), decoder=BYTES(), added=ADDED,
                               post=lambda t: setattr(t, "post_processor", processors.RobertaProcessing(
                                   ("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))))),
    "llama3": lambda: config(bpe(bytes_after(split(CL100K)), decoder=BYTES(), post=template(["<s>"])), ignore_merges=True),
    "qwen2": lambda: bpe(bytes_after(split(QWEN2)), norm=normalizers.NFC(), decoder=BYTES(), added=ADDED),
    "qwen35": lambda: bpe(bytes_after(split(QWEN35)), norm=normalizers.NFC(), decoder=BYTES()),
    "o200k": lambda: bpe(bytes_after(split(O200K)), decoder=BYTES()),
    "tekken": lambda: bpe(bytes_after(split(TEKKEN)), decoder=BYTES()),
    "kimi": lambda: bpe(bytes_after(split(KIMI)), decoder=BYTES()),
    "deepseek3": lambda: bpe(bytes_after(split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3)),
                             decoder=BYTES(), post=template(["<s>"])),
    "deepseek1": lambda: bpe(bytes_after(split("[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶ-ͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"),
                                         split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"),
                                         pre_tokenizers.Digits(individual_digits=True)), decoder=BYTES()),
    "starcoder": lambda: bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                      pre_tokenizers.ByteLevel(add_prefix_space=False)]), decoder=BYTES()),
    "falcon": lambda: bpe(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False),
                                                   pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]),
                          decoder=BYTES()),
    "llama2": lambda: llama2(),
    "gemma": lambda: llama2(prefix=False),
    "metaspace-first": lambda: metaspace("first", False),
    "metaspace-always": lambda: metaspace("always", True),
    "metaspace-never": lambda: metaspace("never", True),
    "clip": lambda: bpe(bytes_after(split(r"<\|end\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "removed", True)),
                        norm=normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                                                   normalizers.Lowercase()]),
                        model=dict(end_of_word_suffix="</w>", unk_token="<unk>"), decoder=decoders.BPEDecoder("</w>")),
    "prefix-unk": lambda: bpe(pre_tokenizers.Whitespace(), alphabet=False, limit=90, vocab=240,
                              model=dict(continuing_subword_prefix="##", unk_token="<unk>"), decoder=decoders.WordPiece()),
    "strip-nfkd": lambda: bpe(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous")]),
                              norm=normalizers.Sequence([normalizers.Strip(), normalizers.NFKD(), normalizers.StripAccents(),
                                                         normalizers.Nmt()]), alphabet=False, limit=100, vocab=300,
                              model=dict(unk_token="<unk>", fuse_unk=True), added=ADDED),
    "behaviors": lambda: bpe(pre_tokenizers.Sequence([split("[aeiou]+", "merged_with_next"), split(r"\d", "contiguous"),
                                                      pre_tokenizers.CharDelimiterSplit("x"), split("[,.]", "removed"),
                                                      pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]),
                             norm=normalizers.NFKC(), decoder=BYTES()),
    "byte-normalizer": lambda: bpe(norm=normalizers.Sequence([normalizers.NFD(), normalizers.ByteLevel()]),
                                   pre=split("Ġ", "merged_with_next"), decoder=BYTES()),
}


def cases(tok):
    out = []
    for text in TEXTS:
        ids = tok.encode(text, add_special_tokens=False).ids
        row = {"text": text, "ids": ids, "bos": tok.encode(text).ids,
               "decoded": tok.decode(ids, skip_special_tokens=False)}
        tok.encode_special_tokens = True
        row["literal"] = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        for key in ("bos", "literal"):
            if row[key] == ids:
                del row[key]
        out.append(row)
    draw = random.Random(7)
    for n in (1, 3, 8, 30):             # ids that no text gives
        ids = [draw.randrange(tok.get_vocab_size() + 3) for _ in range(n)]
        out.append({"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=True), "skip": True})
    return out


def train_spm(kind, rules=None, **options):
    import io
    import sentencepiece
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 2), model_writer=out, model_type=kind, minloglevel=2, hard_vocab_limit=False,
        character_coverage=0.98, **{"vocab_size": 560, "num_threads": 1, **options})
    return out.getvalue()


def spm_cases(data):
    """SentencePiece finds no control tokens in a text; ours are in the rows under "literal"."""
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    rows = []
    for text in TEXTS:
        if any(c in text for c in ("<s>", "</s>", "<unk>")) or "\0" in text:
            continue
        ids = sp.encode(text)
        row = {"text": text, "ids": ids, "bos": [sp.bos_id()] + ids}
        if sp.unk_id() not in ids:       # ours spells the unknown token, theirs puts a sign
            row["decoded"] = sp.decode(ids)
        if not data_is_bpe(data):
            del row["bos"]
        rows.append(row)
    return rows


def data_is_bpe(data):
    from sentencepiece import sentencepiece_model_pb2 as pb
    return pb.ModelProto.FromString(data).trainer_spec.model_type == 2


def ranks(folder, form):
    """The tokens of a trained BPE by rank, as tiktoken's and Mistral's files have them."""
    import base64
    import tiktoken
    regex = TEKKEN
    if form == "tiktoken":              # the package's own regex; only its ranks would have to be fetched
        from tiktoken_ext import openai_public
        openai_public.load_tiktoken_bpe = lambda *_, **__: {}
        regex = openai_public.cl100k_base()["pat_str"]
    tok = bpe(bytes_after(split(CL100K if form == "tiktoken" else TEKKEN)), specials=(), vocab=420)
    back = {chr(c): b for b, c in stand_ins().items()}
    names = sorted(tok.get_vocab().items(), key=lambda kv: kv[1])
    table = {bytes(back[c] for c in name): i for name, i in names}
    first = 0 if form == "tiktoken" else 10
    enc = tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=table, special_tokens={})
    if form == "tiktoken":
        with open(os.path.join(folder, "cl100k_base.tiktoken"), "w") as f:
            f.writelines(f"{base64.b64encode(k).decode()} {v}\n" for k, v in table.items())
    else:
        vocab = [{"rank": v, "token_bytes": base64.b64encode(k).decode(), "token_str": None} for k, v in table.items()]
        with open(os.path.join(folder, "tekken.json"), "w") as f:
            json.dump({"config": {"pattern": regex, "num_vocab_tokens": len(table), "default_vocab_size": len(table) + first,
                                  "default_num_special_tokens": first, "version": "v3"}, "vocab": vocab}, f)
    rows = []
    for text in TEXTS + ["end \n\u00a0", "end\n  ", "a\r\n\t\n ", "\n \n"]:
        if "<s>" in text or "</s>" in text:
            continue
        ids = [i + first for i in enc.encode(text, disallowed_special=())]
        rows.append({"text": text, "ids": ids, "decoded": text, **({"bos": [1] + ids} if first else {})})
    return rows


def rwkv(folder):
    """A vocabulary in RWKV's form, and the longest token first, as its own code has it."""
    draw = random.Random(5)
    tokens = {bytes([i]) for i in range(256)}
    tokens.update(w.encode() for w in " ".join(CORPUS).split(" ")[:80])
    tokens.update((" " + w).encode() for w in " ".join(CORPUS).split(" ")[:80])
    for line in CORPUS:
        b = line.encode()
        for _ in range(12):
            at = draw.randrange(len(b) or 1)
            tokens.add(b[at:at + draw.randint(2, 6)])
    order = sorted(t for t in tokens if t)
    ids = {t: i + 1 for i, t in enumerate(order)}
    with open(os.path.join(folder, "rwkv_vocab_v20230424.txt"), "w", encoding="utf-8") as f:
        for t, i in ids.items():
            try:
                f.write(f"{i} {t.decode()!r} {len(t)}\n")
            except UnicodeDecodeError:
                f.write(f"{i} {t!r} {len(t)}\n")
    longest, rows = max(map(len, order)), []
    for text in TEXTS:
        b, at, out = text.encode(), 0, []
        while at < len(b):
            n = next(n for n in range(min(longest, len(b) - at), 0, -1) if b[at:at + n] in ids)
            out.append(ids[b[at:at + n]])
            at += n
        rows.append({"text": text, "ids": out, "decoded": text})
    return rows


def plamo_rows():
    """A vocabulary in the form of PLaMo's tokenizer.jsonl: text, score, type."""
    draw = random.Random(9)
    words = {}
    for line in CORPUS:
        for _ in range(60):
            at = draw.randrange(len(line) or 1)
            piece = line[at:at + draw.randint(1, 7)]
            words[piece] = words.get(piece, 0) + 1
    words.pop("", None)
    rows = [[f"<|plamo:{x}|>", 0.0, "UNKNOWN" if x == "unk" else "CONTROL"] for x in ("unk", "bos", "eos", "pad", "tab")]
    rows += [[f"<0x{i:02X}>", 0.0, "BYTE"] for i in range(256)]
    rows += [[w, round(-draw.uniform(3, 14) + len(w), 4), "NORMAL", "extra"] for w in words]
    # Scores that are equal, that lose against bytes, that never count, and that are none.
    rows += [["aa", -2.0, "NORMAL"], ["aaa", -2.0, "NORMAL"], ["zzzz", -1500.0, "NORMAL"], ["zz", -999.0, "NORMAL"],
             ["9999", -5000.0, "NORMAL"], ["qqq", float("-inf"), "NORMAL"], ["<0x", -1.5, "NORMAL"]]
    return [r for i, r in enumerate(rows) if r[0] not in {q[0] for q in rows[:i]}]


def plamo_encode(rows, text):
    """The cheapest cut by its definition: costs are whole numbers, of equal ones the longest first token counts."""
    bytes_, cost = {}, {}
    for i, (token, score, kind, *_) in enumerate(rows):
        if kind == "BYTE":
            bytes_[int(token[3:5], 16)] = i
        elif kind == "NORMAL" and score not in (float("inf"), float("-inf")) and round(score * 1e4) > -20000000:
            cost[token] = (i, -round(score * 1e4))
    longest = max(map(len, cost))
    best = [None] * len(text) + [(0, None, 0)]
    for at in range(len(text) - 1, -1, -1):
        ways = [(best[at + n][0] + cost[text[at:at + n]][1], 0, -n, cost[text[at:at + n]][0])
                for n in range(1, min(longest, len(text) - at) + 1) if text[at:at + n] in cost]
        total, _, n, token = min(ways + [(best[at + 1][0] + 10000000, 1, -1, None)])
        best[at] = (total, token, -n)
    at, out = 0, []
    while at < len(text):
        _, token, n = best[at]
        out += [token] if token is not None else [bytes_[b] for b in text[at].encode()]
        at += n
    return out


def plamo_decode(rows, ids):
    return b"".join(bytes([int(rows[i][0][3:5], 16)]) if rows[i][2] == "BYTE" else rows[i][0].encode()
                    for i in ids).decode("utf-8", errors="replace")


PLAMO_TEXTS = ["aaaaa", "zzzzzz", "zz", "999999999", "qqq", "<0x41><0x", "<|plamo:bos|>", "a<|plamo:eos|>b", "🦙🦙", "\ufeffbom"]


def plamo(folder, rows=None):
    rows = rows or plamo_rows()
    if folder:
        with open(os.path.join(folder, "tokenizer.jsonl"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    out = []
    for text in TEXTS + PLAMO_TEXTS:
        ids = plamo_encode(rows, text)
        row = {"text": text, "ids": ids, "decoded": plamo_decode(rows, ids)}
        for i, (token, _, kind, *_) in enumerate(rows):
            if kind in ("CONTROL", "UNKNOWN") and token in text:
                a, b = text.split(token)
                row["ids"], row["literal"] = plamo_encode(rows, a) + [i] + plamo_encode(rows, b), ids
        out.append(row)
    draw = random.Random(8)
    for n in (1, 2, 3, 5, 8, 30):
        ids = [draw.randrange(5, 261) if draw.random() < 0.7 else draw.randrange(len(rows)) for _ in range(n)]
        kept = [i for i in ids if i > 4]
        out.append({"ids": ids, "decoded": plamo_decode(rows, kept), "skip": True})
    return out


def stand_ins():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in keep]
    return {**{b: b for b in keep}, **{b: 256 + i for i, b in enumerate(rest)}}


def spm(name):
    options = dict(SPM[name])
    if options.pop("rules", None):
        import tempfile
        with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:
            f.write("FF21\t41\n3000\t20\nA0\t20\nFB01\t66 69\n65 301\tE9\n200B\t\n9\t20\nA\t20\nD\t20\n")
            f.flush()
            return train_spm(normalization_rule_tsv=f.name, **options)
    return train_spm(normalization_rule_name="identity", **options)


SPM = {
    "spm-bpe": dict(kind="bpe", byte_fallback=True, remove_extra_whitespaces=False),
    "spm-bpe-plain": dict(kind="bpe", rules=True, vocab_size=300),
    "spm-unigram": dict(kind="unigram", byte_fallback=True, rules=True, add_dummy_prefix=False),
    "spm-unigram-user": dict(kind="unigram", user_defined_symbols=["<mask>", "New York"], vocab_size=260),
}


def write_cases(folder, rows):
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in rows) + "\n]\n")


def main():
    for name in sys.argv[1:] or list(KINDS) + list(SPM) + ["tiktoken", "tekken-file", "rwkv", "plamo"]:
        folder = os.path.join(HERE, name)
        if name not in KINDS:
            os.makedirs(folder, exist_ok=True)
            if name in SPM:
                data = spm(name)
                with open(os.path.join(folder, "tokenizer.model"), "wb") as f:
                    f.write(data)
                write_cases(folder, spm_cases(data))
            else:
                write_cases(folder, {"rwkv": rwkv, "plamo": plamo}[name](folder) if name in ("rwkv", "plamo") else ranks(folder, name))
            print(name)
            continue
        tok = KINDS[name]()
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        data = old_merges(tok) if name in ("gpt2", "gemma") else json.loads(tok.to_str())
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        write_cases(folder, cases(tok))
        print(name, tok.get_vocab_size())


if __name__ == "__main__":
    main()
