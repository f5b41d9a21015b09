"""Everything that is no fact about mlxcel: families by name, what the model does not know,
small talk, stories. Each maker takes a random generator and returns a `Turn`."""
from grammar import dress, expand, share

KEEP = 0.15                              # share of the phrasings kept out of training


class Turn:
    """A question, its right answer, and what an answer must contain to count as right."""
    __slots__ = ("kind", "ask", "answer", "must", "example", "id", "why")

    def __init__(self, kind, ask, answer, must, example=None, ident=None):
        self.kind, self.ask, self.answer, self.must = kind, ask, answer, must
        self.example, self.id, self.why = example, ident or kind, "other"


def texts(block):
    """The expanded lines of a block, split: (trained, kept)."""
    every = [t for line in block.strip().split("\n") for t in expand(line.strip())]
    kept = [t for t in every if share("world/" + t) < KEEP]
    return [t for t in every if t not in kept], kept


def pick(rng, pair, kept):
    return rng.choice(pair[1] if kept and pair[1] else pair[0])


# ---- families ----------------------------------------------------------------------------

FAMILIES = {
    "llama": ["llama", "llama 3", "llama 2", "llama-3.2", "llama 3.1", "tinyllama", "smollm2", "smollm"],
    "mistral": ["mistral", "mistral 7b", "mistral nemo", "ministral"],
    "qwen2": ["qwen2", "qwen 2", "qwen2.5", "qwen 2.5"],
    "qwen3": ["qwen3", "qwen 3", "qwen3-0.6b", "qwen3 4b"],
    "gemma2": ["gemma2", "gemma 2", "gemma-2"],
    "gemma3": ["gemma3", "gemma 3", "gemma-3"],
    "phi3": ["phi3", "phi 3", "phi-3", "phi-3-mini", "phi 3 mini"],
    "granite": ["granite", "granite 3", "ibm granite"],
    "smollm3": ["smollm3", "smollm 3"],
    "glm4": ["glm4", "glm 4", "glm-4"],
    "olmo2": ["olmo2", "olmo 2", "olmo-2"],
    "starcoder2": ["starcoder2", "starcoder 2", "starcoder"],
    "gpt2": ["gpt2", "gpt-2", "gpt 2"],
    "mixtral": ["mixtral", "mixtral 8x7b"],
    "qwen3_moe": ["qwen3_moe", "qwen3 moe", "qwen3-30b-a3b"],
    "gpt_oss": ["gpt_oss", "gpt-oss", "gpt oss", "gpt-oss-20b"],
    "deepseek_v3": ["deepseek_v3", "deepseek v3", "deepseek-v3", "deepseek"],
    "mamba2": ["mamba2", "mamba 2", "mamba-2"],
    "qwen3_next": ["qwen3_next", "qwen3 next", "qwen3-next"],
}
FAMILY_LIST = ("llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, granite, smollm3, glm4, olmo2, "
               "starcoder2, gpt2, mixtral, qwen3_moe, gpt_oss, deepseek_v3, mamba2 and qwen3_next")
OTHER_MODELS = """falcon bloom opt mpt dolly vicuna yi baichuan internlm chatglm cohere command-r jamba
rwkv xlstm dbrx grok arctic minicpm exaone nemotron kimi hunyuan ernie claude gemini whisper clip llava
stable-diffusion flux t5 bert roberta bart pegasus xlnet electra deberta stablelm pythia gpt-j gpt-neox
zamba falcon-h1 bamba plamo seed-oss step phi4 phi2 lfm2 apertus solar aya pixtral janus moshi qwen3.5 qwen3_5
qwen4 qwen3-vl qwen2-vl llama4 llama-4 gemma4 gemma-4 gemma3n gemma1 phi-4 phi-2 phi5 glm5 glm-5 glm-4.5 glm4_moe
gpt-3 gpt-4 gpt4 gpt-5 gpt5 gpt3 deepseek_v2 deepseek-v4 deepseek_v4 olmo3 olmo-3 olmoe smollm4 starcoder3 starcoder1
granite4 granitemoe mistral3 mistral-4 mixtral2 mamba3 mamba-1 qwen3.6 qwen2_moe chatgpt copilot siri alexa""".split()

