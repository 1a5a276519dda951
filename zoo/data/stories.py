"""`Stories`: short stories told from templates, for sentence models: what comes next is partly bound to come and partly chance.

    python -m zoo.data.stories --documents 20000 > stories.jsonl

A story is about one character with a goal, who gets into trouble and out of it again: opening, goal, preparation, steps in their
order, trouble and its own remedy, what came of it. Character, friend, pet, place, tools and topic are the same all through. What
is said at a place, who it is about and what goes wrong are drawn.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import NamedTuple, TypeVar

from zoo.data import story_words as words
from zoo.data.sources import Document, Source, digest, identity, split_of
from zoo.data.story_crafts import CRAFTS
from zoo.data.story_outdoors import OUTDOORS
from zoo.data.story_templates import BEGINNINGS
from zoo.data.story_topics import Topic, a, doing, head
from zoo.data.story_turns import TURNS

VERSION = 1  # of how a story is put together; the words themselves are in the fingerprint
BLOCK = 1000  # stories of a part
TOPICS = CRAFTS + OUTDOORS
TEMPLATES = {place: text.strip().split("\n") for place, text in (BEGINNINGS | TURNS).items()}
ONCE = ("{time}", "{later}", "{why}", "{sky}", "{prize}", "{idea}")  # slots that a story fills once
T = TypeVar("T")


class Slot(NamedTuple):
    """A place of a story: templates of this name, if the story has others of `needs`; how likely it is to be told; 0: always."""

    name: str
    weight: float = 0.0
    needs: str = ""


PLAN = (
    Slot("opening"), Slot("about", 0.5), Slot("season", 0.6), Slot("goal"), Slot("reason", 0.9), Slot("friend", 3.0),
    Slot("talk", 1.0, "friend"), Slot("expert", 0.6), Slot("place", 0.9), Slot("needs", 1.0), Slot("first", 1.2),
    Slot("step", 1.2), Slot("detail", 0.6), Slot("pet", 0.5), Slot("step", 1.0), Slot("trouble"), Slot("sad", 1.0),
    Slot("comfort", 0.7, "friend"), Slot("think", 0.8), Slot("remedy"), Slot("relief", 0.8), Slot("step", 0.8),
    Slot("pet_again", 0.5, "pet"), Slot("trouble", 0.4), Slot("remedy", 0.0, "second trouble"), Slot("step", 0.6), Slot("done"),
    Slot("end", 1.2), Slot("reaction", 0.9, "friend"), Slot("gift", 0.7), Slot("closing", 1.5),
)  # fmt: skip
AGAIN = 23  # of the second trouble in PLAN, whose remedy comes with it
ALWAYS = tuple(i for i, slot in enumerate(PLAN) if not slot.weight and not slot.needs)
SHORTEST, LONGEST = 5, 20


class Draw:
    """Chance of one story, the same on every machine and Python: all of it comes from `random.random`."""

    def __init__(self, *key: object):
        self.random = random.Random(" ".join(map(str, key))).random

    def one(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Different ones, in random order."""
        return sorted(options, key=lambda _: self.random())[:count]


@cache
def listed(text: str) -> list[str]:
    return text.split("; " if ";" in text else ", ")


