"""Facts and the many ways to ask for them.

Owns the reading of facts/*.txt, the question frames, and the split into phrasings that are
trained and phrasings that are kept out. A fact is written as

    @ id kind
    must: a ; b       what a right answer contains
    A: ...            the answer
    X: ...            the answer to "what is X?" (default: A)
    v: ...            verb phrases: "how do I {v}?"
    n: ...            noun phrases: "what about {n}?"
    x: ...            names: "what does {x} do?"
    q: ...            complete questions

[a|b] stands for either; {slot} is filled anew each time, the same in question and answer.
The split is by phrasing: a share of the expanded v, n and q lines and a share of the frames is never
seen in training, whatever the politeness, slot or spelling around them.
"""
import hashlib
import itertools
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))

VERB_FRAMES = """how do I {}
how can I {}
how to {}
how do you {}
how does one {}
how would I {}
how should I {}
how could I {}
how do we {}
how can one {}
how might I {}
how am I to {}
I want to {}
I would like to {}
I'd like to {}
I need to {}
I have to {}
I wish to {}
I am trying to {}
I'm trying to {}
I want to {}, how
I want to {}, what do I type
I need to {}, what do I do
I want to {}. How do I do that
can I {}
can you {}
can one {}
could I {}
is it possible to {}
is there a way to {}
is there any way to {}
is there a command to {}
is there an option to {}
tell me how to {}
show me how to {}
explain how to {}
teach me to {}
teach me how to {}
help me {}
help me to {}
let me know how to {}
what is the way to {}
what is the best way to {}
what's the way to {}
what's the easiest way to {}
what do I type to {}
what do I do to {}
what must I do to {}
what must I type to {}
what should I do to {}
what should I type to {}
what do I need to {}
what lets me {}
what helps me to {}
do you know how to {}
does mlxcel let me {}
how does mlxcel let me {}
how do I {} with mlxcel
how do I {} in mlxcel
with mlxcel, how do I {}
in mlxcel, how can I {}
I do not know how to {}
I don't know how to {}
I forgot how to {}
what if I want to {}
where do I {}
who can tell me how to {}
please {}
{}
to {}
steps to {}
way to {}
how to {} with mlxcel
what command do I give to {}
how may I {}
how shall I {}
how must I {}
how will I {}
how can you {}
how can we {}
how do people {}
how do I go about it if I want to {}
what is needed to {}
what does it take to {}
what would I type to {}
can mlxcel {}
does mlxcel {}
is mlxcel able to {}
am I able to {}
may I {}
I must {}
I should {}
I wish I could {}
I'd love to {}
let me {}
let us {}
give me a way to {}
any way to {}
any idea how to {}
do you know a way to {}
could you explain how to {}
could you show me how to {}
could you tell me how to {}
can you explain how to {}
can you show me how to {}
can you help me {}
can you help me to {}
I need help to {}
I cannot {}
I can't {}
I am not able to {}
my goal is to {}
my plan is to {}
the task is to {}
now I want to {}
I want mlxcel to {}
we want to {}
we need to {}
someone wants to {}
what is the trick to {}
what is the procedure to {}
remind me how to {}
I would like to know how to {}
I want to know how to {}
I wonder how to {}
I am looking for a way to {}
I'm looking for a way to {}
what makes it possible to {}
tell me the way to {}
tell me what to type to {}
say how to {}
describe how to {}
write down how to {}
is it hard to {}
is it easy to {}
when I want to {}, what do I do
if I want to {}, what do I type
suppose I want to {}
in order to {}, what do I do
how do I best {}
how do I quickly {}""".split("\n")

KIND_VERB_FRAMES = {
    "flag": """which flag do I use to {}
which option do I use to {}
which option lets me {}
what flag lets me {}
what option do I need to {}
which flag do I need to {}
what is the flag to {}
what is the option to {}
is there a flag to {}
flag to {}
option to {}
which switch lets me {}
what argument do I give to {}
which parameter do I use to {}""",
    "command": """which command do I use to {}
which command lets me {}
what command do I need to {}
what is the command to {}
which subcommand do I use to {}
command to {}
what command lets me {}
which subcommand lets me {}
what is the right command to {}""",
    "chat": """in the chat, how do I {}
which chat command lets me {}
what slash command do I use to {}
while chatting, how do I {}
how do I {} in the chat
which command do I type to {}
in a chat, can I {}
what is the chat command to {}""",
    "key": """in the chat, how do I {}
which key do I press to {}
what key lets me {}
while chatting, how do I {}
how do I {} in the chat
what do I press to {}
which keys are there to {}""",
    "setup": """which script do I run to {}
which command do I use to {}
what do I run to {}
what command do I need to {}""",
}