FAMILY_ASK = texts("""
is {} supported
[do you|does mlxcel|does it] support {}
[can mlxcel|can it|can I|does mlxcel|does it] [run|load|use] {}
[does|will|can] {} work
[is|are] {} models supported
can I [chat with|load|run|try] a {} model
does mlxcel [know|run|load|handle] {} models
what about {}
and {}
is there support for {}
[can I use|I want to use|I have] {} with mlxcel
[I have|I downloaded|I want to run|I would like to use] a {} model
is {} one of the [supported|known] [families|models|architectures]
how about {}
{} support
is the {} [family|model|architecture] supported
""")
ONSET = ("b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl sm sn sp st "
         "str sw t th tr tw v w wh y z zh").split() + [""] * 8
NUCLEUS = "a e i o u a e i o u ai ea ee oo ou ie ia io au y".split()
CODA = ("b ck d f g k l ll m n nd ng nt p r rd rk rn rt s sh ss st t th x z nk lt mp").split() + [""] * 24
PSEUDO = ("ba be bi bo bu da de do du fa fe fi fo ga go ha he ka ke ki ko la le li lo lu ma me mi mo na "
          "ne ni no pa pe po ra re ri ro sa se si so su ta te ti to va ve vi vo wa za ze zo").split()


def pseudo(rng, low=2, high=4):
    """A word that does not exist: it teaches that an unknown word is unknown."""
    if rng.random() < 0.3:
        word = "".join(rng.choice(PSEUDO) for _ in range(rng.randint(low, high)))
        return word + rng.choice(["", "", "n", "r", "s", "x", "l", "k"])
    return "".join(rng.choice(ONSET) + rng.choice(NUCLEUS) + rng.choice(CODA)
                   for _ in range(rng.randint(max(low - 1, 1), high)))


def family(rng, kept):
    frame = pick(rng, FAMILY_ASK, kept)
    if rng.random() < 0.6:
        fam = rng.choice(list(FAMILIES))
        name = rng.choice(FAMILIES[fam])
        if rng.random() < 0.2:
            name = name.title() if name[0].isalpha() else name
        answer = f"Yes, the family {fam} is supported. Load it with mlxcel run -m DIR."
        return Turn("family", dress(rng, frame.replace("{}", name)), answer, [f"Yes, the family {fam} is"],
                    ident="fam_" + fam)
    name = rng.choice(OTHER_MODELS) if rng.random() < 0.5 else \
        pseudo(rng) + rng.choice(["", "", "", "-7b", "-1b", "2", "3", "-v2"])
    answer = "I do not know that family. mlxcel arch lists the supported ones."
    return Turn("family", dress(rng, frame.replace("{}", name)), answer, ["I do not know", "mlxcel arch"],
                ident="fam_other")


FAMILY_ALL = texts("""
[which|what] [model families|families] [are there|do you know by name|exist]
[name|tell me|give me] [all|the|all the] [names of the families|family names|supported families by name]
what are the names of the [families|supported models|supported families]
""")


def families(rng, kept):
    return Turn("family", dress(rng, pick(rng, FAMILY_ALL, kept)), f"The families are {FAMILY_LIST}.",
                ["llama", "qwen3_next", "starcoder2"], ident="fam_all")


FLAG_ASK = texts("""
what [is|does] --{} [do|mean|]
what is --{} for
[explain|describe] --{}
[is there|do you have] [an option|a flag] --{}
what about --{}
[does mlxcel know|can I use] --{}
tell me about --{}
how do I use --{}
""")


def unknown_flag(rng, kept):
    known = ("model prompt file seed stop temp ids last tools json help version quiet color out predict "
             "threads device compute messages").split()
    while True:
        name = rng.choice([pseudo(rng), rng.choice(OBJECTS).replace(" ", "-"), rng.choice(
            "turbo magic rainbow fancy beam-width best-of mirror banana speed-up auto-fix night upload "
            "deep boost shiny party sing paint cook fly dance wings wheel".split())])
        if name not in known:
            break
    ask = dress(rng, pick(rng, FLAG_ASK, kept).replace("{}", name), polite=False)
    return Turn("unknown", ask, "I do not know that option. mlxcel --help lists all options.",
                ["I do not know", "--help"], ident="unknown_flag")


CMD_ASK = texts("""
what does mlxcel {} do
what is mlxcel {} [|for]
is there [a command|a subcommand] [called|named] {}
explain [the command {}|mlxcel {}]
how do I use mlxcel {}
does mlxcel have a {} command
what does /{} do
what is the chat command /{}
""")


