"""Judges answers to phrasings that training never asks.

    python3 evaluate.py MODEL_DIR [--engine build/mlxcel] [--count N] [--seed S]

Without --engine the numpy reference answers. An answer is right when it holds every key fact of the
right answer (the exact flag, command, name ...) and is not the canonical answer of another fact."""
import argparse
import collections
import json
import os
import subprocess
import sys

import dialogues
from rows import Encoder

BUDGET = 160


def canonical(maker):
    """Each complete answer, and the facts it answers."""
    known = collections.defaultdict(set)
    for a in maker.askers:
        known[a.fact.answer].add(a.fact.id)
        known[a.fact.name_answer].add(a.fact.id)
    return known


def is_right(turn, answer, known):
    if turn.kind == "story":
        return (all(m in answer for m in turn.must) and 120 <= len(answer) <= 900
                and answer.rstrip()[-1:] in ".!\"")
    if not all(m in answer for m in turn.must):
        return False
    owners = known.get(answer)               # the complete answer of some fact: then of this one
    return answer == turn.answer or not owners or turn.id in owners


def judge(cases, answers, maker, wrong=None):
    """{kind: (right, exact, count)} and the total under 'all'."""
    known = canonical(maker)
    table = collections.defaultdict(lambda: [0, 0, 0])
    for (turn, before), answer in zip(cases, answers):
        good = is_right(turn, answer, known)
        for kind in (turn.kind, "new " + turn.why, "all"):
            table[kind][0] += good
            table[kind][1] += answer == turn.answer
            table[kind][2] += 1
        if not good and wrong is not None:
            wrong.append((turn.kind, turn.id, turn.ask, turn.answer, answer))
    return table


def show(table, out=sys.stdout):
    for kind in sorted(table, key=lambda k: (k == "all", k[:4] == "new ", k)):
        right, exact, n = table[kind]
        print(f"{kind:12} {100 * right / n:6.2f} % right   {100 * exact / n:6.2f} % word for word   of {n}", file=out)


def prompts_of(cases, encoder):
    return [encoder.prompt(before + [{"role": "user", "content": turn.ask}]) for turn, before in cases]


def wild(path=None):
    """Questions written by hand, apart from the tables: [(question, key facts)]."""
    path = path or os.path.join(os.path.dirname(os.path.abspath(__file__)), "wild.txt")
    out = []
    for line in open(path, encoding="utf-8"):
        if line.strip() and not line.startswith("#"):
            question, must = line.rstrip("\n").rsplit("->", 1)
            out.append((question.strip(), [m.strip() for m in must.split(";")]))
    return out


def engine_answer(program, folder, prompt):
    """Greedy ids from the program itself."""
    run = subprocess.run([program, "generate", "-m", folder, "--ids", ",".join(map(str, prompt)), "-n", str(BUDGET),
                          "--temp", "0", "--print-ids"], capture_output=True, text=True, check=True)
    text = run.stdout.strip()
    return [int(t) for t in text.replace(",", " ").replace("[", " ").replace("]", " ").split()]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("--engine")
    args.add_argument("--count", type=int, default=300)
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--wrong", action="store_true", help="print the wrong answers")
    args.add_argument("--wild", action="store_true", help="the hand-written questions instead")
    a = args.parse_args()
    maker, encoder = dialogues.Maker(), Encoder(a.model)
    stop = [encoder.end, encoder.text_end]
    reference = None
    if not a.engine:
        from reference import Reference
        reference = Reference(a.model)

    def answer(prompt):
        ids = reference.greedy(prompt, BUDGET, stop)[0] if reference else engine_answer(a.engine, a.model, prompt)
        return encoder.decode([i for i in ids if i not in stop])

    if a.wild:
        right, cases = 0, wild()
        for question, must in cases:
            got = answer(encoder.prompt([{"role": "user", "content": question}]))
            good = all(m in got for m in must)
            right += good
            if a.wrong and not good:
                print(json.dumps([question, must, got]))
        print(f"{right} of {len(cases)} right")
        return
    cases = dialogues.held_out(maker, a.seed, a.count)
    wrong = []
    table = judge(cases, [answer(p) for p in prompts_of(cases, encoder)], maker, wrong)
    if a.wrong:
        for w in wrong:
            print(json.dumps(w))
    show(table)


if __name__ == "__main__":
    main()
