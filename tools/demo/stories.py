"""Short stories in simple English, grown from a small grammar, and the ways to ask for one.

A story has a hero of the kind that was asked for, a place, a wish or a trouble, a helper and an end."""
from grammar import dress
from world import PEOPLE, Turn, pick, pseudo, texts

ANIMALS = """cat dog fox bear mouse rabbit owl bird frog horse cow sheep duck pig hen goat lion tiger wolf
elephant monkey turtle snail bee ant butterfly fish whale dolphin penguin squirrel hedgehog deer donkey
crow robin swan goose spider ladybird seal otter badger beaver mole bat camel zebra giraffe panda kitten
puppy lamb dragon unicorn hippo rhino kangaroo koala parrot peacock pigeon eagle hawk falcon ostrich flamingo pelican seagull toad newt
lizard snake crocodile octopus crab shrimp lobster jellyfish starfish shark salmon trout eel worm beetle cricket
grasshopper dragonfly moth mosquito fly ladybug caterpillar centipede weasel ferret raccoon skunk moose elk bison
buffalo ox bull pony mule chicken rooster turkey chick lynx leopard cheetah jaguar hyena jackal coyote gorilla chimp
baboon lemur sloth armadillo anteater platypus walrus gnu gazelle antelope llama alpaca hamster rat gerbil chipmunk
shrew hare pheasant quail magpie sparrow swallow stork heron crane woodpecker cuckoo nightingale phoenix griffin
dinosaur mammoth""".split()
THINGS = """robot boat star cloud tree flower kite train car moon river mountain snowman teddy doll clock
lamp bell ball house lighthouse bridge rocket ship balloon book pencil drum windmill tractor computer
teapot candle scarecrow cup spoon fork plate table chair bed door window garden leaf rose stone cave cloud
rainbow shadow mirror violin guitar trumpet piano whistle puppet snowflake wagon sled wheel bicycle bus plane submarine
castle tower barn mill ladder broom basket bucket bottle box key coin ring crown hat boot sock scarf mitten button
needle thread pillow blanket lantern torch map letter stamp pen crayon paintbrush pumpkin apple pear cherry potato
carrot mushroom acorn nut cookie pie cake candy seed sunflower tulip oak island volcano comet planet satellite
telescope magnet battery printer phone camera""".split()
FOLK = """girl boy king queen prince princess farmer baker sailor wizard witch giant fairy knight teacher
pirate fisherman child grandmother grandfather painter gardener shepherd nurse doctor cook tailor miller hunter
soldier singer dancer clown judge student librarian postman driver pilot captain astronaut inventor merchant beggar
blacksmith carpenter musician poet scientist programmer engineer ghost elf dwarf troll mermaid monster hero thief""".split()
PLACES = ["in a green wood", "by the sea", "on a small farm", "in a quiet village", "near a big lake",
          "at the foot of a mountain", "in a little town", "by a river", "in an old garden",
          "on an island", "at the edge of the forest", "in a valley"]
MOODS = ["small", "little", "young", "kind", "shy", "clever", "brave", "curious", "quiet", "happy", "old"]
WOMEN = set("""Ann Eva Lea Mia Ida Amy Liz Pam Sue Ada Grace Barbara Margaret Karen Hana Yuki Priya Fatima Sofia
Elena Olga Maria Anna Mary Emma Nina Clara Alice Marta Sarah Laura Julia""".split())
SHE, HE, IT = ("she", "her"), ("he", "his"), ("it", "its")
FOOD = ["berries", "bread", "apples", "soup", "nuts", "cake", "honey", "pears", "plums", "cheese"]
LOST = ["a red ball", "a golden key", "a blue hat", "a shiny stone", "a warm scarf", "a silver bell",
        "a small drum", "a green ribbon", "an old map", "a yellow kite"]
FEAR = ["the dark", "the storm", "deep water", "the high hill", "loud sounds", "the long road"]
SKILL = ["to sing", "to swim", "to paint", "to dance", "to read", "to climb", "to whistle", "to count"]
WEATHER = ["One sunny morning", "One rainy day", "One cold evening", "One windy day", "One summer day",
           "One snowy morning", "One quiet night", "One warm afternoon"]