def unknown_command(rng, kept):
    name = rng.choice([pseudo(rng), rng.choice("paint cook fly dance sing upload publish deploy draw play "
                                               "translate mail rename sleep jump".split())])
    ask = dress(rng, pick(rng, CMD_ASK, kept).replace("{}", name), polite=False)
    tail = "Type /help for the chat commands." if f"/{name}" in ask.lower() else "mlxcel --help lists all commands."
    return Turn("unknown", ask, f"I do not know that command. {tail}", ["I do not know", "help"],
                ident="unknown_command")


# ---- what lies outside -------------------------------------------------------------------

LIST = dict(
    country="""France Germany Spain Italy Japan China India Brazil Canada Mexico Russia Poland Sweden Norway
Finland Denmark Greece Turkey Egypt Kenya Nigeria Ghana Peru Chile Argentina Cuba Iran Iraq Israel Korea
Vietnam Thailand Australia Austria Belgium Portugal Ireland Iceland Hungary Romania Bulgaria Ukraine Morocco
Switzerland England Scotland America Indonesia Malaysia Pakistan Nepal Ethiopia Tunisia""".split(),
    city="""Paris London Berlin Rome Madrid Tokyo Beijing Delhi Moscow Oslo Vienna Prague Athens Cairo Lima
Boston Chicago Sydney Toronto Dublin Lisbon Warsaw Munich Hamburg Milan Venice Seoul Bangkok Dubai
Budapest Amsterdam Brussels Geneva Zurich Naples Kyoto Shanghai Mumbai Texas California""".split(),
    person="""Einstein Newton Mozart Bach Beethoven Shakespeare Napoleon Caesar Lincoln Gandhi Picasso Darwin
Galileo Plato Aristotle Socrates Cleopatra Columbus Tesla Edison Curie Turing Gauss Euler Dickens Goethe
Tolstoy Kafka Homer Dante Churchill Washington Obama Messi Ronaldo Madonna Elvis""".split(),
    thing="""car house tree book bread cheese computer phone bicycle piano guitar river mountain ocean cloud
rainbow planet moon star sun cat dog horse elephant whale bird fish apple banana tomato potato rice pizza
cake soup coffee tea wine beer chair table window door shoe shirt hat clock lamp knife spoon glass gold
silver iron wood stone paper plane train ship rocket robot virus heart brain bone blood volcano
earthquake desert forest island castle church school bank king queen army war peace love money""".split(),
    topic="""football tennis cricket chess history geography biology chemistry physics mathematics algebra
geometry music painting poetry cooking gardening fishing fashion politics religion philosophy law medicine
economics astronomy psychology movies theatre dancing travel yoga photography baseball basketball golf
swimming skiing evolution gravity electricity magnetism democracy capitalism quantum mechanics
black holes dinosaurs vitamins taxes stocks bitcoin insurance""".split("\n"),
    language="French German Spanish Italian Latin Greek Russian Chinese Japanese Korean Arabic Hindi Polish Dutch".split(),
    code="python javascript java rust html css sql bash perl ruby go php haskell lisp c++".split(),
    word="hello goodbye water bread house love friend morning thanks dog cat sun tree book".split(),
    day="today tomorrow yesterday now Monday Sunday Friday Christmas this week next year".split(),
)
LIST["topic"] = [w for line in LIST["topic"] for w in line.split() if w not in
                 ("quantum", "mechanics", "black", "holes")] + ["quantum mechanics", "black holes"]
OBJECTS = LIST["thing"]