NOUN_FRAMES = """what about {}
how about {}
tell me about {}
{}
I have a question about {}
a question about {}
I want to know about {}
I would like to know about {}
what can you tell me about {}
what do you know about {}
can you tell me about {}
can you tell me something about {}
tell me more about {}
tell me something about {}
say something about {}
information about {}
info on {}
I need help with {}
help me with {}
help with {}
explain {}
please explain {}
and {}
what is there to know about {}
how does it work with {}
how is it with {}
what must I know about {}
what should I know about {}
I do not understand {}
my question is about {}
please tell me about {}
what do I do about {}
where can I read about {}
do you have {}
does mlxcel have {}
is there {}
let us talk about {}
I wonder about {}
anything about {}
I am looking for {}
I'm looking for {}
looking for {}
I want {}
I need {}
could you tell me about {}
could you say something about {}
can you help me with {}
can you help with {}
teach me about {}
what is the story with {}
I am curious about {}
more about {}
more on {}
a word about {}
give me information about {}
what do you say about {}
what is known about {}
I would like {}
where is {}
how do I use {}
how does {} work
I have trouble with {}
what is the deal with {}
the topic is {}
{} please
show me {}""".split("\n")

KIND_NOUN_FRAMES = {
    "flag": """what is the flag for {}
what is the option for {}
which flag is for {}
which option is for {}
flag for {}
option for {}
is there an option for {}
is there a flag for {}
which flag controls {}
what option sets {}
which option is there for {}
which parameter is for {}
what do I type for {}
what do I use for {}
which switch is for {}""",
    "command": """what is the command for {}
which command is for {}
which command shows {}
command for {}
is there a command for {}
what do I type for {}
what do I use for {}
which subcommand is for {}
which command do I use for {}""",
    "chat": """which chat command is for {}
what do I type in the chat for {}
command for {}
is there a chat command for {}
what is the chat command for {}
which slash command is for {}""",
    "key": """which key is for {}
is there a key for {}
what key do I use for {}
what do I press for {}""",
    "setup": """what do I run for {}
what do I need for {}
which script is for {}
what is the command for {}""",
    "file": """where is {}
which file is for {}
which file holds {}
where do I find {}""",
    "format": """does mlxcel support {}
do you support {}
is there support for {}
does it work with {}
can I use {}""",
}

NAME_FRAMES = """what is {}
what's {}
what does {} do
what does {} mean
what is {} for
what's {} for
what is {} good for
what is the use of {}
what is the purpose of {}
what is the meaning of {}
meaning of {}
what do I use {} for
what can I do with {}
what happens with {}
what is meant by {}
what does mlxcel use {} for
when do I use {}
when should I use {}
why would I use {}
why do I need {}
how does {} work
how do I use {}
how is {} used
explain {}
please explain {}
explain {} to me
can you explain {}
can you explain what {} is
could you explain {}
describe {}
define {}
tell me about {}
tell me what {} does
tell me what {} is
tell me what {} means
what do you know about {}
do you know {}
I do not understand {}
I don't understand {}
I want to know what {} does
I want to know what {} is
what about {}
and {}
{}
what exactly is {}
what exactly does {} do
what kind of thing is {}
give me information on {}
what should I know about {}
I saw {}, what is it
I am not sure what {} does
I am not sure what {} is
what role does {} play
could you tell me what {} is
could you tell me what {} does
can you tell me about {}
can you tell me what {} means
what can you tell me about {}
what is behind {}
what is the point of {}
what is the job of {}
what is the effect of {}
is there {}
do you have {}
who needs {}
where do I use {}
where is {} used
I have a question about {}
what will {} do
remind me what {} does
remind me what {} is
what was {} again
what is this {}
I have never heard of {}
need help with {}
help with {}
more about {}
teach me about {}
show me what {} does
there is {}, what does it do
I read about {}, what is that""".split("\n")

