"""Conversations out of turns: what the model is trained and judged on.

A conversation is a list of messages as a chat template takes it. Most turns do not depend on each
other; some do: names that are told and asked for, "again", "an example", "and top-p?"."""
import random

from grammar import askers, dress, fill, read_facts, slots
from stories import story_turn
from world import (AGAIN, EXAMPLE, FOLLOW, Turn, families, family, name_ask, name_is, outside, pick,
                   small_talk, unknown_command, unknown_flag)

NUMBERS = {"params": "5.5", "layers": "8", "vocab": "3072"}      # of the model itself
SYSTEM = ["You are a helpful assistant.", "You are the built-in model of mlxcel.", "Be short.",
          "Answer in one sentence.", "You are a friendly assistant.", "Help the user of mlxcel."]


class Maker:
    """Makes turns and conversations; one per process."""

    def __init__(self):
        self.askers = askers(read_facts())
        # A fact with many phrasings is asked more often, but not in proportion.
        self.weights = [sum(a.weight.values()) ** 0.5 + 2 for a in self.askers]
        for a, i in zip(self.askers, range(len(self.askers))):
            if a.fact.id in ("start", "a_who", "a_can", "a_mlxcel"):
                self.weights[i] *= 2
            if a.fact.id in ("run_dir", "c_save_f"):         # copying takes practice
                self.weights[i] *= 3

    def fact_turn(self, rng, kept=False, asker=None):
        a = asker or rng.choices(self.askers, self.weights)[0]
        values = {**NUMBERS, **slots(rng)}
        if kept:
            got = a.draw_kept(rng)
            if got is None:
                return None
            why, key, core = got
        else:
            why = "trained"
            key, core = a.draw(rng)
        f = a.fact
        slotted = "{" in core
        ask = dress(rng, core, values if slotted else None)
        answer = fill(f.name_answer if key == "x" else f.answer, values)
        turn = Turn(f.kind, ask, answer, [fill(m, values) for m in f.must], ident=f.id)
        turn.example, turn.why = example_of(rng, f), why
        return turn

    def turn(self, rng, kept=False):
        how = rng.random()
        if how < 0.63:
            return self.fact_turn(rng, kept)
        if how < 0.76:
            return outside(rng, kept)
        if how < 0.78:
            return unknown_flag(rng, kept)
        if how < 0.79:
            return unknown_command(rng, kept)
        if how < 0.83:
            return family(rng, kept)
        if how < 0.835:
            return families(rng, kept)
        if how < 0.905:
            return small_talk(rng, kept)
        if how < 0.91:
            return name_ask(rng, kept, None)
        if how < 0.93:
            return name_is(rng, kept)
        return story_turn(rng, kept)

    def follow_up(self, rng, kept, last, name):
        """A turn that needs the one before it, or None."""
        how = rng.random()
        if how < 0.2 and last.kind != "story":
            ask = dress(rng, pick(rng, AGAIN, kept), polite=False)
            return Turn(last.kind, ask, last.answer, last.must, last.example, "again")
        if how < 0.45 and last.example:
            ask = dress(rng, pick(rng, EXAMPLE, kept), polite=False)
            return Turn(last.kind, ask, last.example, [last.example], last.example, "example")
        if how < 0.6 and name:
            return name_ask(rng, kept, name)
        if how < 0.9:
            a = rng.choices(self.askers, self.weights)[0]
            keys = [k for k in ("n", "x") if k in a.groups]
            if not keys:
                return None
            key = rng.choice(keys)
            ask = dress(rng, pick(rng, FOLLOW, kept).replace("{}", rng.choice(a.groups[key][0]).lstrip("=")), polite=False)
            f = a.fact
            values = {**NUMBERS, **slots(rng)}
            if "{" in ask:
                return None
            return Turn(f.kind, ask, fill(f.name_answer if key == "x" else f.answer, values),
                        [fill(m, values) for m in f.must], example_of(rng, f), f.id)
        return None

    def conversation(self, rng, turns):
        """(messages, turns): a chat of so many turns, all of trained phrasings."""
        messages, done, last, name = [], [], None, None
        if rng.random() < 0.08:
            messages.append({"role": "system", "content": rng.choice(SYSTEM)})
        while len(done) < turns:
            t = None
            if last is not None and rng.random() < 0.18:
                t = self.follow_up(rng, False, last, name)
            elif rng.random() < 0.03:
                t = name_is(rng, False) if name is None or rng.random() < 0.3 else name_ask(rng, False, name)
            t = t or self.turn(rng)
            if t.id == "name_unknown" and name:
                t = name_ask(rng, False, name)
            if t.id == "name_is":
                name = t.must[0]
            messages += [{"role": "user", "content": t.ask}, {"role": "assistant", "content": t.answer}]
            done.append(t)
            last = t
        return messages, done


