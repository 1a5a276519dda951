"""Sentences of a corpus as a corpus of their own, so that a token store can hold them."""

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from zoo.data.pieces import sample_hash
from zoo.data.segment import LANG, Segmenter
from zoo.data.sources import Document, Files, Source, digest, identity, split_of
from zoo.sonar.tokens import EOS, MODEL, Tokenizer


class Sentences(Source):
    """The sentences of a source, a document each; a sentence belongs to the split of the document it comes from.

    Args:
        corpus: a source of documents.
        segmenter: (text, lang) -> its sentences; one of `zoo.data.segment`.
        lang: of the text.
        shortest, longest: characters; other sentences are left out.
        lettered: share of the characters that must be letters or spaces, which keeps tables and formulas out.
    """

    def __init__(
        self, corpus: Source, segmenter: Segmenter, lang: str = LANG, shortest: int = 8, longest: int = 100, lettered: float = 0.8
    ):
        if not 1 <= shortest <= longest:
            raise ValueError(f"no sentence has between {shortest} and {longest} characters: give shortest <= longest.")
        self.corpus, self.segmenter, self.lang = corpus, segmenter, lang
        self.shortest, self.longest, self.lettered = shortest, longest, lettered

    @property
    def description(self) -> str:
        kept = f", at least {self.lettered:.0%} of them letters or spaces," if self.lettered else ""
        return f"sentences of {self.shortest} to {self.longest} characters{kept} of {self.corpus.description}"

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.corpus.fingerprint, self.segmenter.fingerprint, self.lang, self.shortest, self.longest, self.lettered)

    def parts(self) -> list:
        return self.corpus.parts()

    def read(self, part, split: str | None = None) -> Iterator[Document]:
        """Sentences of a part, or those of one split: the documents of others are not cut up."""
        for document in self.corpus.read(part):
            if split in (None, document.split):
                for sentence in self.of(document.text):
                    yield Document(sentence, identity(sentence), document.split)

    def documents(self, split: str | None = None) -> Iterator[Document]:
        for part in self.parts():
            yield from self.read(part, split)

    def apart(self) -> list["Sentences"]:
        """The same of each source that is joined in its corpus, in their order."""
        sources = self.corpus.sources if isinstance(self.corpus, Joined) else [self.corpus]
        return [Sentences(one, self.segmenter, self.lang, self.shortest, self.longest, self.lettered) for one in sources]

    def of(self, text: str) -> Iterator[str]:
        """The sentences of a text that are kept; white space inside them is one space."""
        for sentence in self.segmenter(text, self.lang):
            sentence = " ".join(sentence.split())
            if self.shortest <= len(sentence) <= self.longest:
                if sum(c.isalpha() or c == " " for c in sentence) >= self.lettered * len(sentence):
                    yield sentence


class Translated(Source):
    """The same sentences in another language, in the same order and the same splits. translate: text -> text, with a
    `fingerprint`."""

    def __init__(self, corpus: Sentences, translate: Callable[[str], str]):
        self.corpus, self.translate = corpus, translate

    @property
    def description(self) -> str:
        return f"{self.corpus.description}, in {self.translate.lang}"

    @property
    def fingerprint(self) -> str:
        return digest(self.corpus.fingerprint, self.translate.fingerprint)

    def parts(self) -> list:
        return self.corpus.parts()

    def read(self, part) -> Iterator[Document]:
        for document in self.corpus.read(part):
            yield document._replace(text=self.translate(document.text))


