#!/usr/bin/env python3
"""Our speed beside that of llama.cpp or ik_llama.cpp, as ratios: pairs of runs, ours and theirs in
turn with a probe of the machine before each, medians of the pairs' ratios. Writes this machine's section of
bench/PEERS.md, case by case; what was measured before stays there until the same case is measured
again.

    bench_peers.py PEER [--pairs 5] [--cases decode-1b,...] [--isa SET] [--quick] [--list]

PEER is a llama-bench; llama-batched-bench is looked for beside it. Where it knows -rtr both settings
run, and the better one counts. Ours is affine 4 bits in groups of 64, theirs
Q4_0 in all matrices: the same bytes. Making their files needs pip's gguf (PYTHON names a Python that
has it).
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WORK = os.environ.get("PEERS_WORK", os.path.join(ROOT, "build/bench/peers"))
OURS = os.path.join(ROOT, "build/mlxcel")

# name: what the table says, shape, our bits, their formats, how it is measured, threads, the
# promised ratio, and whether less is better.
CASES = {
    "decode-135m": ("decode, 135M", "smollm2-135m", 4, ["q4_0"], "decode", 2, 1.25),
    "decode-1b": ("decode, 1B", "llama-1b", 4, ["q4_0"], "decode", 2, 1.10),
    "decode-1b-1": ("decode, 1B", "llama-1b", 4, ["q4_0"], "decode", 1, 1.35),
    "decode-4b": ("decode, 4B", "qwen3-4b", 4, ["q4_0"], "decode", 2, 1.10),
    "prefill-135m": ("prefill of 512, 135M", "smollm2-135m", 4, ["q4_0"], "prefill", 2, None),
    "prefill-1b": ("prefill of 512, 1B", "llama-1b", 4, ["q4_0"], "prefill", 2, 1.25),
    "prefill-1b-int8": ("prefill of 512, 1B, beside its best int8 format", "llama-1b", 4,
                        ["iq4_xs", "q8_0"], "prefill", 2, 1.05),
    "prefill-4b": ("prefill of 512, 4B", "qwen3-4b", 4, ["q4_0"], "prefill", 2, 1.25),
    "prefill-4b-int8": ("prefill of 512, 4B, beside its best int8 format", "qwen3-4b", 4,
                        ["iq4_xs"], "prefill", 2, 1.05),
    "prompt-1b": ("prefill of 4,096, 1B", "llama-1b", 4, ["q4_0"], "prompt", 2, None),
    "prefill-bf16": ("prefill of 512, 1B, bf16 weights", "llama-1b", 16, ["f16", "bf16"],
                     "prefill", 2, 1.05),
    "batch-1b": ("16 sequences decoding, 1B", "llama-1b", 4, ["q4_0"], "batch", 2, 1.6),
    "context-1b": ("decode at 8K over decode at 0, 1B", "llama-1b", 4, ["q4_0"], "context", 2, 1.1),
    "start-1b": ("warm start to first token, 1B", "llama-1b", 4, ["q4_0"], "start", 2, -0.5),
    "memory-1b": ("resident memory, 1B", "llama-1b", 4, ["q4_0"], "memory", 2, -0.95),
}
PROMPTS = {"prefill": 512, "prompt": 4096}


def prompt_of(what, quick):
    return PROMPTS.get(what, 0) // (4 if quick else 1)


UNITS = {"decode": "tok/s", "prefill": "tok/s", "prompt": "tok/s", "batch": "tok/s", "context": "of it",
         "start": "s", "memory": "MiB"}


def run(*command, both=False):
    """What it writes to standard output; `both`: to standard error as well."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False,
                          stderr=subprocess.STDOUT if both else subprocess.PIPE)
    if done.returncode:
        said = done.stdout if both else done.stderr
        sys.exit("%s: %s" % (" ".join(command), said.decode(errors="replace")[-800:]))
    return done.stdout.decode(errors="replace")


def usage_of(program):
    """Its usage, whatever the exit status of asking for it; empty where it is missing."""
    try:
        return subprocess.run([program, "--help"], stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT).stdout.decode(errors="replace")
    except OSError:
        return ""


def timed(*command):
    """Seconds from start to end, and the most memory that was resident, of one process."""
    begin = time.monotonic()
    with open(os.devnull, "w+b") as null:
        child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit("%s: exit %d" % (" ".join(command), child.returncode))
    return time.monotonic() - begin, usage.ru_maxrss / 1024


