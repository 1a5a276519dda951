"""`zoo cards`: what each concept seems to stand for, from where a teacher saw it in the training text (CoCoMix, sec. 3.2)."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zoo.cocomix.tally import Tally
from zoo.data.labels import WindowLabels
from zoo.data.store import TokenStore, locked
from zoo.files import put

CARDS, PAGE = "cards.json", "cards.md"
CELLS = 1 << 26  # concepts times token ids counted at a time: 256 MB
OFTEN, SHARE = 5, 0.01  # of a characteristic token: times it follows a concept, and of the concept's places
BEFORE, BEHIND = 24, 8  # tokens of a context around its place


@dataclass(frozen=True)
class Next:
    """A token that follows a concept `count` times, in this share of its places, which is `lift` times its share of all."""

    id: int
    text: str
    count: int
    share: float
    lift: float


@dataclass(frozen=True)
class Card:
    """A concept among the labels of the training text: places where it is one, their share of all, texts around some of them
    (those where it is the first label, the token at the place between « and »), and the tokens that come next.

    next: the most frequent ones. lifted: the characteristic ones, with the highest lift of those that are not rare there.
    """

    count: int
    share: float
    contexts: list[str]
    next: list[Next]
    lifted: list[Next]

    @property
    def lift(self) -> float:
        """How many times more often than elsewhere one of the characteristic tokens comes next; 0 without any."""
        elsewhere = sum(token.share / token.lift for token in self.lifted)
        return sum(token.share for token in self.lifted) / elsewhere if self.lifted else 0.0


class Cards:
    """The cards of all concepts that occur, by index; `about` says which labels they were counted from."""

    def __init__(self, about: dict, cards: dict[int, Card]):
        self.about, self.cards = about, cards

    @classmethod
    def load(cls, folder: str | os.PathLike, concepts: int | None = None) -> "Cards":
        """What `zoo cards` left in a folder. concepts: how many there must be in all.

        Raises FileNotFoundError or ValueError, in a sentence.
        """
        path = Path(folder) / CARDS
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            made = {int(name): _card(card) for name, card in found["concepts"].items()}
        except FileNotFoundError:
            raise FileNotFoundError(f"there are no cards in {folder}: `zoo cards {folder} -c RECIPE` makes them") from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged: delete it and run `zoo cards` again") from None
        if concepts is not None and found["about"]["concepts"] != concepts:
            raise ValueError(
                f"The cards in {folder} are of {found['about']['concepts']} concepts and the net has {concepts}: give the cards "
                "of the labels that it was trained on."
            )
        return cls(found["about"], made)

    def __getitem__(self, concept: int) -> Card:
        if concept not in self.cards:
            some = ", ".join(map(str, sorted(self.cards, key=lambda each: -self.cards[each].count)[:5]))
            raise ValueError(
                f"Concept {concept} has no card: it is no label of any window that was counted. "
                + (f"The most frequent are {some}." if some else "None is: count more windows.")
            )
        return self.cards[concept]

    def words(self, concept: int, count: int = 3) -> str:
        """A concept's most characteristic tokens, the most frequent ones where it has none."""
        card = self.cards.get(concept)
        tokens = (card.lifted or card.next)[:count] if card else []
        return " ".join(token.text for token in tokens) or "never a label"

    def page(self, concepts: Iterable[int]) -> str:
        """These concepts' cards in Markdown."""
        return "\n".join(_page(concept, self[concept]) for concept in concepts)


def shown(tokenizer, token: int) -> str:
    """One token's text in quotes; its number where it is part of a character only, or marks the end."""
    text = tokenizer.decode([token])
    if token == tokenizer.eos:
        return "<end>"
    return f"<{token}>" if not text or "\N{REPLACEMENT CHARACTER}" in text else json.dumps(text, ensure_ascii=False)


def make(
    labels: WindowLabels, store: TokenStore, tokenizer, windows: int | None = None, tokens: int = 10, contexts: int = 8
) -> Path:
    """Count, and write the cards into the folder of the labels; returns the file. Memory does not depend on the windows.

    labels, store: of the training split. windows: count at most so many, spread evenly. tokens, contexts: of each card.
    """
    tally = Tally(labels, store, windows, 2 * contexts)  # twice as many: the same text may stand in many places
    about = {**labels.about, "windows": len(tally.numbers), "places": tally.places}

    def write(draft: Path) -> None:
        with open(draft, "w", encoding="utf-8") as file:
            file.write('{"about": ' + json.dumps(about) + ',\n"concepts": {')
            for i, (concept, card) in enumerate(_cards(tally, tokenizer, tokens, contexts)):
                file.write(f'{"," if i else ""}\n"{concept}": {json.dumps(asdict(card), ensure_ascii=False)}')
            file.write("\n}}\n")

    put(labels.folder / CARDS, write)
    return labels.folder / CARDS


def prepared(folder: str | os.PathLike, data, concepts: int | None = None) -> Cards:
    """The cards in a folder of labels, made there where they are missing. data: the DataModule that the labels are of, set up.

    concepts: how many there must be in all. Raises as `WindowLabels` and `Cards.load` do.
    """
    labels = WindowLabels(folder, "train", {"corpus": data.fingerprint, "context": data.context})
    with locked(labels.folder / ".cards.lock"):
        if not (labels.folder / CARDS).exists():
            make(labels, data.stores["train"], data.tokenizer)
    return Cards.load(folder, concepts)


