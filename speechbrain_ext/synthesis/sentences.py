"""English sentences of 4 to 7 words, generated from a small grammar.

The grammar and the word lists were written for this package. Content words
are dealt like cards, each once before any comes again, so that the sentences
of a grid have little in common and cover the sounds of English.
"""

import random
import re

from speechbrain_ext.utils.errors import InputError

# Regular plural and past unless given as "singular/plural", "base/past".
WORDS = {
    # Somebody or some animal
    "being": """actor aunt badger baker beetle boxer butcher camel captain
        carpenter chef cheetah child/children clown cobbler cousin cyclist
        dentist diver doctor dolphin donkey duchess engineer farmer father
        fisherman/fishermen fox gardener giant giraffe goat governor grandson
        guitarist hawk hedgehog hiker jeweller judge juggler king kitten
        lawyer lizard magpie mayor mechanic merchant monkey mother mouse/mice
        mule nephew nurse owl painter penguin pilot pirate plumber poet
        porcupine prince professor puppy queen rabbit sailor salmon scholar
        sculptor seagull shepherd singer soldier sparrow squirrel stranger
        student tailor teacher thief/thieves tiger toddler turtle uncle
        violinist vulture waiter walrus weaver wizard wolf/wolves
        woman/women worker zebra""",
    # Something to hold
    "thing": """anchor apple armchair balloon banjo basket bicycle biscuit
        blanket boat bottle bowl box bracelet brush bucket button cabbage cage
        candle carpet chain cheese clock coat coin compass cushion diary dish
        drum envelope fan feather flag flute fork garment glove guitar hammer
        hat helmet jar jug kettle key kite ladder lamp leaf/leaves lemon
        letter locket magnet map mask match melon mirror mug necklace needle
        notebook onion orange oven paddle parcel peach pear pebble pillow pipe
        pizza plate potato/potatoes pouch puzzle quilt radio ribbon ring rope
        ruler saddle sandal sausage scarf/scarves shawl shell shoe shovel
        shutter sofa spoon statue stool suitcase sword table teapot thimble
        thread toy tray treasure trumpet trunk umbrella vase vest voucher
        wagon watch wheel whistle wig wreath zipper""",
    # Somewhere
    "place": """airport alley arch attic bakery balcony barn beach bridge
        cabin castle cathedral cave cellar chapel church cinema cliff corridor
        cottage courtyard desert dock factory farm fence ferry fireplace
        forest fountain garage garden gate glacier harbour hedge hill
        hospital hotel house island kitchen lagoon lake library lighthouse
        market meadow mill mountain museum oak office orchard palace park
        pavement pond porch pyramid quarry railway ridge river road school
        shed shore stable stadium station street studio swamp temple theatre
        tower town tunnel valley village volcano wall waterfall yacht zoo""",
    "quality": """ancient angry awkward beautiful blue bold bright broken
        brown calm careful cheap cheerful clean clever cloudy cold crimson
        curious damp dark dirty dusty early elegant empty enormous faint
        famous fancy foolish fragile fresh friendly gentle golden green grey
        happy heavy hollow huge humble icy jolly lazy little lonely loud lucky
        massive muddy narrow noble noisy odd old orange pale patient perfect
        pink plain polite precious proud purple quick quiet rare rough round
        royal rusty scarlet shallow sharp shiny short shy silent silver simple
        sleepy slender smooth soft spotted square strange striped strong
        stubborn sturdy thick thin tiny tired tough ugly unusual usual vague
        violet warm weary white wide wild wooden worn yellow young""",
    # What one does to a thing
    "handle": """admire balance borrow break/broke bring/brought brush bury
        buy/bought carry catch/caught choose/chose clean collect cover crush
        decorate deliver describe destroy discover drag/dragged draw/drew
        drop/dropped exchange examine find/found finish fold forget/forgot
        guard hide/hid hold/held ignore inspect juggle keep/kept kick
        lend/lent lift lose/lost measure mend move notice offer open order
        own pack paint photograph pick polish pull push reach remember remove
        rent repair replace return scratch search sell/sold shake/shook share
        show smash squeeze steal/stole study throw/threw toss touch trade use
        value wash watch wave weigh wrap/wrapped""",
    # What a being does by itself
    "act": """appear argue arrive begin/began chatter cheer climb complain
        cough crawl cry dance disappear dream/dreamt exercise fall/fell frown
        gather giggle grin/grinned hesitate hum/hummed hurry jog/jogged jump
        kneel/knelt laugh leave/left listen march nod/nodded paddle pause play
        pray rest return rise/rose roar run/ran shiver shout sing/sang
        sit/sat skate sleep/slept smile sneeze speak/spoke stagger stand/stood
        stumble swim/swam tremble vanish wait wake/woke walk wander whisper
        work worry yawn yell""",
    # What a thing does
    "happen": """bounce burn collapse crack creak fade fall/fell float
        freeze/froze glitter glow hang/hung lie/lay lurch melt rattle roll rust
        shake/shook shine/shone sink/sank slide/slid smoulder sparkle
        spin/spun split/split squeak sway tumble vanish vibrate wobble""",
    "manner": """again alone already always anyway badly barely boldly bravely
        briefly calmly carefully cautiously daily easily eagerly elsewhere
        forever gently gladly gracefully gradually happily honestly instantly
        later lazily loudly nervously often once outdoors overnight patiently
        perfectly politely proudly quickly quietly rarely regularly rudely
        sadly safely seldom slowly smoothly softly somehow soon suddenly
        tightly today together tomorrow tonight twice upstairs urgently
        usually vaguely yearly yesterday""",
    "name": """Adam Agnes Alfred Amber Arthur Beatrice Boris Bridget Caroline
        Charles Chloe Claire Cuthbert Daisy Daphne Dennis Doris Edith Edward
        Eleanor Emma Ethan Faye Felix Florence George Gerald Gloria Grace Hazel
        Heather Henry Howard Hugo Irene Isaac Ivy Jack Janet Jasper Joy Joyce
        Judith Julia Keith Kevin Laura Leo Lewis Louise Lucy Mabel Margaret
        Martha Martin Matthew Maurice Megan Michael Nancy Neil Nigel Nora
        Olive Oscar Owen Paula Percy Peter Phoebe Quentin Rachel Ralph Robert
        Rosie Roy Ruby Russell Ruth Samuel Sarah Sheila Simon Stella Steven
        Susan Sylvia Theo Thomas Toby Ursula Valerie Vera Victor Violet Walter
        Wendy Yasmin Yvonne Zachary Zoe""",
    "number": """two three four five six seven eight nine ten eleven twelve
        thirteen fifteen twenty thirty forty fifty sixty eighty ninety both
        several many""",
    "owner": "my your his her our their this that every another",
    "where": """near behind beside below above around beyond by past under
        outside inside towards opposite across""",
    "ask": "why when where how",
}