# How a name may be dressed: "run" is "mlxcel run" or "the run command".
NAME_FORMS = {
    "flag": ["{}", "{}", "{}", "the {} flag", "the {} option", "the option {}", "the flag {}",
             "`{}`", "mlxcel run {}"],
    "command": ["mlxcel {}", "mlxcel {}", "the {} command", "the command {}", "`mlxcel {}`",
                "the subcommand {}", "{}", "the {} subcommand"],
    "chat": ["{}", "{}", "the {} command", "the chat command {}", "`{}`", "{} in the chat"],
    "key": ["{}", "{}", "{} in the chat", "pressing {}"],
    "file": ["{}", "{}", "the file {}", "`{}`"],
    "setup": ["{}", "{}", "`{}`", "the command {}"],
    "code": ["{}", "{}", "{}", "an {}"],
}

FILLERS = """will would might does did is was are has have had can should makes takes gives needs plays
happens goes comes works matters counts role part thing matter job point idea reason sense place effect
who whom whose which that this these those some any each every both about around behind with without
inside after before under over maybe really just only even ever never always often here there quickly
simply truly kindly friend person people user world day work life deal list word name side use case
""".split() + [""] * 12
KEEP_PHRASE, KEEP_FRAME = 0.15, 0.12     # shares kept out of training
BLUR = 0.12                              # of the frames get a word that does not belong
REWORD = 0.25                            # of the trained phrases get a synonym

# Words that training may put for another, so that a question is known by more than its exact words.
SYNONYM = {
    "set": "change adjust specify define configure choose put select alter modify tune fix".split(),
    "change": "set adjust alter modify switch edit".split(),
    "show": "display print list view output see".split(),
    "see": ["view", "look at", "show", "display", "check", "print", "find"],
    "find": ["get", "locate", "look up", "discover", "learn"],
    "stop": ["end", "halt", "interrupt", "quit", "abort", "cancel"],
    "make": "create produce have get".split(),
    "use": ["employ", "work with", "try", "apply", "utilize", "take"],
    "get": "obtain receive have see".split(),
    "have": "get use see".split(),
    "start": "begin launch open run".split(),
    "open": "start launch load".split(),
    "load": "open use read start".split(),
    "remove": "delete drop erase".split(),
    "delete": "remove erase drop clear".split(),
    "answer": "reply response output result".split(),
    "answers": "replies responses outputs results".split(),
    "question": "query message request".split(),
    "chat": "conversation talk dialog session".split(),
    "conversation": "chat talk dialog session".split(),
    "model": ["network", "llm", "language model"],
    "file": ["document"], "folder": ["directory", "dir"], "directory": ["folder"],
    "option": "flag switch parameter argument setting".split(),
    "limit": "restrict cap bound".split(),
    "number": "count amount".split(),
    "speed": ["pace", "performance", "throughput"], "fast": ["quick", "speedy"], "faster": ["quicker"],
    "big": "large huge".split(), "bigger": ["larger"], "large": ["big"], "small": "little tiny".split(),
    "images": "pictures photos".split(), "random": ["varied", "unpredictable"],
    "memory": ["ram"], "error": ["problem", "message"], "machine": "computer box laptop pc".split(),
    "computer": "machine box laptop pc".split(), "program": "tool software application app".split(),
    "needed": "required necessary".split(), "need": ["require", "want"],
    "check": "test verify examine".split(), "test": "check verify try".split(),
    "store": "save keep write".split(), "save": "store keep write".split(), "write": "save put".split(),
    "kept": "stored saved".split(), "stored": "kept saved".split(),
    "turn": ["switch"], "choose": "pick select".split(), "pick": "choose select".split(),
    "supported": "possible allowed available known".split(), "support": "handle know accept".split(),
    "models": ["networks", "llms", "language models"], "tokens": ["tokens"], "text": ["text", "words"],
    "my": ["our", "the"], "me": ["us"], "tell": ["say"], "wrong": ["bad", "incorrect"],
    "type": "enter write".split(), "repeat": ["redo", "say again"], "last": "latest previous".split(),
    "previous": ["last"], "long": ["lengthy"], "size": ["size", "length"], "length": ["size"],
    "screen": ["terminal", "window"], "several": "many multiple some".split(), "many": ["several", "lots of"],
    "build": "compile make".split(), "compile": ["build", "make"], "install": ["set up", "get", "put in"],
    "read": "load take".split(), "measure": "test determine find".split(), "examine": ["look at"],
    "great": ["good"], "good": ["nice", "fine"], "help": ["assist", "support"], "explain": ["describe"],
}
SYNTAX = re.compile(r"\[([^\[\]]*)\]")


