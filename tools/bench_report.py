#!/usr/bin/env python3
"""How the time of a token grows with context, batch and threads: runs `mlxcel bench`, writes
bench/report/growth.csv and a plot (SVG) for each, and says where more threads or a bigger batch
made a token slower.

    bench_report.py MODEL [--repeats 3] [--quick] [--plots]

--plots draws the plots again from growth.csv.
"""
import argparse
import csv
import json
import os
import subprocess

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OUT = os.path.join(ROOT, "bench/report")
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 360, 70, 50


def bench(options, prompt, new, batches, threads):
    text = subprocess.run(
        [os.path.join(ROOT, "build/mlxcel"), "bench", "-m", options.model, "-p", str(prompt), "-n",
         str(new), "-b", ",".join(map(str, batches)), "-t", str(threads), "-r",
         str(options.repeats), "--json"], stdout=subprocess.PIPE, check=True).stdout
    return json.loads(text)["results"]


def measure(options):
    """Rows: what grows, how far, milliseconds for a decoded and for a prompt's token."""
    new, threads = (8, os.cpu_count()) if options.quick else (32, os.cpu_count())
    contexts = [16, 256, 1024] if options.quick else [16, 512, 1024, 2048, 4096, 8192]
    batches = [1, 2, 4, 8, 16]
    rows = []
    for n in contexts:
        r = bench(options, n, new, [1], threads)[0]
        rows.append(("context", n, 1e3 / r["decode_tokens_per_s"], 1e3 / r["prefill_tokens_per_s"]))
    for r in bench(options, 16, new, batches, threads):
        rows.append(("batch", r["batch"], 1e3 / r["decode_tokens_per_s"],
                     1e3 / r["prefill_tokens_per_s"]))
    n = 1
    while n <= threads:
        r = bench(options, 128, new, [1], n)[0]
        rows.append(("threads", n, 1e3 / r["decode_tokens_per_s"], 1e3 / r["prefill_tokens_per_s"]))
        n *= 2
    return rows


def points(rows, column, top):
    """A place for each row in order: the steps are about doublings, so it is nearly a log axis."""
    step = (WIDTH - LEFT - 30) / max(1, len(rows) - 1)
    return [(LEFT + i * step, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 40) * r[column] / top)
            for i, r in enumerate(rows)]


def plot(name, rows):
    top = max(max(r[2], r[3]) for r in rows) * 1.05
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" '
           'font-size="12"><rect width="100%%" height="100%%" fill="white"/>' % (WIDTH, HEIGHT),
           '<text x="%d" y="20">milliseconds a token over %s</text>' % (LEFT, name)]
    for i in range(5):
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 40) * i / 4
        out.append('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.3g'
                   '</text>' % (LEFT, y, WIDTH - 20, LEFT - 6, y + 4, top * i / 4))
    for column, colour, label in ((2, "#1f5fbf", "decode"), (3, "#bf5f1f", "prompt")):
        at = points(rows, column, top)
        out.append('<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>'
                   % (colour, " ".join("%.1f,%.1f" % p for p in at)))
        out.extend('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' % (*p, colour) for p in at)
        out.append('<text x="%d" y="20" fill="%s">%s</text>' % (WIDTH - 70 * (4 - column), colour, label))
    for (x, _), r in zip(points(rows, 2, top), rows):
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%d</text>' % (x, HEIGHT - 28, r[1]))
    out.append('<text x="%d" y="%d">%s</text></svg>' % (LEFT, HEIGHT - 8, name))
    with open(os.path.join(OUT, name + ".svg"), "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


def slower(rows):
    """Sentences: steps to more threads or a bigger batch that cost more than measuring errs by."""
    found = []
    for name in ("batch", "threads"):
        of = [r for r in rows if r[0] == name]
        for before, after in zip(of, of[1:]):
            for column, what in ((2, "decode"), (3, "prompt")):
                if after[column] > before[column] * 1.05:
                    found.append("%s: %s %d is slower than %d: %.2f ms after %.2f" % (
                        what, name, after[1], before[1], after[column], before[column]))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plots", action="store_true")
    options = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    os.environ["MLXCEL_PACKED"] = os.path.join(ROOT, "build/bench/packed")
    table = os.path.join(OUT, "growth.csv")
    if options.plots:
        with open(table, encoding="utf-8", newline="") as f:
            rows = [(a, int(v), float(d), float(p)) for a, v, d, p in list(csv.reader(f))[1:]]
    else:
        rows = measure(options)
    with open(table, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["axis", "value", "decode_ms_per_token", "prompt_ms_per_token"])
        writer.writerows((a, v, "%.3f" % d, "%.3f" % p) for a, v, d, p in rows)
    print("\n".join(slower(rows)) or "no step to more threads or a bigger batch is slower")
    for name in ("context", "batch", "threads"):
        plot(name, [r for r in rows if r[0] == name])


main()