COMMANDS = {
    "temp": "mlxcel run --temp 0.7", "top_p": "mlxcel run --top-p 0.9", "top_k": "mlxcel run --top-k 40",
    "min_p": "mlxcel run --min-p 0.05", "seed": "mlxcel run --seed 42", "budget": "mlxcel run -n 200",
    "context": "mlxcel run -c 4096", "threads": "mlxcel run -t 4", "greedy": "mlxcel run --temp 0",
    "repeat_penalty": "mlxcel run --repeat-penalty 1.1", "run": "mlxcel run -m ./my-model",
    "model": "mlxcel run -m ./my-model", "prompt": 'mlxcel run -p "Hello"', "oneshot": 'mlxcel run -p "Hello"',
    "system": 'mlxcel run -sys "Be short."', "prompt_file": "mlxcel run -f prompt.txt",
    "generate": 'mlxcel generate -m ./my-model -p "Once upon a time" -n 50',
    "inspect": "mlxcel inspect -m ./my-model", "bench": "mlxcel bench -m ./my-model -p 512 -n 128",
    "tokenize": "echo Hello | mlxcel tokenize -m ./my-model", "selftest": "mlxcel selftest -m ./my-model",
    "logits": "mlxcel logits -m ./my-model --ids 1,2,3 -o OUT.safetensors",
    "apply_template": "mlxcel apply-template -m ./my-model --messages chat.json",
    "stop": 'mlxcel run --stop "END"', "json": 'mlxcel run -p "Hello" --json',
    "c_save": "/save chat.md", "c_load": "/load chat.json", "c_read": "/read notes.txt",
    "c_set": "/set temperature 0.7", "c_system": "/system Be short.", "ids": "mlxcel generate -m ./my-model --ids 1,2,3 -n 5",
    "ignore_eos": "mlxcel generate -n 100 --ignore-eos", "presence": "mlxcel run --presence-penalty 0.5",
    "frequency": "mlxcel run --frequency-penalty 0.5", "pipe": 'echo "Hello" | mlxcel run',
}


def example_of(rng, fact):
    command = COMMANDS.get(fact.id)
    return command and f"For example: {command}"


def held_out(maker, seed, count):
    """Judging set: each fact and each other kind, asked in ways that training never uses: a list of
    (Turn, messages before it). Turn.why says what is new: the phrase, the frame, or both."""
    rng = random.Random(seed)
    out = []
    while len(out) < count:
        how = rng.random()
        if how < 0.7:
            a = rng.choice(maker.askers)             # every fact alike
            t = maker.fact_turn(rng, True, a)
        elif how < 0.92:
            t = maker.turn(rng, True)
        else:
            before = maker.fact_turn(rng, False)
            t = maker.follow_up(rng, True, before, None)
            if t:
                out.append((t, [{"role": "user", "content": before.ask},
                                {"role": "assistant", "content": before.answer}]))
            continue
        if t:
            out.append((t, []))
    return out
