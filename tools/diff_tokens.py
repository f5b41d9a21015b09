"""Compares encode and decode with the `tokenizers` package on random strings.

Usage: diff_tokens.py [-n STRINGS] [--seed N] [DIR...]   (needs: pip install tokenizers, make tools)

Without DIR: the folders of tests/tokens/ share the strings out. DIR holds a tokenizer.json. Prints
each difference, at most 20 for a folder, and ends with 1 if there was one. Then vocab_tokens.py does
the same for real vocabularies, or says that there are none, and diff_formats.py for files of other formats.
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer, normalizers, pre_tokenizers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PIPE = os.path.join(ROOT, "build", "tools", "tokens_pipe")
SPECIALS, BOS, RAW = 1, 2, 256

RANGES = [(0x20, 0x7e)] * 6 + [
    (0, 0x1f), (0x7f, 0xa0), (0xa1, 0x17f), (0x180, 0x24f), (0x250, 0x2af), (0x300, 0x36f), (0x370, 0x3ff),
    (0x400, 0x52f), (0x531, 0x5ff), (0x600, 0x6ff), (0x700, 0x8ff), (0x900, 0x97f), (0x980, 0xdff), (0xe00, 0xe7f),
    (0xe80, 0x10ff), (0x1100, 0x11ff), (0x1200, 0x17ff), (0x1800, 0x18af), (0x1e00, 0x1fff), (0x2000, 0x206f),
    (0x2070, 0x218f), (0x2190, 0x2bff), (0x2c00, 0x2fdf), (0x3000, 0x30ff), (0x3100, 0x33ff), (0x3400, 0x4dbf),
    (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xfe6f),
    (0xff00, 0xffef), (0x10000, 0x107ff), (0x10800, 0x11fff), (0x16800, 0x16fff), (0x1d400, 0x1d7ff),
    (0x1e900, 0x1eeff), (0x1f300, 0x1faff), (0x20000, 0x2fa1f), (0xe0000, 0xe01ef), (0x0, 0x10ffff)]
SNIPPETS = ["'s", "'LL", "'t", "n't", "don't ", " \n", "\r\n", "\n\n", "\t\t", "  ", "   ", "<s>", "</s>", "<|end|>",
            "<|end|>x", "<mask>", " day ", "new york", "▁", "Ġ", "##", "0x41", "<0x41>", "<unk>", "👩‍👩‍👧", "❤️", "🇩🇪", "é", "e\u0301",
            "def f(x):\n    return x", "x+=1;", "http://a.b/c?d=e&f", "123456", "3.14", "，。", "你好", "カタ", "한국", "العربية", "हिन्दी",
            "ไทย", "\u200d", "\u00a0", "\u3000", "\u2028", "\ufeff", "\x00", "ſ", "İ", "ß", "Ǆ", "ﬁ", "Å", "_", "...", "!?", "a", "the "]


def known():
    """Code points that are assigned in Unicode 14 (Python 3.11), less those on which the package's parts,
    with Unicode tables from 8 to 16, do not agree with it."""
    nfkd, nfd, marks = normalizers.NFKD(), normalizers.NFD(), pre_tokenizers.Punctuation()
    bare = normalizers.StripAccents()
    bert = normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=True, lowercase=False)
    out, odd = bytearray(0x110000), 0
    for i in range(0x110000):
        c, kind = chr(i), unicodedata.category(chr(i))
        if kind in ("Cn", "Cs"):
            continue
        out[i] = 1
        if i < 0x80 or kind == "Co":
            continue
        run = "a\u0315\u0301" + c + "\u0316"
        if (nfkd.normalize_str(c) != unicodedata.normalize("NFKD", c)
                or (bare.normalize_str("a" + c) == "a") != (kind[0] == "M")
                or (bert.normalize_str("a" + c + "b") == "ab") != (kind in ("Mn", "Cc", "Cf") and not c.isspace())
                or kind[0] == "M" and nfd.normalize_str(run) != unicodedata.normalize("NFD", run)
                or (len(marks.pre_tokenize_str("a" + c)) == 2) != (kind[0] == "P")):
            out[i] = 0
            odd += 1
    print(f"{odd} code points left out: the package's Unicode tables differ from Unicode 14 there")
    return out


def cp(draw, low=None, high=None):
    if low is None:
        low, high = draw.choice(RANGES)
    while True:
        c = draw.randint(low, high)
        if KNOWN[c]:
            return chr(c)
        low, high = draw.choice(RANGES)


def make(draw):
    kind = draw.random()
    if kind < 0.05:
        data = bytes(draw.randrange(256) for _ in range(draw.randint(1, 40)))
        return data if all(KNOWN[ord(c)] for c in data.decode("utf-8", "replace")) else b"\xff\xc3"
    if kind < 0.1:
        return (draw.choice(SNIPPETS + [cp(draw)]) * draw.randint(2, 60)).encode()
    if kind < 0.3:                      # one script
        low, high = draw.choice(RANGES[:-1])
        s = "".join(cp(draw, low, high) if draw.random() < 0.8 else draw.choice(" \n.,") for _ in range(draw.randint(1, 40)))
        return s.encode()
    n = draw.randint(1, 12)
    return "".join(draw.choice(SNIPPETS) if draw.random() < 0.6 else cp(draw) for _ in range(n)).encode()


class Ours:
    def __init__(self, folder):
        self.p = subprocess.Popen([PIPE, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, data, flags):
        self.p.stdin.write(struct.pack("II", flags, len(data)) + data)
        self.p.stdin.flush()
        n, = struct.unpack("I", self.p.stdout.read(4))
        ids = list(struct.unpack(f"{n}i", self.p.stdout.read(4 * n)))
        n, = struct.unpack("I", self.p.stdout.read(4))
        return ids, self.p.stdout.read(n)

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def run(folder, n, seed, opened=None):
    """opened: what we open in place of the folder, another form of the same vocabulary."""
    draw = random.Random(f"{seed} {os.path.basename(folder)}")
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tok.no_truncation()
    tok.no_padding()
    ours = Ours(opened or folder)
    wrong = 0
    for _ in range(n):
        data = make(draw)
        text = data.decode("utf-8", "replace")
        want = tok.encode(text, add_special_tokens=False).ids
        back = tok.decode(want, skip_special_tokens=False).encode()
        got, gone = ours.ask(data, SPECIALS | RAW)
        if got != want or gone != back:
            wrong += 1
            if wrong <= 20:
                print(f"{folder}: {text!r}")
                print(f"  ids  {got}\n  want {want}" if got != want else f"  text {gone!r}\n  want {back!r}")
    ours.close()
    return wrong


KNOWN = known()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=200000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("dir", nargs="*")
    a = args.parse_args()
    data = os.path.join(ROOT, "tests", "tokens")
    dirs = a.dir or sorted(os.path.join(data, d) for d in os.listdir(data) if os.path.exists(os.path.join(data, d, "tokenizer.json")))
    total = sum(run(d, -(-a.n // len(dirs)), a.seed) for d in dirs)
    print(f"{a.n} strings, {len(dirs)} tokenizers, {total} differences")
    more = [] if a.dir else ["vocab_tokens.py", "diff_formats.py"]
    bad = [m for m in more if subprocess.call([sys.executable, os.path.join(ROOT, "tools", m), "--seed", str(a.seed)])]
    sys.exit(total > 0 or len(bad) > 0)


if __name__ == "__main__":
    main()