def tokenizer(folder):
    """As many tokens as their file has, so that a start reads a vocabulary on both sides."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        n = json.load(f)["vocab_size"]
    vocab = {"t%d" % i: i for i in range(n)}
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump({"version": "1.0", "added_tokens": [], "normalizer": None,
                   "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False,
                                     "trim_offsets": True, "use_regex": True},
                   "post_processor": None, "decoder": {"type": "ByteLevel"},
                   "model": {"type": "BPE", "vocab": vocab, "merges": []}}, f)


def checkpoint(shape, bits):
    folder = os.path.join(WORK, "%s-%d" % (shape, bits))
    if not os.path.exists(os.path.join(folder, "config.json")):
        packing = ["--bits", str(bits), "--group", "64"] if bits < 16 else []
        run(os.path.join(ROOT, "build/tools/synth"), "--shape", shape, *packing, "-o", folder)
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer(folder)
    return folder


def their_file(shape, kind):
    path = os.path.join(WORK, "%s-%s.gguf" % (shape, kind))
    if not os.path.exists(path):
        run(os.environ.get("PYTHON", sys.executable),
            os.path.join(ROOT, "tools/make_peer_gguf.py"), checkpoint(shape, 4), kind,
            path + ".part")
        os.rename(path + ".part", path)
    return path


class Peer:
    def __init__(self, program, quick):
        folder = os.path.dirname(os.path.abspath(program))
        self.bench, self.quick = program, quick
        self.batched = os.path.join(folder, "llama-batched-bench")
        self.settings = {"": []}
        if "-rtr" in usage_of(program):
            self.settings = {"rtr 0": ["-rtr", "0"], "rtr 1": ["-rtr", "1"]}

    def flags(self, name):
        """The same setting as the other programs spell it: a flag that is there or not."""
        return ["-rtr"] if name == "rtr 1" else []

    def speed(self, path, threads, what, setting):
        prompt, new = prompt_of(what, self.quick), 16 if self.quick else 128
        size = ["-p", str(prompt), "-n", "0"] if prompt else ["-p", "0", "-n", str(new)]
        rows = json.loads(run(self.bench, "-m", path, *size, "-t", str(threads), "-r", "1", "-fa",
                              "1", "-o", "json", *self.settings[setting]))
        return rows[0]["avg_ts"]

    def batch(self, path, threads, setting, prompts, new, sequences):
        """Tokens per second while so many sequences decode, for each length of prompt."""
        text = run(self.batched, "-m", path, "-c", str(sequences * (max(prompts) + new) + 512), "-b",
                   "2048", "-ub", "512", "-npp", ",".join(map(str, prompts)), "-ntg", str(new),
                   "-npl", str(sequences), "-t", str(threads), *self.flags(setting), both=True)
        # | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |
        rows = re.findall(r"^\|\s*(\d+)\s*\|\s*\d+\s*\|\s*\d+\s*\|(?:[^|]*\|){4}\s*([\d.]+)\s*\|",
                          text, re.M)
        return {int(p): float(s) for p, s in rows}

    def one_token(self, path, threads, setting):
        """Opens the model and decodes once; no text is read or written."""
        return timed(self.bench, "-m", path, "-p", "0", "-n", "1", "-r", "1", "-w", "0", "-fa", "1",
                     "-t", str(threads), *self.settings[setting])


def bench(folder, threads, prompt, new, sequences=1):
    text = run(OURS, "bench", "-m", folder, "-t", str(threads), "-r", "1", "-p", str(prompt), "-n",
               str(new), "-b", str(sequences), "--json")
    return json.loads(text)["results"][0]


def measure_ours(folder, what, threads, quick):
    """Decode is measured after a prompt of one token, as llama-bench does."""
    if what in PROMPTS:
        return bench(folder, threads, prompt_of(what, quick), 1)["prefill_tokens_per_s"]
    if what == "decode":
        return bench(folder, threads, 1, 16 if quick else 128)["decode_tokens_per_s"]
    if what == "batch":
        return bench(folder, threads, 16, 16 if quick else 64, 16)["decode_tokens_per_s"]
    if what == "context":
        far, near = (bench(folder, threads, p, 16)["decode_tokens_per_s"]
                     for p in (1024 if quick else 8192, 1))
        return far / near
    seconds, mib = timed(OURS, "generate", "-m", folder, "--ids", "1,2,3", "-n", "1", "--temp", "0",
                         "-t", str(threads), "-c", "512")
    return seconds if what == "start" else mib


def measure_peer(peer, path, what, threads, setting):
    if what in PROMPTS or what == "decode":
        return peer.speed(path, threads, what, setting)
    if what == "batch":
        return peer.batch(path, threads, setting, [16], 16 if peer.quick else 64, 16)[16]
    if what == "context":
        far = 1024 if peer.quick else 8192
        speeds = peer.batch(path, threads, setting, [1, far], 16, 1)
        return speeds[far] / speeds[1]
    seconds, mib = peer.one_token(path, threads, setting)
    return seconds if what == "start" else mib


def probe(threads):
    return json.loads(run(os.path.join(ROOT, "build/tools/probe"), str(threads)))


def measure(name, peer, pairs):
    """[(probe, ours, {setting: theirs})]"""
    _, shape, bits, kinds, what, threads, _ = CASES[name]
    folder = checkpoint(shape, bits)
    measure_ours(folder, "start", threads, peer.quick)       # packs, once
    paths = {kind: their_file(shape, kind) for kind in kinds}
    got = []
    for _ in range(pairs):
        limits = probe(threads)
        mine = measure_ours(folder, what, threads, peer.quick)
        others = {"%s%s" % (kind, setting and ", " + setting):
                  measure_peer(peer, paths[kind], what, threads, setting)
                  for kind in kinds for setting in peer.settings}
        got.append((limits, mine, others))
        print("%s: %s" % (name, got[-1]), file=sys.stderr)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)
               if f.endswith(".safetensors"))
    return {"pairs": got, "bytes": size, "load": os.getloadavg()[0], "quick": peer.quick,
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "commit": run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()}


def share(what, mine, got, size):
    if what in ("decode", "batch"):
        limit = statistics.median(p["read_gb_per_s"] for p, _, _ in got)
        if what == "decode":
            return "%.0f %% of %.1f GB/s" % (mine * size / 1e9 / limit * 100, limit)
        return "probe %.1f GB/s" % limit
    if what in PROMPTS:
        limit = statistics.median(p["int8_gop_per_s"] for p, _, _ in got)
        return "probe %.0f GOP/s" % limit
    return "-"


def first_cell(name):
    """By which a case's row is known in a table."""
    title, _, _, _, _, threads, _ = CASES[name]
    return "| %s, %d thread%s |" % (title, threads, "" if threads == 1 else "s")


