"""Decontamination: a document that shares 13 words in a row with a benchmark is not trained on."""

import re
from collections.abc import Iterable, Iterator

from zoo.data.pieces import Piece, json_lines

LENGTH = 13  # words, as in GPT-3 (arXiv 2005.14165, appendix C)
STRIDE, PROBE = 10, LENGTH - 10 + 1  # any 13 words in a row hold 4 in a row that start at a multiple of 10


def words(text: str) -> list[str]:
    """Lower-cased words and identifiers; numbers are skipped, since tables of them would match by chance."""
    return re.findall(r"[^\W\d]\w*", text.lower())


def ngrams(paths: Iterable[str]) -> set[str]:
    """Every 4 and every 13 words in a row of any string in JSON lines."""
    found = set()
    for path in paths:
        for row, _ in json_lines(Piece(path, 0, None)):
            for text in _strings(row):
                tokens = words(text)
                for length in (PROBE, LENGTH):
                    found.update(" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1))
    return found


def overlaps(text: str, grams: set[str]) -> bool:
    """Whether a text shares 13 words in a row with what `grams` was made of. Looks at every 10th word, and around it where the 4
    words from there on are known."""
    tokens = words(text)
    return any(
        " ".join(tokens[start : start + LENGTH]) in grams
        for probe in range(0, len(tokens), STRIDE)
        if " ".join(tokens[probe : probe + PROBE]) in grams
        for start in range(max(probe - STRIDE + 1, 0), min(probe, len(tokens) - LENGTH) + 1)
    )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