class Pairs(Source):
    """One side of aligned sentences in files of JSON lines (.gz too), whose rows hold `eng`, `text`, and `lang` of the latter.

    files: paths or globs. column: the side. Which split a pair belongs to is decided by its English.
    Raises FileNotFoundError or ValueError, in a sentence, for files that are missing or hold something else.
    """

    def __init__(self, files: list[str], column: str = "eng", validation: float = 0.01, test: float = 0.01):
        self.files, self.column, self.validation, self.test = Files(files), column, validation, test

    @property
    def other(self) -> "Pairs":
        """The other side."""
        column = "text" if self.column == "eng" else "eng"
        return Pairs(self.files.patterns, column, self.validation, self.test)

    @property
    def description(self) -> str:
        return f"aligned sentences of {self.files.description}"

    @property
    def fingerprint(self) -> str:
        return digest("pairs", self.column, self.validation, self.test, [sample_hash(path) for path in self.files.paths])

    def parts(self) -> list[str]:
        return self.files.paths

    def read(self, part: str) -> Iterator[Document]:
        for row in self.aligned(part):
            id = identity(row["eng"])
            yield Document(" ".join(row[self.column].split()), id, split_of(id, self.validation, self.test))

    def aligned(self, path: str) -> Iterator[dict[str, str]]:
        """The rows of a file."""
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    good = all(row[name].strip() for name in ("eng", "text", "lang"))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise ValueError(f"{path}, line {number}, is no row with texts in eng, text and lang: correct it.") from None
                if good:
                    yield row

    def languages(self, split: str) -> list[str]:
        """Language of each pair of a split, in the order of the documents."""
        rows = (row for path in self.parts() for row in self.aligned(path))
        return [row["lang"] for row in rows if split_of(identity(row["eng"]), self.validation, self.test) == split]

    @cached_property
    def langs(self) -> list[str]:
        """The languages, sorted."""
        return sorted({row["lang"] for path in self.parts() for row in self.aligned(path)})

    def __len__(self) -> int:
        return sum(1 for path in self.parts() for _ in self.aligned(path))


class Joined(Source):
    """Several sources, one behind the other."""

    def __init__(self, sources: list[Source]):
        self.sources = sources

    @property
    def description(self) -> str:
        return " and ".join(source.description for source in self.sources)

    @property
    def fingerprint(self) -> str:
        return digest("joined", [source.fingerprint for source in self.sources])

    def parts(self) -> list[tuple[int, object]]:
        return [(i, part) for i, source in enumerate(self.sources) for part in source.parts()]

    def read(self, part: tuple[int, object]) -> Iterator[Document]:
        return self.sources[part[0]].read(part[1])


class Pieces:
    """SONAR's tokenizer as a token store wants it: the pieces of a sentence, without language, an end after each.

    Raises what `zoo.sonar.tokens.Tokenizer` raises.
    """

    eos = EOS

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.vocab, self.fingerprint = tokenizer, tokenizer.vocab, tokenizer.fingerprint

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Ids of each sentence, (pieces,)."""
        return [np.array(ids[1:-1], np.int64) for ids in self.tokenizer.encode(list(texts))]

    def save(self, folder: str | os.PathLike) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(Path(folder) / MODEL)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """utf-8 bytes that each id stands for, (vocab,) int64; a word's first piece holds the space before it."""
        pieces = self.tokenizer.pieces
        sizes = np.zeros(self.vocab, np.int64)
        for i in range(len(pieces)):
            if not (pieces.is_control(i) or pieces.is_unknown(i)):
                sizes[i + 1] = 1 if pieces.is_byte(i) else len(pieces.id_to_piece(i).replace("▁", " ").encode())
        return sizes


class Cipher:
    """A made-up second language, for code paths that need two: English whose words are spelled backwards in Cyrillic letters.

    Each Latin letter has one of its own, vowels have vowels; word order, digits, a capital at the front and punctuation stay. It
    says nothing about a real language.
    """

    fingerprint = digest("cipher", 1)
    lang = "cipher"

    def __init__(self) -> None:
        vowels, consonants = "aeiouy", "bcdfghjklmnpqrstvwxz"
        self.letters = dict(zip(vowels[3:] + vowels[:3] + consonants[7:] + consonants[:7], "аеиоуыбвгджзклмнпрстфхцчшщ"))

    def __call__(self, text: str) -> str:
        """The text in cipher."""
        out, word = [], []
        for char in text + "\0":
            if char.isascii() and char.isalpha():
                word.append(char)
                continue
            if word:
                spelled = "".join(self.letters[c.lower()] for c in reversed(word))
                out.append(spelled.capitalize() if word[0].isupper() else spelled)
                word = []
            out.append(char)
        return "".join(out)[:-1]