OUTSIDE = texts("""
what is the capital of {country}
what is the capital city of {country}
which city is the capital of {country}
name the capital of {country}
capital of {country}
where is {country}
where is {city}
where is {city} on the map
how many people live in {country}
how many people live in {city}
what is the population of {country}
who is the [president|king|queen|prime minister|leader] of {country}
who [rules|governs|won the war against] {country}
what language do they speak in {country}
what is the [money|currency|flag|history|climate|food] of {country}
how far is it from {city} to {city}
how do I get to {city}
what can I see in {city}
tell me about {country}
tell me about {city}
tell me about {person}
tell me about {topic}
tell me something about {topic}
tell me something about {country}
explain {topic}
explain {topic} to me
explain the theory of {topic}
what is {topic}
what do you know about {topic}
what do you know about {person}
do you know {person}
do you like {topic}
do you like {thing}
who was {person}
who is {person}
when was {person} born
when did {person} die
where was {person} born
what did {person} [do|write|discover|invent|say]
how old is {person}
what is the weather [like|] [|today|tomorrow|in {city}|like in {city}]
will it [rain|snow|be sunny|be cold|be warm] [|today|tomorrow|in {city}]
how is the weather [|today|in {city}]
how [hot|cold|warm] is it [|in {city}|today]
what time is it [|in {city}|now]
what day is [it|today]
what is the date [|today]
what year is it
what is {num} plus {num}
what is {num} minus {num}
what is {num} times {num}
what is {num} divided by {num}
what is {num} + {num}
what is {num} * {num}
what is {num} - {num}
{num} + {num}
{num} * {num}
{num} plus {num}
how much is {num} plus {num}
how much is {num} times {num}
how much is {num} + {num}
calculate {num} * {num}
add {num} and {num}
what is the [square root|square|half|double] of {num}
is {num} a prime number
count to {num}
solve x + {num} = {num}
what is a {thing}
what is the {thing}
how does a {thing} work
how do I [make|build|buy|cook|clean|repair|draw|sell|find] a {thing}
how [big|old|heavy|fast|far|expensive] is a {thing}
how much [is|costs] a {thing}
where can I buy a {thing}
why is the [sky blue|grass green|sea salty|moon white|sun hot|earth round]
why do [birds sing|cats purr|dogs bark|people dream|leaves fall|we sleep]
what color is a {thing}
what is the [biggest|smallest|longest|highest|oldest|fastest|deepest|best] {thing} [|in the world]
who invented the {thing}
who [wrote|painted|made|discovered|built] the {thing}
when was the {thing} invented
what do you think about {topic}
what is your opinion on {topic}
what is your favorite {thing}
who won the [world cup|game|election|race|final|match] [|yesterday|last year|in {country}]
who is the best [player|singer|actor|writer|painter] [|in the world|of {country}]
what is the news [|today|from {country}]
what happened [in {country}|in {city}|yesterday|in 1945|in 1789|today]
when did the [war|second world war|french revolution|cold war|roman empire] [start|end|begin]
translate {word} [to|into] {language}
how do you say {word} in {language}
what does {word} mean in {language}
what is {word} in {language}
write [a poem|a song|an essay|a letter|an email|a joke] about {thing}
write [a program|a function|code|a script] in {code}
write [a program|a function|code] that sorts a list [|in {code}]
write [|me] [a poem|an essay|a letter|a song|an email|a speech]
how do I [sort a list|read a file|write a loop|open a socket|parse json] in {code}
how do I [learn|install|use|write] {code}
what is a [pointer|class|closure|monad|mutex|compiler|database] in {code}
I feel [sick|ill|sad|lonely], what should I do
I have [a headache|a fever|a cold|a broken leg|no money], what [now|should I do]
should I [buy|sell] [bitcoin|stocks|gold|a house|a car]
what should I [eat|cook|read|watch|wear|buy|study] [|today]
give me a recipe for {thing}
how do I cook {thing}
who is my [mother|father|brother|neighbour|boss]
where are my [keys|shoes|glasses]
how old am I
when is my birthday
play [music|a song|chess with me|a game]
book a [flight|hotel|table] [|in {city}]
order [a pizza|food|a taxi]
open [the door|a website|my email|the window]
set [an alarm|a timer] [|for tomorrow]
call [my mother|a taxi|the police|{person}]
send an email [|to {person}]
search the [web|internet] for {thing}
look up {topic}
what is the [meaning of life|speed of light|mass of the earth|distance to the moon|value of pi]
how many [stars|planets|countries|oceans|bones|days|hours] are there [|in a year|in the sky|in the world]
what is the chemical [formula|symbol] of [water|gold|iron|salt|silver]
what is [dna|photosynthesis|an atom|a molecule|a prime number|the bible|the internet|a black hole]
what [movie|film|book|song] [should I watch|is good|won the prize|do you like]
who sang [yesterday|let it be|hallelujah]
write me [a program|a script|a function|some code|code] [in {code}|] that [downloads a page|sorts a list|adds numbers|counts words|draws a {thing}|opens a file|prints the date|sends a mail]
write a {code} [script|program|function] [|that downloads a page|that adds two numbers|for my website|to sort names]
can you [code|program|write {code}|debug my code|fix my {code} code]
what [movie|song|film|game|show] is [good|new|popular|the best] [|now]
how do I [build|make|start|fix|open|find|run] a [{thing}|business|company|website|garden|fire|boat|club]
how do I [run|stop|save|load|clear|change] [a marathon|my life|the world|the dishwasher|a {thing}|the {thing}|my hair|the tires]
how do I [save|make|spend|get] money
how do I [lose weight|fall asleep|learn to swim|get rich|find a job|make friends|quit smoking|become famous]
what is [{num}|the number {num}]
{num}*{num}=
{num} / {num}
{num} * {num} = ?
how much is {num} divided by {num}
what is {num} percent of {num}
is {num} [bigger|smaller|larger] than {num}
what comes after {num}
how many [people|dogs|cars] are in {country}
is {country} bigger than {country}
which is [better|bigger|older|nicer], {thing} or {thing}
what do you think of {person}
what did you do yesterday
what do you do [today|all day|on Sunday]
what is your favorite [color|food|movie|song|number|book|animal|city]
where do you live
how old are you
do you have [children|a cat|a car|a wife|a dog|money]
is there [life on mars|a god|a heaven|a bus to {city}|milk in the fridge]
do you believe in [god|ghosts|love|luck|fate]
are there [aliens|ghosts|lions in {country}|whales in the sea]
who is the richest [man|woman|person] [|in the world|in {country}]
what is the best [phone|car|laptop|movie|book|restaurant|school|team] [|in {city}|in {country}]
when does the [train|bus|shop|film|show|school] [leave|open|start|come]
where is the nearest [shop|bank|station|hospital|restaurant|school]
can you [sing|dance|drive|cook|swim|draw a {thing}|play {topic}|count to {num}|call me]
why [am I|are people|are cats|is he|is she] [so tired|so sad|angry|late|happy]
how do {thing}s work
how are {thing}s made
what are {thing}s made of
tell me the [news|time|date|weather|truth|future]
tell me about the [war|history of {country}|{thing}|weather in {city}|future|life of {person}]
tell me a fact about {topic}
give me [a fact|facts|advice|tips] about {topic}
[sing|draw|paint|cook|bring|show|buy] me a {thing}
remind me to buy a {thing}
what happened to {person}
did {person} [win|die|write a book|go to {country}]
is {person} [alive|dead|married|a king]
in which year was {person} born
[was|is] {city} in {country}
what is the {topic} of {country}
what language is spoken in {country}
say hello in {language}
how do I say {word} in {language}
{word} in {language}
what is the {language} word for {word}
{thing}
{topic}
{country}
{city}
{person}
the {thing}
{thing} and {thing}
{city} or {city}
my {thing} is broken
I lost my {thing}
I like {thing}
I love {topic}
I hate {topic}
I bought a {thing} [|yesterday]
I live in {city}
I am from {country}
I want [a {thing}|to go to {city}|to learn {topic}|to buy a {thing}|to eat {thing}|to visit {country}]
I would like [a {thing}|to see {city}|some {thing}]
she sells [sea shells|a {thing}|books]
the {thing} is [big|red|old|new|broken]
{foreign}
{foreign} {foreign}
{foreign} {foreign} {foreign}?
[ls|ls -la|cd ..|cd /tmp|pwd|cat file.txt|rm -rf x|mkdir x|git status|git commit|git log|sudo apt update|top|grep foo|echo hi|ssh host|python x.py|vim|ps aux|df -h|chmod +x run.sh|kill 1234|ping host|curl localhost|tar xf x.tar]
[def f(x): return x|int main(void)|print("hi")|import os|for i in range(10)|x = 1|return 0;|SELECT * FROM t|<html>|{ }|[]|null|true|false|NaN|0x1F|a = b + c|if x > 0:|#include|while true]
how do I [list files|copy a file|rename a file|delete a folder|find a file|zip a folder|kill a process|mount a disk] in linux
{pseudo}
{pseudo} {pseudo}
{pseudo} {pseudo} {pseudo}
{pseudo} {pseudo} {pseudo} {pseudo}
why is {pseudo} {pseudo}
can you {pseudo}
do you like {pseudo}
when was {pseudo}
how big is {pseudo}
how does {pseudo} work
what is {pseudo}
what is a {pseudo}
what does {pseudo} mean
who is {pseudo}
where is {pseudo}
tell me about {pseudo}
how do I {pseudo} the {pseudo}
how do I {pseudo} a {thing}
what do you know about {pseudo}
explain {pseudo}
""")
DUNNO = "I do not know that. I am a tiny model and only know mlxcel."