def line(name, case):
    what, goal = CASES[name][4], CASES[name][6]
    got = case["pairs"]
    less = goal is not None and goal < 0
    # The setting that is best for them, by its median.
    medians = {k: statistics.median(o[k] for _, _, o in got) for k in got[0][2]}
    best = (min if what in ("start", "memory") else max)(medians, key=medians.get)
    mine = statistics.median(m for _, m, _ in got)
    ratio = statistics.median(m / o[best] for _, m, o in got)
    met = "-" if goal is None else "yes" if (ratio <= -goal if less else ratio >= goal) else "no"
    promised = "-" if goal is None else "at %s %.2f" % ("most" if less else "least", abs(goal))
    digits = {"start": "%.3f %s", "context": "%.2f %s"}.get(what, "%.1f %s")
    return "%s %s | %s (%s) | **%.2f** | %s | %s | %s | %d%s, %s |" % (
        first_cell(name), digits % (mine, UNITS[what]),
        digits % (medians[best], UNITS[what]), best, ratio, promised, met,
        share(what, mine, got, case["bytes"]), len(got), " short" if case["quick"] else "",
        case["commit"])


def cpu(isa):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        text = f.read()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.M)
    here = set(flags.group(1).split()) if flags else set()
    sets = [s for s in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm") if s in here]
    ids = [re.search(r"^%s\s*:\s*(\d+)" % k, text, re.M) for k in ("cpu family", "model")]
    ids = ", family %s model %s" % tuple(i.group(1) for i in ids) if all(ids) else ""
    return "%s%s (%s), %d processors%s" % (model.group(1) if model else "a CPU", ids, ", ".join(sets),
                                            os.cpu_count(), isa and ", ours with --isa " + isa)


def write(peer, cases, isa):
    """Each machine has a section of its own, of which a run rewrites this machine's, but for the
    rows of cases that it does not measure; what is written by hand stands in other sections and
    stays."""
    path, heading = os.path.join(ROOT, "bench/PEERS.md"), "\n## %s\n" % cpu(isa)
    text = "# Beside %s\n" % peer
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            text = f.read()
    begin = text.find(heading)
    if begin < 0:
        begin = end = len(text)
    else:
        end = text.find("\n## ", begin + 1)
        end = len(text) if end < 0 else end
    before = text[begin:end].splitlines()
    rows = [line(name, cases[name]) if name in cases
            else next((row for row in before if row.startswith(first_cell(name))), None)
            for name in CASES]
    table = "%s\n| regime | ours | peer (format, setting) | ratio | promised | met | limit | pairs, " \
        "commit |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n%s" % (
            heading, "".join(row + "\n" for row in rows if row))
    with open(path, "w", encoding="utf-8") as f:
        f.write(text[:begin] + table + text[end:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--name", default="", help="what the report calls the peer")
    parser.add_argument("--quick", action="store_true", help="prompts of a quarter, 16 new tokens")
    parser.add_argument("--isa", default="", help="the instruction set that ours is held to")
    parser.add_argument("--list", action="store_true", help="the cases' names, and nothing else")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return
    os.makedirs(WORK, exist_ok=True)
    os.environ["MLXCEL_PACKED"] = os.path.join(WORK, "packed")
    if options.isa:
        os.environ["MLXCEL_ISA"] = options.isa
    cases = {}
    peer = Peer(options.peer, options.quick)
    for name in options.cases.split(","):
        cases[name] = measure(name, peer, options.pairs)
        print(line(name, cases[name]))
        write(options.name or os.path.basename(options.peer), cases, options.isa)


main()
