#!/usr/bin/env python3
"""Our speed beside that of llama-bench (llama.cpp, ik_llama.cpp), as ratios: pairs of runs, ours
and theirs in turn with a probe of the machine before each pair, medians of both. Writes
bench/PEERS.md.

    bench_peers.py PEER [--pairs 5] [--shapes llama-1b,...] [--quick]

PEER is a llama-bench; where it knows -rtr both settings run and the better one counts. Ours is
affine 4 bits in groups of 64, theirs Q4_0 in all matrices: the same bytes. Making their files needs
pip's gguf (PYTHON names a Python that has it).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WORK = os.path.join(ROOT, "build/bench/peers")
# What is promised: shape, threads, what, ratio.
GOALS = [
    ("llama-1b", 2, "decode", 1.10), ("qwen3-4b", 2, "decode", 1.10),
    ("llama-1b", 1, "decode", 1.35), ("smollm2-135m", 2, "decode", 1.25),
    ("llama-1b", 2, "prefill", 1.25), ("qwen3-4b", 2, "prefill", 1.25),
]


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit("%s: %s" % (" ".join(command), done.stderr.decode(errors="replace")[-800:]))
    return done.stdout.decode()


def checkpoint(shape):
    ours, theirs = os.path.join(WORK, shape), os.path.join(WORK, shape + ".gguf")
    if not os.path.exists(os.path.join(ours, "config.json")):
        run(os.path.join(ROOT, "build/tools/synth"), "--shape", shape, "--bits", "4", "--group",
            "64", "-o", ours)
    if not os.path.exists(theirs):
        run(os.environ.get("PYTHON", sys.executable),
            os.path.join(ROOT, "tools/make_peer_gguf.py"), ours, theirs + ".part")
        os.rename(theirs + ".part", theirs)
    return ours, theirs


def probe(threads):
    return json.loads(run(os.path.join(ROOT, "build/tools/probe"), str(threads)))


def measure_ours(folder, threads, prompt, new):
    """Decode is measured after a prompt of one token, as llama-bench does."""
    program, common = os.path.join(ROOT, "build/mlxcel"), ("-t", str(threads), "-r", "1", "--json")
    both = []
    for p, n in ((prompt, 1), (1, new)):
        text = run(program, "bench", "-m", folder, "-p", str(p), "-n", str(n), "-b", "1", *common)
        both.append(json.loads(text)["results"][0])
    return {"prefill": both[0]["prefill_tokens_per_s"], "decode": both[1]["decode_tokens_per_s"]}


def measure_peer(peer, path, threads, prompt, new, extra):
    rows = json.loads(run(peer, "-m", path, "-p", str(prompt), "-n", str(new), "-t", str(threads),
                          "-r", "1", "-fa", "1", "-o", "json", *extra))
    return {"decode" if row["n_gen"] else "prefill": row["avg_ts"] for row in rows}


def pairs_of(peer, settings, shape, threads, options):
    ours, theirs = checkpoint(shape)
    prompt, new = (128, 16) if options.quick else (512, 128)
    got = []
    for _ in range(options.pairs):
        limits = probe(threads)
        mine = measure_ours(ours, threads, prompt, new)
        others = [measure_peer(peer, theirs, threads, prompt, new, s) for s in settings]
        got.append((limits, mine, others))
        print("%s, %d threads: %s" % (shape, threads, got[-1]), file=sys.stderr)
    size = sum(os.path.getsize(os.path.join(ours, f)) for f in os.listdir(ours)
               if f.endswith(".safetensors"))
    return got, size


def line(shape, threads, what, goal, got, size):
    mine = statistics.median(m[what] for _, m, _ in got)
    peer = max(statistics.median(o[i][what] for _, _, o in got) for i in range(len(got[0][2])))
    share = "-"
    if what == "decode":
        limit = statistics.median(p["read_gb_per_s"] for p, _, _ in got)
        share = "%.0f %% of %.1f GB/s" % (mine * size / 1e9 / limit * 100, limit)
    else:
        limit = statistics.median(p["vnni_gop_per_s"] for p, _, _ in got)
        share = "probe %.0f GOP/s" % limit
    return "| %s, %d thread%s, %s | %.1f | %.1f | %.2f | %.2f | %s | %s |" % (
        shape, threads, "" if threads == 1 else "s", what, mine, peer, mine / peer, goal,
        "yes" if mine / peer >= goal else "no", share)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--shapes", default="smollm2-135m,llama-1b,qwen3-4b")
    parser.add_argument("--quick", action="store_true", help="prompts of 128, 16 new tokens")
    options = parser.parse_args()
    os.makedirs(WORK, exist_ok=True)
    # Its usage, whatever the exit status of asking for it.
    usage = subprocess.run([options.peer, "--help"], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False).stdout.decode(errors="replace")
    settings = [("-rtr", "0"), ("-rtr", "1")] if "-rtr" in usage else [()]
    rows, cases = [], {}
    for shape, threads, what, goal in GOALS:
        if shape not in options.shapes.split(","):
            continue
        if (shape, threads) not in cases:
            cases[shape, threads] = pairs_of(options.peer, settings, shape, threads, options)
        rows.append(line(shape, threads, what, goal, *cases[shape, threads]))
    with open(os.path.join(ROOT, "bench/PEERS.md"), "w", encoding="utf-8") as f:
        f.write("# Beside %s\n\n" % os.path.basename(options.peer))
        f.write("Written by make bench-peers; not edited by hand. Medians of %d pairs of runs, one "
                "after the\nother%s; tokens per second. The peer's better setting counts. A share is "
                "of what tools/probe\nmeasured in between; load of the machine at the end: %s.\n\n"
                % (options.pairs, ", prompts of 128 and 16 new tokens" if options.quick else
                   ", pp512 and tg128", " ".join("%.1f" % x for x in os.getloadavg())))
        f.write("| shape | ours | peer | ratio | promised | met | share of the limit |\n"
                "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n")
    print("\n".join(rows))


main()