ASK = texts("""
tell me a story about {}
tell me a [short|little|nice|funny|good|small|bedtime] story about {}
tell a story about {}
tell us a story about {}
a story about {}
[write|make|invent|make up] [|me] a [story|short story|little story] about {}
can you tell me a [story|short story] about {}
could you tell [me|us] a story about {}
can you [write|make up] a story about {}
I want a [story|short story] about {}
I would like [a story|to hear a story] about {}
I want to hear a story about {}
[give me|let me hear|let's hear] a story about {}
do you know a story about {}
[story|short story] about {}
a [tale|fairy tale] about {}
tell me [a tale|a fairy tale] about {}
tell me about {} in a story
a [little|short|bedtime] story [with|about] {}
tell me a story with {}
""")
ASK_ANY = texts("""
tell me a story
tell me a [short|little|nice|funny|good|bedtime] story
tell a story
tell us a story
[a story|story|story time|a bedtime story|a short story]
[write|make up] [|me] a story
can you tell [|me] [a story|stories|another story]
I want [a story|another story|to hear a story]
[another|one more] story
do you know [a story|stories|any stories]
give me a story
""")


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def story(rng, hero):
    """Five to eight sentences."""
    name = rng.choice(PEOPLE)
    helper = rng.choice([a for a in ANIMALS if a != hero])
    place, mood, when = rng.choice(PLACES), rng.choice(MOODS), rng.choice(WEATHER)
    if hero in THINGS:
        he, his = IT
    elif hero in ("girl", "queen", "princess", "witch", "fairy", "grandmother"):
        name, (he, his) = rng.choice(sorted(WOMEN)), SHE
    elif hero in ("boy", "king", "prince", "wizard", "knight", "grandfather", "fisherman"):
        name, (he, his) = rng.choice([p for p in PEOPLE if p not in WOMEN]), HE
    else:
        he, his = SHE if name in WOMEN else HE
    He = he.capitalize()
    open_ = rng.choice([
        f"Once upon a time there was {article(mood)} {hero} named {name}.",
        f"{name} was {article(mood)} {hero} who lived {place}.",
        f"Once there lived {article(mood)} {hero} {place}. {his.capitalize()} name was {name}.",
        f"Long ago {article(mood)} {hero} called {name} lived {place}."])
    if "lived" not in open_:
        open_ += f" {He} lived {place}."
    plot = rng.randrange(6)
    if plot == 0:
        thing = rng.choice(LOST)
        the = "the " + thing.split(" ", 1)[1]
        body = (f" {when} {name} lost {thing}. {He} looked everywhere but could not find it, and {he} was sad. "
                f"Then {article(helper)} came along. \"I will help you,\" said the {helper}. Together they found "
                f"{the} {rng.choice(['under a leaf', 'behind a stone', 'in the grass', 'near the well', 'under a tree'])}.")
    elif plot == 1:
        fear = rng.choice(FEAR)
        body = (f" {name} was afraid of {fear}. {when} a friend, the {helper}, called for help. {name} took a deep "
                f"breath and went to help the {helper}. After that the {hero} was not afraid of {fear} any more.")
    elif plot == 2:
        food = rng.choice(FOOD)
        body = (f" {when} {name} had a basket of {food}. On the way {he} met a hungry {helper}. {name} gave half of "
                f"the {food} to the {helper}. They ate together and laughed until the sun went down.")
    elif plot == 3:
        skill = rng.choice(SKILL)
        body = (f" {name} wanted to learn {skill}. At first it was hard, and {he} almost gave up. But {article(helper)} "
                f"said, \"Try once more.\" {name} tried every day, and soon the {hero} could do it well.")
    elif plot == 4:
        body = (f" {name} had no friends and felt alone. {when} {he} heard a small voice. It was {article(helper)} who "
                f"had lost the way. {name} showed the {helper} the way home, and from that day they were friends.")
    else:
        body = (f" {when} a strong wind blew, and the house of the {helper} fell down. \"You can stay with me,\" said "
                f"{name}. The next day the {hero} and the {helper} built a new house. It was better than the old one.")
    end = rng.choice([
        f" {name} was very happy.", f" That night {name} slept well.",
        f" And {name} smiled for a long time.", " They stayed friends for ever.",
        f" From then on everybody loved the {hero}.", f" {name} never forgot that day."])
    return open_ + body + end


def story_turn(rng, kept, hero=None):
    if hero is None and rng.random() < 0.2:
        hero = rng.choice(ANIMALS + FOLK)
        return Turn("story", dress(rng, pick(rng, ASK_ANY, kept)), story(rng, hero), ["."], ident="story_any")
    if hero is None:
        how = rng.random()
        hero = rng.choice(ANIMALS if how < 0.5 else THINGS if how < 0.75 else FOLK)
        if rng.random() < 0.25:              # so that a word never met is copied
            hero = pseudo(rng, 1, 3)
    noun = article(rng.choice(["", "", "", rng.choice(MOODS) + " "]) + hero)
    if rng.random() < 0.06:
        noun = "the " + hero
    ask = dress(rng, pick(rng, ASK, kept).replace("{}", noun))
    return Turn("story", ask, story(rng, hero), [hero], ident="story")