class Story:
    """One story: who and what it is about, and its sentences."""

    def __init__(self, seed: int, number: int):
        self.draw = Draw("stories", seed, number)
        self.topic: Topic = self.draw.one(TOPICS)
        self.fixed = self._cast() | self._set()
        self.told: set[str] = set()  # templates, and slots of ONCE

    def _cast(self) -> dict[str, str]:
        one, girl = self.draw.one, self.draw.random() < 0.5
        sex, other = ("girl", "boy") if girl else ("boy", "girl")
        names = {"girl": listed(words.GIRLS), "boy": listed(words.BOYS)}
        he, him, his, himself = listed(words.PRONOUNS[sex])
        she, _, her, _ = listed(words.PRONOUNS[other])
        trait = one(listed(words.TRAITS))
        return {
            "name": one(names[sex]), "he": he, "him": him, "his": his, "himself": himself, "trait": trait, "a_trait": a(trait),
            "person": one(listed(words.PEOPLE)).split("/")[0 if girl else 1], "habit": one(listed(words.HABITS)),
            "friend": one(names[other]), "she": she, "her": her, "kin": one(listed(words.KIN[other])),
            "pet": one(listed(words.PET_NAMES)), "kind": one(listed(words.PETS)),
        }  # fmt: skip

    def _set(self) -> dict[str, str]:
        one, lists = self.draw.one, self.topic.lists
        verb, past = self.topic.verb.split()
        thing, season = one(lists["things"]), one(list(words.SEASONS))
        return {
            "town": one(listed(words.TOWNS)), "season": season, "sky": one(listed(words.SEASONS[season])),
            "receiver": one(listed(words.RECEIVERS)), "event": one(listed(words.EVENTS)), "days": one(listed(words.DAYS)),
            "goal": f"{verb} {a(thing)}", "did": f"{past} {a(thing)}", "doing": f"{doing(verb)} {a(thing)}", "head": head(thing),
            "place": one(lists["places"]), "expert": one(lists["people"]),
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """Between SHORTEST and LONGEST of them."""
        draw, lists = self.draw, self.topic.lists
        plan = self._plan(SHORTEST + int(draw.random() * (LONGEST - SHORTEST + 1)))
        self.present = {PLAN[i].name for i in plan}
        more = sorted(draw.some(range(1, len(lists["steps"])), sum(PLAN[i].name == "step" for i in plan)))
        steps = [0, *more] if "first" in self.present else more
        troubles = draw.some(lists["troubles"], 2)
        self.tools, self.needs = draw.some(lists["tools"], 2), draw.some(lists["needs"], 3)
        found, met = [], False
        for i in plan:
            name, own = PLAN[i].name, {}
            met |= name == "friend"
            if name in ("first", "step"):
                own["step"] = lists["steps"][steps.pop(0)]
                name = "together" if name == "step" and met and draw.random() < 0.35 else name
            elif name in ("trouble", "remedy"):
                own["trouble"], own["remedy"] = troubles[0].split(": ")
                troubles = troubles[name == "remedy" :]
            elif name in ("done", "end", "detail"):
                own[name] = draw.one(
                    [text for text in lists[{"end": "ends", "detail": "details"}.get(name, name)] if self._fits(text)]
                )
            found.append(self._said(name, own))
        return found

    def _plan(self, count: int) -> list[int]:
        """Places in PLAN of a story of so many sentences."""
        chosen = set(ALWAYS)
        order = sorted(
            (i for i, slot in enumerate(PLAN) if slot.weight),
            key=lambda i: self.draw.random() ** (1 / PLAN[i].weight),
            reverse=True,
        )
        for i in order:
            more = {i, i + 1} if i == AGAIN else {i}
            needed = PLAN[i].needs
            if needed and needed not in (PLAN[j].name for j in chosen):
                more.add(next(j for j, slot in enumerate(PLAN) if slot.name == needed))
            if len(chosen | more) <= count:
                chosen |= more
        return sorted(chosen)

    def _fits(self, text: str) -> bool:
        """Whether those whom a text names are in the story, and what it fills once is not told yet."""
        if "friend" not in self.present and ("{friend}" in text or {"they", "them", "their"} & set(text.split())):
            return False
        return not any(slot in text and slot in self.told for slot in ONCE)

    def _said(self, name: str, own: dict[str, str]) -> str:
        left = [text for text in TEMPLATES[name] if text not in self.told and self._fits(text)]
        template = self.draw.one(left)
        self.told |= {template, *(slot for slot in ONCE if slot in template)}
        one, tool = self.draw.one, self.draw.one(self.tools)
        needs = self.draw.some(self.needs, 2)
        drawn = {
            "time": one(listed(words.TIMES)), "later": one(listed(words.LATER)), "glad": one(listed(words.GLAD)),
            "sad": one(listed(words.SAD)), "how": one(listed(words.HOW)), "prize": one(listed(words.PRIZES)),
            "tool": tool, "a_tool": a(tool), "needs": needs[0], "more": needs[1], "why": one(listed(words.WHY)),
            "idea": one(listed(words.IDEAS)),
        }  # fmt: skip
        text, slots = template, self.fixed | drawn | own
        while "{" in text:  # what fills a slot may have slots
            text = text.format_map(slots)
        return text[0].upper() + text[1:]


class Stories(Source):
    """Stories told from templates; story i is a pure function of (seed, i), whatever `documents` is.

    Args:
        documents: how many.
        seed: of all that is drawn.
        validation, test: share of the stories held out by the hash of their text.
    """

    def __init__(self, documents: int = 20_000, seed: int = 0, validation: float = 0.05, test: float = 0.05):
        if documents < 1:
            raise ValueError(f"data.documents is {documents}: there is at least one story.")
        self.count, self.seed, self.validation, self.test = documents, seed, validation, test

    @property
    def description(self) -> str:
        return f"{self.count:,} stories told from templates"

    @cached_property
    def fingerprint(self) -> str:
        lists = {name: value for name, value in vars(words).items() if name.isupper()}
        content = [TEMPLATES, lists, [[topic.verb, topic.lists] for topic in TOPICS], [list(slot) for slot in PLAN]]
        return digest("stories", VERSION, content, self.count, self.seed, self.validation, self.test)

    def parts(self) -> list[tuple[int, int]]:
        """(first story, the one after the last)"""
        return [(first, min(first + BLOCK, self.count)) for first in range(0, self.count, BLOCK)]

    def read(self, part: tuple[int, int]) -> Iterator[Document]:
        for number in range(*part):
            text = " ".join(Story(self.seed, number).sentences())
            id = identity(text)
            yield Document(text, id, split_of(id, self.validation, self.test))


def main(args: list[str] | None = None) -> None:
    """Print stories as rows of .jsonl, which `source: files` reads."""
    parser = argparse.ArgumentParser(prog="zoo.data.stories", description="Stories, a row of JSON each.")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(args)
    for document in Stories(given.documents, given.seed).documents():
        print(json.dumps({"text": document.text}))


if __name__ == "__main__":
    main()