def scramble(rng):
    """Keys hit at random."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz" + "asdfjkl") for _ in range(rng.randint(3, 9)))


SCRIPTS = [(0xE0, 0xFF), (0x400, 0x44F), (0x3B1, 0x3C9), (0x4E00, 0x6000), (0x3041, 0x3096), (0xAC00, 0xB000),
           (0x627, 0x64A), (0x905, 0x939), (0x1F600, 0x1F640)]


def foreign(rng):
    """A word of letters that are not English; also lone signs."""
    if rng.random() < 0.15:
        return "".join(rng.choice("!?#$%&*+=<>@^~|;:()[]") for _ in range(rng.randint(1, 6)))
    low, high = rng.choice(SCRIPTS)
    word = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))
    if low == 0xE0:
        word = "".join(c if rng.random() < 0.3 else rng.choice("abcdefghilmnoprstuvz") for c in word)
    return word


def fill_lists(rng, text):
    while "{" in text and "{ }" not in text:
        a, b = text.index("{"), text.index("}")
        name = text[a + 1:b]
        if name == "num":
            word = str(rng.choice([rng.randint(0, 20), rng.randint(0, 100), rng.randint(0, 9999)]))
        elif name == "pseudo":
            word = pseudo(rng) if rng.random() < 0.7 else scramble(rng)
        elif name == "foreign":
            word = foreign(rng)
        else:
            word = rng.choice(LIST[name])
            if rng.random() < 0.08 and name in ("country", "city", "person", "thing", "topic"):
                word = pseudo(rng).title() if word[0].isupper() else pseudo(rng)
        text = text[:a] + word + text[b + 1:]
    return text


STRANGE = tuple([t for t in half if "{pseudo}" in t or "{foreign}" in t] for half in OUTSIDE)


def outside(rng, kept):
    which = STRANGE if rng.random() < 0.2 else OUTSIDE
    ask = dress(rng, fill_lists(rng, pick(rng, which, kept)))
    return Turn("unknown", ask, DUNNO, ["I do not know"], ident="outside")


# ---- small talk --------------------------------------------------------------------------

PEOPLE = """Ann Ben Eva Tom Kim Max Lea Sam Mia Leo Ida Jan Amy Bob Tim Joe Liz Pam Ron Sue Ada Alan Grace
Linus Dennis Ken Brian Donald Edgar Barbara Margaret Karen Hana Yuki Wei Ming Priya Ravi Omar Fatima Ali
Sofia Elena Ivan Olga Pedro Maria Luis Carlos Anna Peter Paul Mary John James Emma Noah Oliver Lucas Nina
Oscar Felix Clara Hugo Alice Marta Simon David Sarah Laura Julia Robert Thomas Daniel""".split()

TALK = [
    ("hello", "Hello! Ask me about mlxcel, or ask for a story.", ["Hello"],
     """hello [|there|you|again|model|mlxcel|my friend]