def share(text):
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48


def expand(pattern):
    """All texts that a pattern stands for."""
    parts = SYNTAX.split(pattern)
    lists = [p.split("|") if i % 2 else [p] for i, p in enumerate(parts)]
    return [re.sub(r"\s+", " ", "".join(c)).strip() for c in itertools.product(*lists)]


class Fact:
    def __init__(self, ident, kind):
        self.id, self.kind = ident, kind
        self.must, self.answer, self.name_answer = [], None, None
        self.line = {"v": [], "n": [], "x": [], "q": []}


def read_facts(folder=None):
    folder = folder or os.path.join(HERE, "facts")
    facts, fact = [], None
    for name in sorted(os.listdir(folder)):
        for raw in open(os.path.join(folder, name), encoding="utf-8"):
            text = raw.rstrip("\n").strip()
            if not text or text.startswith("#"):
                continue
            if text.startswith("@ "):
                fact = Fact(*text[2:].split())
                facts.append(fact)
                continue
            key, value = text.split(":", 1)
            value = value.strip()
            if key == "must":
                fact.must = [m.strip() for m in value.split(";")]
            elif key == "A":
                fact.answer = value
            elif key == "X":
                fact.name_answer = value
            elif key == "x":
                fact.line["x"] += value.split("|")
            elif key in fact.line:
                fact.line[key].append(value)
            else:
                raise ValueError(f"{name}: {raw}")
    for f in facts:
        f.name_answer = f.name_answer or f.answer
        for m in f.must:
            assert m in f.answer and m in f.name_answer, (f.id, m)
    return facts


class Asker:
    """The questions of one fact, split: `train` and `kept` are lists of (frame, phrase, group)
    from which a question is drawn group by group, so that a kind with many texts does not drown the
    others. Group is 'v', 'n', 'x' or 'q'."""

    def __init__(self, fact, frames, owner=None):
        self.fact = fact
        self.owner = owner or {}
        self.groups = {}
        self.kept = {}
        for key, patterns in fact.line.items():
            texts = [t for p in patterns for t in expand(p)]
            if not texts:
                continue
            if key == "x":
                good, out = texts, []
            else:
                out = [t for t in texts if share(f"{fact.id}/{key}/{t}") < KEEP_PHRASE]
                good = [t for t in texts if t not in out] or texts
                out = [t for t in out if t not in good]
            fr = frames[key](fact.kind)
            self.groups[key] = (good, [f for f in fr if not kept_frame(key, f)])
            self.kept[key] = (out, good, [f for f in fr if kept_frame(key, f)])
        self.never = {t.lower() for out, _, _ in self.kept.values() for t in out}
        # Each way of asking counts about as the square root of the number of its texts.
        self.weight = {k: (len(g[0]) * min(len(g[1]), 12)) ** 0.5 for k, g in self.groups.items()}

    def draw(self, rng):
        keys = list(self.groups)
        key = rng.choices(keys, [self.weight[k] for k in keys])[0]
        texts, frames = self.groups[key]
        for _ in range(20):
            text, frame = rng.choice(texts), rng.choice(frames)
            if key != "x" and rng.random() < REWORD:
                text = self.reword(rng, text)
            if key != "q" and rng.random() < BLUR:
                frame = blurred(rng, key, frame)
            text = self.put(rng, key, text, frame)
            if text.lower() not in self.never and self.owner.get(text.lower(), self.fact.id) == self.fact.id:
                break
        return key, text

    def put(self, rng, key, text, frame):
        if key == "x" and text[0] == "=":     # as it is: its bare name means something else
            text = text[1:]
        elif key == "x":
            text = rng.choice(NAME_FORMS.get(self.fact.kind, ["{}"])).format(text)
        return frame.replace("{}", text)

    def reword(self, rng, text):
        """Another word here and there, but never a phrasing that is kept out."""
        words = text.split(" ")
        for i, w in enumerate(words):
            if w in SYNONYM and rng.random() < 0.35:
                words[i] = rng.choice(SYNONYM[w])
            elif w in ("the", "a", "an") and rng.random() < 0.12:
                words[i] = ""
        other = " ".join(w for w in words if w)
        return text if not other or other.lower() in self.never else other

    def draw_kept(self, rng):
        """A question that training never asks: (why, key, text) or None."""
        choices = []
        for key, (out, good, frames) in self.kept.items():
            if out:
                choices.append(("phrase", key, out, self.groups[key][1]))
            if frames:
                choices.append(("frame", key, good, frames))
            if out and frames:
                choices.append(("both", key, out, frames))
        if not choices:
            return None
        why, key, texts, frames = rng.choice(choices)
        text = self.put(rng, key, rng.choice(texts), rng.choice(frames))
        return (why, key, text) if self.owner.get(text.lower(), self.fact.id) == self.fact.id else None


