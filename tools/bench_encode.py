"""Encode speed beside the `tokenizers` package, on one thread: rows of bench/TOKENS.md.

Usage: bench_encode.py [--rounds N]     (needs: make tools; pip's tokenizers, or its column says that it is missing)

English prose is the project's documents, code is its sources, Chinese is sentences drawn from words below; 128 KiB
of each. A piece of 16 KiB is one call, as a prompt is. The two take turns on one thread; of each the median over the
rounds counts, and in a round the fastest pass in the process' own time, which a busy machine disturbs least. Both
must give the same number of ids. Vocabularies: those of the GGUF files in MLXCEL_VOCABS, or ../shared/data/vocabs;
without that folder the built-in model's and some of tests/tokens, whose tokens are few, so that words take more
merges.
"""
import argparse
import glob
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import gguf_json

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OURS = os.path.join(ROOT, "build", "tools", "bench_encode")
PIECE, SECONDS, TEXT_BYTES, GOAL = 16384, 0.3, 1 << 17, 3
# Name, file of the vocabulary, pre-tokenizer (a folder of tests/tokens).
REAL = [("GPT-2", "ggml-vocab-gpt-2.gguf", "gpt2"), ("GPT-2's tokens, Llama 3's words", "ggml-vocab-gpt-2.gguf", "llama3"),
        ("GPT-2's tokens, o200k's words", "ggml-vocab-gpt-2.gguf", "o200k"),
        ("DeepSeek's tokens, Qwen 2's words", "ggml-vocab-deepseek-llm.gguf", "qwen2"),
        ("DeepSeek's tokens, DeepSeek V3's words", "ggml-vocab-deepseek-llm.gguf", "deepseek3"),
        ("StarCoder", "ggml-vocab-starcoder.gguf", "starcoder"), ("BERT", "ggml-vocab-bert-bge.gguf", "bert"),
        ("Llama 2", "ggml-vocab-llama-spm.gguf", "llama2")]
TEST = ["gpt2", "llama3", "qwen2", "o200k", "deepseek3", "gemma", "bert"]
SUBJECTS = "我们 研究人员 那位老师 邻居家的孩子 城里的图书馆 编译器 这台机器 北方的河流 夜班司机 年轻的工程师 博物馆 農夫 她的妹妹 数据库 桥边的小店".split()
VERBS = "看见了 打开 记录 比较过 慢慢走进 重新安排 忘记了 整理 悄悄离开 计算出 描述 修理好 等待着 发现 送来".split()
OBJECTS = "旧地图 三百多封信 新的算法 海边的灯塔 春天的雨水 一把雨伞 两种语言 長長的名單 茶叶和面包 明天的会议 内存的大小 红色的屋顶 许多例子 火车时刻表 安静的房间".split()
ENDS = "。 。 。 ，因为天气很好。 ，却没有告诉别人。 ，大约用了二十分钟。 ！ ？ ；后来又回到原处。 ，价格是１２８元。".split()


def files(pattern):
    out = []
    for path in sorted(glob.glob(os.path.join(ROOT, pattern), recursive=True)):
        with open(path, encoding="utf-8") as f:
            out.append(f.read())
    return "".join(out)


def chinese():
    draw, out, size = random.Random(1), [], 0
    while size < TEXT_BYTES:
        s = draw.choice(SUBJECTS) + draw.choice(VERBS) + draw.choice(OBJECTS) + draw.choice(ENDS)
        s += "\n\n" if draw.random() < .1 else ""
        out.append(s)
        size += len(s.encode())
    return "".join(out)


def cut(text):
    return text.encode()[:TEXT_BYTES].decode("utf-8", "ignore")


def texts():
    return {"English": cut(files("docs/*.md") + files("*.md")), "code": cut(files("src/**/*.c")), "Chinese": cut(chinese())}


def vocabularies(work):
    folder = os.environ.get("MLXCEL_VOCABS", os.path.join(ROOT, "..", "shared", "data", "vocabs"))
    out = []
    for name, file, chain in REAL:
        if os.path.exists(os.path.join(folder, file)):
            out.append((name, os.path.join(work, str(len(out)))))
            gguf_json.write(gguf_json.vocabulary(os.path.join(folder, file)), out[-1][1], chain)
    if not out:
        out = [("built-in model", os.path.join(ROOT, "models", "demo"))]
        out += [("test vocabulary " + n, os.path.join(ROOT, "tests", "tokens", n)) for n in TEST]
    return out


def pieces(text):
    """Cut where bench_encode.c cuts."""
    data, at = text.encode(), 0
    while at < len(data):
        end = min(at + PIECE, len(data))
        while end < len(data) and data[end] & 0xc0 == 0x80:
            end += 1
        yield data[at:end].decode()
        at = end


def package(folder):
    """The function that encodes one text; offsets are left out where the package can."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tok.encode_special_tokens = True        # as we are asked to: control tokens in a text are text
    tok.no_truncation()
    tok.no_padding()
    many = getattr(tok, "encode_batch_fast", tok.encode_batch)
    return lambda text: many([text], add_special_tokens=False)[0].ids


def package_speed(encode, parts, size):
    ids, best, begin = sum(len(encode(p)) for p in parts), 1e9, time.process_time()
    while time.process_time() - begin < SECONDS:
        start = time.process_time()
        for p in parts:
            encode(p)
        best = min(best, time.process_time() - start)
    return size / best, ids


def row(name, folder, kind, path, rounds):
    with open(path, encoding="utf-8", newline="") as f:
        text = f.read()
    size, parts, encode = len(text.encode()), list(pieces(text)), package(folder)
    ours, theirs = [], []
    for _ in range(rounds):
        got = json.loads(subprocess.check_output([OURS, folder, path, str(PIECE)]))
        ours.append(got["bytes_per_s"])
        if encode:
            speed, ids = package_speed(encode, parts, size)
            theirs.append(speed)
            if ids != got["ids"]:
                sys.exit(f"{name}, {kind}: {got['ids']} ids, the package has {ids}")
    mine = statistics.median(ours) / 1e6
    head = f"| {name} | {kind} | {mine:.1f} MB/s | "
    if not theirs:
        return head + "not installed | | |"
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    return head + f"{statistics.median(theirs) / 1e6:.1f} MB/s | {ratio:.1f} | {'yes' if ratio >= GOAL else 'no'} |"


def main():
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    args = argparse.ArgumentParser()
    args.add_argument("--rounds", type=int, default=3)
    rounds = args.parse_args().rounds
    print("| vocabulary | text | mlxcel | tokenizers | times | at least 3 |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as work:
        paths = {}
        for kind, text in texts().items():
            paths[kind] = os.path.join(work, kind)
            with open(paths[kind], "w", encoding="utf-8", newline="") as f:
                f.write(text)
        for name, folder in vocabularies(work):
            for kind, path in paths.items():
                print(row(name, folder, kind, path, rounds), flush=True)


if __name__ == "__main__":
    main()