hi [|there|you|again|model|mlxcel]
hey [|there|you|model]
good [morning|day|evening|afternoon] [|to you]
greetings
hallo
howdy
hiya
nice to [meet|see] you
[is anybody|is anyone|anybody|anyone] [there|here]
are you there
yo
[hello|hi|hey|good morning|good evening|good day], [how can you help|nice to see you|dear model|little model|computer|friend]
[hi|hello|hey] [everybody|all|folks|buddy|computer|bot|assistant]
[welcome|good to see you|pleased to meet you|salut|servus|moin|aloha|hola|bonjour|ciao|hello hello|hi hi|heya|hey hey]"""),
    ("how_are", "I am fine, thank you. What do you want to know about mlxcel?", ["fine"],
     """how are you [|today|doing|feeling|doing today]
how do you [do|feel]
how is it going
how's it going
are you [well|ok|fine|okay|good today]
what's up
how have you been
is everything [ok|fine|all right]
how are [things|things going|you these days|you now]
how [was|is] your [day|week|morning|evening]
how do you feel [today|now]
how have you been [lately|doing]
are you [doing well|doing fine|feeling well|feeling good]
what is [new|going on|happening]
you [ok|good|well|all right]
[is all|all] [well|good|fine] [|with you]"""),
    ("thanks", "You are welcome.", ["welcome"],
     """thanks [|a lot|so much|very much|for the help|for your help|for that|model]
