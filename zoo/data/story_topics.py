"""What a topic of stories holds, and the parts of a clause that follow from it."""

from dataclasses import dataclass
from functools import cached_property

VOWELS = tuple("aeiou")
AN, A = ("hour", "honest"), ("one", "use", "uni", "ukulele")  # heard otherwise than spelt
DOUBLED = ("win", "plan", "stop", "dig", "run", "cut", "swim", "knit", "program")


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    vowel = noun.startswith(AN) or (noun.startswith(VOWELS) and not noun.startswith(A))
    return f"{'an' if vowel else 'a'} {noun}"


def doing(verb: str) -> str:
    """bake -> baking"""
    if verb in DOUBLED:
        return f"{verb}{verb[-1]}ing"
    return f"{verb[:-1] if verb.endswith('e') and not verb.endswith('ee') else verb}ing"


def head(noun: str) -> str:
    """What is meant by "it": the last word, or that before an "of"; cherry pie -> pie, bowl of fruit -> bowl."""
    return noun.partition(" of ")[0].split()[-1]


@dataclass(frozen=True)
class Topic:
    """One thing that people set out to do, and all that belongs to it, as lists in text.

    verb: base and past form. things: what it is done to, singular. needs: plural, or without one, after "some". tools, people:
    singular. places: with their preposition. steps: predicates in the past, in the order in which they are taken. troubles: what
    goes wrong, and after a colon the predicate of who puts it right. done, ends, details: clauses, with {head}, {friend} and {he}
    to be filled in.
    """

    verb: str
    things: str
    needs: str
    tools: str
    places: str
    people: str
    steps: str
    troubles: str
    done: str
    ends: str
    details: str

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """Each field as a list; a trouble is "clause: remedy"."""
        commas = ("things", "needs", "tools", "places", "people", "steps")
        found = {name: getattr(self, name).split(", ") for name in commas}
        return found | {name: getattr(self, name).split("; ") for name in ("troubles", "done", "ends", "details")}
