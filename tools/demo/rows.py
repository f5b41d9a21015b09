"""Training rows: endless conversations as token ids, packed, with weights for the loss."""
import os
import random

import numpy as np
from tokenizers import Tokenizer

from dialogues import Maker

LENGTH = 1024
USER_WEIGHT = 0.05                        # of a token of a question; an answer's token counts 1


class Encoder:
    """Messages to ids as the chat template writes them."""

    def __init__(self, folder):
        self.tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.end, self.text_end = self.tok.token_to_id("<|im_end|>"), self.tok.token_to_id("<|endoftext|>")
        self.newline = self.encode("\n")
        self.head = {r: [self.tok.token_to_id("<|im_start|>")] + self.encode(r + "\n")
                     for r in ("system", "user", "assistant")}
        self.known = {}

    def encode(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def content(self, role, text):
        if role != "assistant":
            return self.encode(text)
        ids = self.known.get(text)
        if ids is None:
            ids = self.encode(text)
            if len(self.known) < 20000:
                self.known[text] = ids
        return ids

    def chat(self, messages):
        """(ids, weights); the weight of a token is for predicting it."""
        ids, weights = [], []
        for m in messages:
            body = self.content(m["role"], m["content"])
            answer = m["role"] == "assistant"
            head = self.head[m["role"]]
            ids += head + body + [self.end] + self.newline
            weights += [0.0] * len(head) + [1.0 if answer else USER_WEIGHT] * len(body)
            weights += [1.0 if answer else 0.0] + [0.0] * len(self.newline)
        return ids, weights

    def prompt(self, messages):
        """Ids up to the opening of the answer."""
        return self.chat(messages)[0] + self.head["assistant"]

    def decode(self, ids):
        return self.tok.decode(ids, skip_special_tokens=True)


def rows(folder, seed):
    """Yields (ids, weights, document numbers), each [LENGTH]."""
    maker, encoder, rng = Maker(), Encoder(folder), random.Random(seed)
    ids, weights, docs, doc = [], [], [], 0
    while True:
        turns = 1 if rng.random() < 0.35 else rng.randint(2, 6) if rng.random() < 0.75 else rng.randint(7, 25)
        i, w = encoder.chat(maker.conversation(rng, turns)[0])
        i, w = i[:LENGTH], w[:LENGTH]
        ids += i
        weights += w
        docs += [doc] * len(i)
        doc += 1
        while len(ids) > LENGTH:
            yield (np.array(ids[:LENGTH + 1], np.int64), np.array(weights[:LENGTH + 1], np.float32),
                   np.array(docs[:LENGTH + 1], np.int32))
            ids, weights, docs = ids[LENGTH:], weights[LENGTH:], docs[LENGTH:]
            if len(ids) <= LENGTH:                # do not go on with half a conversation
                ids, weights, docs = [], [], []