# {kind} is a word as listed; ":s" makes it plural, ":ed" past.
PATTERNS = [
    "The {quality} {being} {handle:ed} {owner} {thing}.",
    "{name} {handle:ed} {number} {quality} {thing:s}.",
    "Did {name} {handle} the {quality} {thing}?",
    "{owner} {thing} {happen:ed} {where} the {place}.",
    "{number} {being:s} {act:ed} {manner}.",
    "Please {handle} {owner} {thing} {manner}.",
    "{name}'s {thing} {happen:ed} {where} a {quality} {place}.",
    "{owner} {being} never {handle:ed} the {thing}.",
    "{ask} did the {being} {handle} {name}'s {thing}?",
    "{quality} {being:s} {act:ed} {where} the {place}.",
    "{name} {act:ed} {where} {number} {place:s}.",
    "Will {name} {handle} {number} {thing:s} {manner}?",
    "{name} and the {being} {act:ed} {manner}.",
    "There were {number} {being:s} {where} the {place}.",
    "{owner} {place} is {quality} and {quality}.",
    "{handle} the {thing} {where} {owner} {place}.",
]
# These may come again at any time; sentences share at most one other word.
FUNCTION_KINDS = {"owner", "where", "ask", "number"}


def generate_sentences(n, seed=0):
    """Different short English sentences with few words in common.

    Arguments
    ---------
    n : int
        How many; a longer list begins with a shorter one of the same seed.
    seed : int
        Another seed gives other sentences.

    Returns
    -------
    list of str
        4 to 7 words each. Any two share at most one content word.

    Raises
    ------
    InputError
        If the word lists do not give so many.

    Example
    -------
    >>> sentences = generate_sentences(320, seed=1)
    >>> len(set(sentences)), sentences == generate_sentences(400, 1)[:320]
    (320, True)
    >>> sorted({len(sentence.split()) for sentence in sentences})
    [4, 5, 6, 7]
    """
    rng = random.Random(seed)
    lists = {kind: _entries(kind) for kind in WORDS}
    lists["pattern"] = PATTERNS
    decks = {kind: [] for kind in lists}

    def deal(kind):
        if not decks[kind]:
            decks[kind] = rng.sample(lists[kind], len(lists[kind]))
        return decks[kind].pop()

    sentences, pairs, failures = [], set(), 0
    while len(sentences) < n:
        sentence, words = _fill(deal("pattern"), deal)
        new = {(a, b) for a in words for b in words if a < b}
        if len(set(words)) < len(words) or new & pairs:
            failures += 1
            if failures > 1000:
                raise InputError(
                    f"{n} sentences were asked for, but the word lists give "
                    f"only about {len(sentences)} that differ enough"
                )
            continue
        failures = 0
        pairs |= new
        sentences.append(sentence)
    return sentences


def _entries(kind):
    """The words of a kind: "base" or "base/form"."""
    return WORDS[kind].split()


def _fill(pattern, deal):
    """A sentence, and the content words in it."""
    words = []

    def replace(match):
        kind, form = match["kind"], match["form"]
        entry = deal(kind)
        base, _, irregular = entry.partition("/")
        if kind not in FUNCTION_KINDS:
            words.append(base)
        if not form:
            return base
        return irregular or {"s": _plural, "ed": _past}[form](base)

    sentence = re.sub(r"{(?P<kind>\w+):?(?P<form>\w*)}", replace, pattern)
    sentence = re.sub(r"\ba (?=[aeio])", "an ", sentence)
    return sentence[0].upper() + sentence[1:], words


def _plural(noun):
    """The regular plural."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"


def _past(verb):
    """The regular past tense."""
    if verb.endswith("e"):
        return verb + "d"
    return re.sub(r"(?<=[^aeiou])y$", "i", verb) + "ed"