def owners(facts):
    """A complete question belongs to the fact that wrote it down, whatever frames make of others."""
    return {t.lower(): f.id for f in facts for p in f.line["q"] for t in expand(p)}


def askers(facts):
    frames, owner = frames_of(), owners(facts)
    return [Asker(f, frames, owner) for f in facts]


def blurred(rng, key, frame):
    """A frame with one word that does not belong: what is asked about should decide, not the frame."""
    words = frame.split(" ")
    i = rng.choice([i for i, w in enumerate(words) if "{" not in w] or [None])
    if i is None:
        return frame
    words[i] = rng.choice(FILLERS)
    other = " ".join(w for w in words if w)
    return frame if kept_frame(key, other) else other


def kept_frame(key, frame):
    return key != "q" and share(f"frame/{key}/{frame}") < KEEP_FRAME


def frames_of():
    def lines(table, kind):
        return table[kind].split("\n") if kind in table else []
    return {
        "v": lambda kind: VERB_FRAMES + 2 * lines(KIND_VERB_FRAMES, kind),
        "n": lambda kind: NOUN_FRAMES + 2 * lines(KIND_NOUN_FRAMES, kind),
        "x": lambda kind: NAME_FRAMES,
        "q": lambda kind: ["{}"],
    }


# ---- slots -------------------------------------------------------------------------------

WORDS = """apple amber atlas basil birch blue cedar clover comet coral daisy delta ember falcon fern
fox garden ginger hazel heron iris ivory jade juniper kite lake lemon lily lotus maple mint moon nova
oak olive onyx opal orchid otter panda pearl pine plum quartz raven river robin rose ruby sage sky
sparrow star stone storm sun teal tiger topaz tulip violet willow wolf wren zephyr tiny big new old my
test work chat base small large fast demo main data best next""".split()
NAMES = """qwen3-0.6b qwen3-4b-4bit llama-3.2-1b mistral-7b gemma-2-2b gemma-3-1b phi-3-mini
smollm3-3b olmo-2-1b granite-3 mixtral-8x7b gpt2 starcoder2-3b glm4-9b mamba2-130m model models
qwen3 llama gpt-oss-20b""".split()


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def odd_name(rng):
    """A file name that was never seen: letters, digits, signs."""
    word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.5:                   # of sounds, as names mostly are
        word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
        word += rng.choice(["", "n", "r", "s", "t", "x", "ck", "nt"])
    if rng.random() < 0.15:
        word = word.title()
    return word