thank you [|very much|so much|a lot|for the help|for your help|for that|for the answer]
many thanks
[that helped|that helps|that was helpful|you helped me] [|a lot|very much|, thanks|, thank you]
[great|perfect|nice|good|super], [thanks|thank you]
cheers
thx
thanks for [all|everything|your time|the answer|explaining|explaining that|nothing]
[thank|thanking] you for [all|everything|your time|the answer|explaining]
thank you [all|again|then|kindly|, model|, mlxcel|, that was good]
thanks [again|then|a bunch|a million|, that works|, that worked|, it works now|, I got it]
I [thank you|am grateful|owe you one]
much [obliged|appreciated]
[that was|this was|it was] [very|really|so] [useful|helpful|kind], thanks
thanks, that was [good|helpful|great|nice|kind]"""),
    ("bye", "Goodbye! Type /exit to leave the chat.", ["Goodbye"],
     """bye [|bye|for now|then]
goodbye [|model|for now|my friend]
good bye
see you [|later|soon|tomorrow|again]
good night
[I have to|I must|I need to] [go|leave] [|now]
[that is|that's] all [|for today|for now|, thanks|, bye]
[until|till] [tomorrow|next time]
farewell
I am [done|finished] [|for today|here]
[bye|goodbye|see you|good night|so long|take care|have a nice day|have a good day|ciao|adieu] [|, model|, mlxcel|my friend|and thanks]
[I am|I'm] [leaving|off|going|going home|going to bed] [|now|then]
[that was|this was] all [|I wanted|, thank you|I wanted to know]
talk to you [later|soon|tomorrow]
[thanks|thank you] and [bye|goodbye]"""),
    ("good", "Thank you, I am glad to help.", ["glad"],
     """[good|great|nice|excellent|perfect] [job|work|answer] [|, thanks]
well done
you are [great|good|nice|helpful|very helpful|the best|wonderful|cool|funny|cute]
[you're|you are] a [good|great|nice] [model|bot|assistant]
I like you
I love [you|mlxcel|it|this]
that [is|was] [great|good|very good|helpful|correct|right|true|perfect|nice]
[awesome|wonderful|fantastic|cool|brilliant|excellent|amazing|great|perfect|wow]
[very|so|really] [good|nice|helpful|cool]
bravo
you are [so|really|very] [good|nice|helpful|kind|smart|clever|funny|fast]
[what a|such a] [good|nice|great|helpful] [answer|model|bot|assistant]
I [like|love] [this|this answer|your answer|talking to you|that|it here]
[good|clever|nice] [bot|model|boy|girl|robot]"""),
    ("ok", "Good. What else do you want to know?", ["What else"],
     """ok [|then|good|I see]
okay [|then|good]
[yes|yeah|yep|sure|right|all right|alright|fine]
I see
[I understand|understood|got it|I got it|that is clear|clear|makes sense|I know that]
[no|nope|not now|no thanks|never mind|nothing]
hm
hmm
aha
oh
maybe
[ok|okay|fine|good|all right], [I understand|got it|I see|thanks, no more|let us go on|next]
[yes|no], [please|thank you|that is all right|of course]
[of course|certainly|indeed|exactly|correct|perhaps|I think so|I guess|go on|continue|next]
[I know|I knew that|that I know|good to know|interesting|nice to know]"""),
    ("sorry", "No problem.", ["No problem"],
     """[sorry|I am sorry|I'm sorry|my mistake|my fault|excuse me|pardon|pardon me|oops|my bad|forgive me]
sorry [about that|for that|for the question]
[I'm|I am] [so|very|really|truly] sorry
[sorry|oh sorry|so sorry|ok sorry], [my mistake|my fault|I was wrong|I did not mean that|that was me]
[I apologize|my apologies|apologies|please forgive me|do forgive me]
I did not mean [it|that|to be rude]"""),
    ("joke", "Why did the token feel safe? It was well cached.", ["cached"],
     """tell me a joke
[say|tell me] something funny
[do you know|have you got|can you tell me|give me|tell me] [a joke|a good joke|jokes|some joke|another joke|one more joke]
make me laugh
a joke
be funny
[I want to|I'd like to] hear a joke"""),
    ("bored", "Ask me for a story, for example: tell me a story about a fox.", ["story"],
     """[I am|I'm] [bored|so bored|tired|sad|lonely]
what [shall|can|should] we [do|talk about]
let us [talk|chat|play]
let's [talk|chat|play]
talk to me
say something
[entertain|surprise|amuse] me
tell me something [|nice|new|interesting]"""),
    ("bad", "I am sorry. I am tiny and can be wrong; please ask in other words.", ["sorry"],
     """you [did not|didn't|do not|don't] [understand|help|answer|help me|answer my question|listen]
that [is|was] not [what I asked|what I meant|helpful|an answer|my question|what I want]
that [did not|didn't|does not|doesn't] [help|work|answer my question]
[bad|wrong|strange|useless] answer
you are [useless|bad|wrong again|annoying|not helpful]
[I do not|I don't] [believe you|believe that|like you|like that|like this answer]
it does not work
nonsense
you are [not helpful|no help|of no use|terrible|awful|boring|stupid|annoying|silly]
[this is|that is] [useless|terrible|silly|nonsense|rubbish|not helpful|no help|not what I want]
you [do not|don't] [know much|know anything|get it|understand me|listen to me|make sense]
what a [bad|useless|stupid|silly] [answer|model|bot]
I [hate|dislike|do not like] [this|this answer|you]"""),
    ("test", "It works. Ask me about mlxcel.", ["It works"],
     """test
[testing|just a test|this is a test|only a test|a test|test test|testing, testing|one two three]
[does this work|does it work|do you work|can you hear me|can you read this|can you read me|is this on]
ping
[is it|is this thing|are you] [on|working|running]
[does this thing|does the chat|does the model|do things] work
[can you|do you] [see|read|hear|get] [this|me|my message|what I type]
[only|just] testing [|this|you|the chat]
[this is|it is] [just|only] a test
[hello world|foo|foo bar|abc|abc 123|123|asdf test]"""),
]
TALK = [(n, a, m, texts(block)) for n, a, m, block in TALK]

NAME_IS = texts("""
my name is {}
I am {}
I'm {}
[hello|hi|hey], I am {}
[hello|hi|hey], my name is {}
[hello|hi], I'm {}
call me {}
you can call me {}
[people|my friends] call me {}
this is {}
{} [here|is my name]
""")
NAME_ASK = texts("""
what is my name
what's my name
do you [know|remember] my name
who am I
tell me my name
what am I called
[say|repeat] my name
can you [say|tell me|remember] my name
""")


def small_talk(rng, kept):
    name, answer, must, pair = rng.choice(TALK)
    return Turn("talk", dress(rng, pick(rng, pair, kept), polite=False), answer, must, ident="talk_" + name)


def name_is(rng, kept, name=None):
    name = name or (rng.choice(PEOPLE) if rng.random() < 0.6 else pseudo(rng).title())
    ask = dress(rng, pick(rng, NAME_IS, kept).replace("{}", "{name}"), {"name": name}, polite=False)
    return Turn("talk", ask, f"Nice to meet you, {name}!", [name], ident="name_is")


def name_ask(rng, kept, name):
    ask = dress(rng, pick(rng, NAME_ASK, kept), polite=False)
    if name is None:
        return Turn("talk", ask, "I do not know your name. What is it?", ["I do not know your name"],
                    ident="name_unknown")
    return Turn("talk", ask, f"Your name is {name}.", [f"Your name is {name}"], ident="name_ask")


AGAIN = texts("""
[again|once more|one more time|say it again|say that again|repeat|repeat that|repeat it|repeat please]
[what|what?|sorry|pardon|excuse me|huh|come again|eh]
[what was|what is|what's] [that|the answer|your answer] [|again|once more]
[please|can you please|could you please|I want you to] [say it again|repeat|repeat the last answer|say that once more]
[tell me|say|write|show|print] [that|it|the answer|the last answer] [again|once more|one more time]
[I did not|I didn't|I could not|I couldn't] [understand that|hear that|read that|see that|catch that|follow]
[please|could you|can you] [repeat that|say that again|repeat the answer|repeat it]
[what do you mean|what did you say|what was that|pardon, what did you say|sorry, what]
[I did not get that|I missed that|I forgot it already|I didn't get that]
""")
EXAMPLE = texts("""
[give me|show me|can you give me|can you show me|I need|do you have] an example
[an example|example|examples|for example|such as|like what|example please|an example please]
[give|show|write|tell] me [one|an example|a full example|the full command|the whole command|a sample]
[is there|have you got|could I see|could you show me|I want|I would like|let me have] an example
[how|what] would I type [|then|exactly|there]
[what does|how does] [the whole|the full|the complete] command look [|like]
[what does it|how does it|how would it|how would that|what does that] look [|like]
[can I see|let me see] [an example|one]
[how exactly|how do I type it|what exactly do I type|show me the command|what is the exact command]
""")
FOLLOW = texts("""
and {}
what about {}
how about {}
and what about {}
and how about {}
{}
""")