def _cards(tally: Tally, tokenizer, tokens: int, contexts: int) -> Iterator[tuple[int, Card]]:
    everywhere, step = tally.unigrams / max(tally.places, 1), max(1, CELLS // tally.vocab)
    for first in range(0, tally.concepts, step):
        stop = min(first + step, tally.concepts)
        for concept, row in enumerate(tally.following(first, stop), first):
            count = int(tally.counts[concept])
            if not count:
                continue
            ids = np.flatnonzero(row)
            times, lift = row[ids], row[ids] / count / everywhere[ids]
            often = np.flatnonzero(times >= max(OFTEN, SHARE * count))
            orders = np.lexsort((ids, -times)), often[np.lexsort((ids[often], -lift[often]))]  # of equals the lower id first
            lists = [
                [Next(token, shown(tokenizer, token), n, n / count, x) for token, n, x in _first(tokens, order, ids, times, lift)]
                for order in orders
            ]
            yield concept, Card(count, count / tally.places, _contexts(tally, tokenizer, tally.best[concept], contexts), *lists)


def _first(count: int, order: np.ndarray, *columns: np.ndarray) -> Iterator[tuple]:
    """The first rows of some columns in this order, as plain numbers."""
    return zip(*(column[order[:count]].tolist() for column in columns))


def _contexts(tally: Tally, tokenizer, places: np.ndarray, count: int) -> list[str]:
    """The texts around the first of these places, each once."""
    found: dict[str, None] = {}
    for place in places[places >= 0].tolist():
        begin = max(place - BEFORE, place - place % tally.context)  # the teacher saw no more than the window
        end = min(place + 1 + BEHIND, len(tally.store))
        tokens = tally.store.windows([begin], end - begin)[0].tolist()
        middle = place - begin
        parts = (tokens[:middle], tokens[middle : middle + 1], tokens[middle + 1 :])
        found.setdefault("{}«{}»{}".format(*map(tokenizer.decode, parts)))
        if len(found) == count:
            break
    return list(found)


def _card(entry: dict) -> Card:
    lists = {name: [Next(**token) for token in entry[name]] for name in ("next", "lifted")}
    return Card(entry["count"], entry["share"], entry["contexts"], **lists)


def _page(concept: int, card: Card) -> str:
    lines = [f"## Concept {concept}", "", f"A label in {card.count:,} places, {card.share:.3%} of all.", ""]
    for title, tokens in (("Characteristic next tokens", card.lifted), ("Most frequent next tokens", card.next)):
        lines += [f"| {title} | times | share | lift |", "| --- | ---: | ---: | ---: |"]
        # a bar would end the cell, even inside a code span
        lines += [f"| `{t.text}` | {t.count:,} | {t.share:.1%} | {t.lift:.3g} |".replace("`|`", "`\\|`") for t in tokens]
        lines.append("")
    lines += ["    " + context.replace("\n", "⏎").replace("\r", "") for context in card.contexts]
    return "\n".join([*lines, ""])


def main(words: list[str]) -> dict[str, float]:
    """`zoo cards LABELS -c RECIPE …`, or `zoo cards LABELS --show 3,7` where they are made."""
    rest = "All other words are of `zoo prepare`: recipe, overlays and settings whose data the labels are of."
    parser = argparse.ArgumentParser("zoo cards", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("labels", help="folder that `zoo prepare concepts` wrote; the cards are left in it")
    parser.add_argument("--windows", type=int, help="count at most so many of the labelled windows, spread evenly")
    parser.add_argument("--show", help=f"concepts, 3,7: print their cards, and write them to {PAGE} there")
    given, rest = parser.parse_known_args(words)
    if given.windows is not None and given.windows < 1:
        raise ValueError(f"--windows is at least 1, not {given.windows}.")
    if rest:
        from zoo.cli import main as lightning  # takes seconds

        data = lightning(["prepare", *rest]).datamodule
        data.setup()
        labels = WindowLabels(given.labels, "train", {"corpus": data.fingerprint, "context": data.context})
        with locked(labels.folder / ".cards.lock"):
            print(f"cards: {make(labels, data.stores['train'], data.tokenizer, given.windows)}", flush=True)
    cards = Cards.load(given.labels)
    characteristic = sum(bool(card.lifted) for card in cards.cards.values())
    print(
        f"  {len(cards.cards):,} of {cards.about['concepts']:,} concepts are labels in {cards.about['places']:,} places of the "
        f"training split; {characteristic:,} have characteristic next tokens"
    )
    if given.show:
        page = cards.page(_numbers(given.show))
        (Path(given.labels) / PAGE).write_text(page, encoding="utf-8")
        print(page)
    return {"concepts": float(len(cards.cards)), "characteristic": float(characteristic)}


def _numbers(text: str) -> Sequence[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--show takes numbers of concepts with commas between them, not {text!r}.") from None
