"""Writes what the engine is checked against: tests/demo/vectors.json and tests/demo/text.json.

    python3 make_vectors.py MODEL_DIR TESTS_DIR

vectors.json: for some prompts the ids, the greedy continuation and the logits after the prompt, from the
dequantized weights in f32 (reference.py). text.json: ids of held-out conversations, for measuring the
difference between ways of computing; no answer in it was picked by a model."""
import json
import os
import random
import sys

import numpy as np

import dialogues
from reference import Reference
from rows import Encoder

PROMPTS = [
    [{"role": "user", "content": "How do I start?"}],
    [{"role": "user", "content": "Set the temperature to 0.35"}],
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Tell me a story about a fox."}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hello"},
     {"role": "assistant", "content": "Hello! Ask me about mlxcel, or ask for a story."},
     {"role": "user", "content": "which model families do you know by name?"}],
    [{"role": "user", "content": "Grüße, \u4f60\u597d \U0001f600"}],
]


def main():
    folder, out = sys.argv[1:3]
    os.makedirs(out, exist_ok=True)
    reference, encoder = Reference(folder), Encoder(folder)
    stop = [encoder.end, encoder.text_end]
    vectors = []
    for messages in PROMPTS:
        ids = encoder.prompt(messages)
        greedy, logits = reference.greedy(ids, 160, stop)
        vectors.append({"messages": messages, "ids": ids, "greedy": greedy, "text": encoder.decode(greedy),
                        "logits": [float(np.format_float_positional(v, 7, fractional=False)) for v in logits]})
    with open(os.path.join(out, "vectors.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps({"stop": stop, "vectors": vectors}, separators=(",", ":")) + "\n")
    maker, rng, texts, count = dialogues.Maker(), random.Random(77), [], 0
    while count < 6000:
        messages = []
        for turn, before in dialogues.held_out(maker, rng.randrange(1 << 30), 8):
            messages += before + [{"role": "user", "content": turn.ask},
                                  {"role": "assistant", "content": turn.answer}]
        texts.append(encoder.chat(messages)[0])
        count += len(texts[-1])
    with open(os.path.join(out, "text.json"), "w") as f:
        f.write(json.dumps({"ids": texts}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
