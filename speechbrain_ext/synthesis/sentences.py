"""English sentences of 4 to 7 words, generated from a small grammar.

The grammar and the word lists in ``data/english_grammar.yaml`` were written for
this package. Content words are dealt like cards, each once before any comes
again, so that the sentences of a grid have little in common and cover the
sounds of English.
"""

import random
import re
from pathlib import Path

import yaml

from speechbrain_ext.utils.errors import InputError

GRAMMAR = yaml.safe_load(
    (Path(__file__).parent / "data/english_grammar.yaml").read_text("utf-8")
)
WORDS = {kind: words.split() for kind, words in GRAMMAR["words"].items()}
PATTERNS = GRAMMAR["patterns"]
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
    lists = WORDS | {"pattern": PATTERNS}
    decks = {kind: [] for kind in lists}

    def deal(kind):
        """The next word of a kind."""
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


def _fill(pattern, deal):
    """A sentence, and the content words in it."""
    words = []

    def replace(match):
        """The word in its form that stands for {kind:form}."""
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