def path(rng):
    kind = rng.random()
    if kind < 0.3:
        name = rng.choice(NAMES)
    elif kind < 0.6:                         # digits and dots, so that paths are copied, not guessed
        stem = rng.choice(["qwen", "qwen3", "qwen2.5", "llama", "llama-3.2", "gemma", "gemma-3", "phi", "smollm", "olmo",
                           "granite", "mistral", "mixtral", "glm", odd_name(rng), odd_name(rng)])
        size = rng.choice([f"{rng.randint(0, 99) / 10:.1f}", str(rng.randint(1, 99)), str(rng.randint(100, 999))])
        name = (stem + rng.choice("-_") + size + rng.choice("bbbmBM")
                + rng.choice(["", "", "-4bit", "-8bit", "-it", "-instruct", "-mlx", "-bf16", "-chat"]))
    elif kind < 0.8:
        name = rng.choice(["", rng.choice(WORDS) + rng.choice("-_.")]) + odd_name(rng) + rng.choice(
            ["", "", str(rng.randint(0, 99)), "-4bit", "-v" + str(rng.randint(1, 9))])
    else:
        name = "-".join(rng.sample(WORDS, rng.choice([1, 1, 2]))) + rng.choice(["", "", "-4bit", "-8bit", "7"])
    root = rng.choice(["/", "./", "~/", "../", "", "/home/", "/mnt/", "/opt/", "/srv/", "/data/", "/tmp/", "/var/", "/usr/"])
    parts = [rng.choice([odd_name(rng), rng.choice(WORDS), "models", "llm", "llms", "mlx", "weights", "hf", "ai",
                         "models", "checkpoints"]) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    if not root and not parts:
        root = "./"
    return root + "/".join(parts + [name])


def slots(rng):
    stem = "-".join(rng.sample(WORDS, rng.choice([1, 1, 2]))) if rng.random() < 0.5 else odd_name(rng)
    return {
        "path": path(rng),
        "n": str(rng.choice([rng.randint(1, 99), rng.randint(100, 999), rng.randint(1000, 9999),
                             2 ** rng.randint(4, 17), 10 * rng.randint(1, 99)])),
        "k": str(rng.randint(1, 128)),
        "t": f"{rng.randint(0, 20) / 10:.1f}" if rng.random() < 0.7 else f"{rng.randint(0, 150) / 100:.2f}",
        "file": stem + rng.choice([".md", ".json", ".txt", ".md", ".json"]),
        "badcode": str(rng.choice([rng.randint(7, 129), rng.randint(131, 255)])),
    }


def fill(text, values):
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text


# ---- noise around a question -------------------------------------------------------------

BEFORE = ["please ", "hello, ", "hi, ", "hey, ", "ok, ", "so ", "well, ", "excuse me, ", "sorry, ",
          "thanks. ", "quick question: ", "a question: ", "I am new to this. ", "I have a problem. ", "help! ", "one question: ",
          "next question: ", "great. ", "I see. ", "listen, ", "by the way, ", "let me ask: ", "um, ", "hmm, ",
          "my friend asks: ", "my boss wants to know: ", "just checking: ", "dear model, ", "could you help? ",
          "yes, ", "no, ", "or ", "then ", "first, ", "actually, ", "again: ", "another question. ", "now ", "and ", "but ", "tell me, ",
          "I wonder, ", "hi there, ", "good morning, ", "please tell me, ", "one more thing: ", "say, "]
AFTER = [" please", ", please", " thanks", ", thank you", " now", ", can you tell me", " exactly",
         ", do you know", " again", " in mlxcel", ", please tell me", " here", " today", ", if I may ask", ", help", " thx", " pls", " for me", " then",
         ", if that is possible", " with this program", ", I forgot", ", I wonder", " ok", ", and how"]
KEEP_LETTERS = re.compile(r"[\"`/\d$_{}]|--|\.\w")


def typo(rng, text):
    """One slip of the fingers in one plain word of five letters or more."""
    words = text.split(" ")
    plain = [i for i, w in enumerate(words) if len(w) >= 5 and w.isalpha()]
    if not plain:
        return text
    i = rng.choice(plain)
    w = words[i]
    j = rng.randrange(1, len(w) - 1)
    words[i] = rng.choice([w[:j] + w[j + 1:], w[:j] + w[j + 1] + w[j] + w[j + 2:], w[:j] + w[j] + w[j:]])
    return " ".join(words)


def dress(rng, core, values=None, polite=True):
    """A core as people type it: capital or not, question mark or not, a please, a slip."""
    text = core
    if polite and rng.random() < 0.22:
        text = rng.choice(BEFORE) + text
    elif polite and rng.random() < 0.12:
        text = text + rng.choice(AFTER)
    if rng.random() < 0.09:
        text = typo(rng, text)
    if values:
        text = fill(text, values)
    elif rng.random() < 0.03 and not KEEP_LETTERS.search(text):
        text = text.upper()
    how = rng.random()
    if how < 0.62 and text[0].isalpha() and not re.match(r"[\w.-]*[._/-]\w", text):
        text = text[0].upper() + text[1:]
    elif how > 0.9 and not values:
        text = re.sub(r"\bI\b", "i", text)
    how = rng.random()
    if how < 0.6:
        text += "?" if text[-1] not in "?.!" else ""
    elif how < 0.72:
        text += "." if text[-1] not in "?.!" else ""
    elif how < 0.75:
        text += rng.choice(["!", "??", " ?", "...", "!?"])
    return text
