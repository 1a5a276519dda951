"""Sentences of a document: segmenters, the cap on their length, and the clean-up around both.

A segmenter is any object with `fingerprint` and `segmenter(text, lang) -> list[str]` that pickles: `Sentencex`, `SpaCy`, `SaT`,
or `zoo.data.boundaries.Boundaries`, which is trained here. `Capped` puts a limit on the length of a sentence (LCM, arXiv
2412.08821, §2.2) and `Cleaned` removes what no sentence encoder should see; both are segmenters again. Pieces keep every
character of the text but the white space between them; only `Cleaned` removes more.
"""

import importlib
import importlib.metadata
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from zoo.data.language import LANG, UNSPACED, short
from zoo.data.pieces import sample_hash
from zoo.data.sources import digest
from zoo.explain import Told

_MARKS = {  # ASCII marks count before white space only (3.5, 12:30); those of other scripts stand alone
    "...": "(?:…|\\.\\.\\.)",
    "!": "(?:![\"'”’)\\]]*(?=\\s)|！)",
    "?": "(?:\\?[\"'”’)\\]]*(?=\\s)|[？؟፧՞])",
    ";": "(?:;(?=\\s)|[；؛])",
    ":": "(?::(?=\\s)|：)",
    ".": "(?:\\.[\"'”’)\\]]*(?=\\s)|[。．｡।॥۔።။។།։])",
    ",": "(?:,(?=\\s)|[，、､،፣၊])",
}
# orders of LCM's released code: for models with probabilities, and for its rule-based path
AFTER_MODELS = (_MARKS["..."], "\n", *(_MARKS[mark] for mark in "!?;:.,"), "\t", "[\\s፡་\u200b]")
AFTER_RULES = (*(_MARKS[mark] for mark in (".", "!", "?", "...")), "\n", *(_MARKS[mark] for mark in ";,:"), ">", "[\\s፡་\u200b]")

EMOJI = re.compile(
    "(?:[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\U0001f000-\U0001f0ff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]"
    "[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f\u20e3\U000e0020-\U000e007f]*\u200d?|[\ufe0f\u20e3])+"
)
GLUED = re.compile(r"[^\s.,;:!?…)\]}]")  # what needs a space before it where an emoji was
WRAPPED = 50, 100  # characters of most lines of hard-wrapped text


class Segmenter(Protocol):
    """What cuts text into sentences. `fingerprint`: hexadecimal, a pure function of what decides where it cuts."""

    fingerprint: str

    def __call__(self, text: str, lang: str = LANG) -> list[str]: ...


class Sentencex:
    """Wikimedia's rules for some 50 languages, with fallbacks for all others; the default, at tens of MB/s."""

    @property
    def fingerprint(self) -> str:
        return digest("sentencex", installed("sentencex"))

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        return _stripped(package("sentencex").segment(short(lang), text))


class SpaCy:
    """spaCy's rule-based sentencizer, the rule-based segmenter of LCM §2.2. A language that spaCy lacks takes its general
    tokenizer, one written without spaces its tokenizer by characters (their own need further packages)."""

    @property
    def fingerprint(self) -> str:
        return digest("spacy sentencizer", installed("spacy"))

    def __init__(self):
        self._pipes: dict = {}

    def __getstate__(self) -> dict:
        return {"_pipes": {}}

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        pipe = self._pipe("zh" if short(lang) in UNSPACED else short(lang))
        with pipe.memory_zone():  # else its vocabulary grows with the corpus
            return _stripped([sentence.text for sentence in pipe(text).sents])

    def _pipe(self, lang: str):
        if lang not in self._pipes:
            spacy = package("spacy")
            try:
                pipe = spacy.blank(lang)
            except ImportError:  # no such language, or one whose tokenizer is a package of its own
                pipe = spacy.blank("xx")
            pipe.add_pipe("sentencizer")
            pipe.max_length = 1 << 40  # the limit is for parsers
            self._pipes[lang] = pipe
        return self._pipes[lang]


class SaT:
    """Segment any Text (Frohmann et al. 2024) by wtpsplit: the probability that a sentence ends after each character.

    Args:
        model: a name ("sat-3l", "sat-6l", "sat-12l-sm", fetched from the hub) or the folder of a saved one.
        threshold: a sentence ends where the probability is higher. LCM's released code has 0.01, 0.02, 0.2 (its Wikipedia
            script, with sat-3l) and 0.6, so no value is the paper's.
        tokenizer: a hub name or a folder; None takes the model's folder if it holds one, else XLM-R's.
        device: where the network runs, "auto" is a GPU where the process has one; not part of the fingerprint.
        shortest: characters; a shorter text is kept whole (LCM's released code: 10).

    Raises RuntimeError in a sentence when the weights cannot be had.
    """

    def __init__(
        self,
        model: str = "sat-3l",
        threshold: float = 0.2,
        tokenizer: str | None = None,
        device: str = "auto",
        shortest: int = 0,
    ):
        self.model, self.threshold, self.tokenizer, self.device, self.shortest = model, threshold, tokenizer, device, shortest
        self._sat = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_sat": None}

    @property
    def fingerprint(self) -> str:
        folder = Path(self.model).expanduser()
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        weights = list(map(sample_hash, map(str, files))) or self.model
        return digest("sat", weights, self.threshold, self.tokenizer, *([self.shortest] if self.shortest else []))

    def probabilities(self, text: str, lang: str = LANG) -> np.ndarray:
        """That a sentence ends after each character: (characters,)."""
        if len(text.strip()) < max(1, self.shortest):
            return np.zeros(len(text))
        return np.asarray(self._loaded().predict_proba(text, stride=256, block_size=256), np.float32)  # as LCM's code has it

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        return cut(text, self.probabilities(text, lang) > self.threshold)

    def _loaded(self):
        if self._sat is None:
            folder = Path(self.model).expanduser()
            own = str(folder) if (folder / "tokenizer.json").exists() else "facebookAI/xlm-roberta-base"
            try:
                self._sat = package("wtpsplit").SaT(str(folder) if folder.is_dir() else self.model, self.tokenizer or own)
            except (OSError, ValueError, KeyError) as error:
                reason = str(error).strip().splitlines()[0].rstrip(".: ") if str(error).strip() else type(error).__name__
                raise Told(
                    f"SaT's weights {self.model!r} or its tokenizer {self.tokenizer or own!r} cannot be had ({reason}): check "
                    "the name and the network, give a local folder, or take zoo.data.boundaries.Boundaries, which is trained here"
                ) from None
            self._sat.eval().to(self._place())
        return self._sat

    def _place(self) -> str:
        if self.device != "auto":
            return self.device
        import torch  # late, since most segmenters need none

        return "cuda" if torch.cuda.is_available() else "cpu"


class Capped:
    """A segmenter whose sentences have at most so many characters.

    A longer sentence of n characters is cut at the most probable inner boundaries into round(n / cap) + 1 pieces, where the
    segmenter has `probabilities`; what is still too long, or has none, is packed greedily, from separator to separator in their
    order; text without any is cut at the cap, never before a combining mark. (LCM §2.2 and its released code.)

    Args:
        segmenter: what is capped.
        characters: the cap; LCM's figure 3 has 200, its released code 256 for SaT and 200 for spaCy.
        threshold: of a segmenter with probabilities; None keeps its own.
        separators: regular expressions in the order of use; None takes the released order for models or for rules.

    Raises ValueError for a threshold where there are no probabilities.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        characters: int = 200,
        threshold: float | None = None,
        separators: list[str] | None = None,
    ):
        modelled = hasattr(segmenter, "probabilities")
        if threshold is not None and not modelled:
            raise ValueError(
                f"{type(segmenter).__name__} has no probabilities, so a threshold means nothing to it: leave threshold out"
            )
        if characters < 8:
            raise ValueError(f"a cap of {characters} characters leaves no sentences: give 8 or more")
        self.segmenter, self.characters, self.threshold, self.separators = segmenter, characters, threshold, separators
        self._order = tuple(separators or (AFTER_MODELS if modelled else AFTER_RULES))

    @property
    def fingerprint(self) -> str:
        return digest("capped", self.segmenter.fingerprint, self.characters, self.threshold, self._order)

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        if not hasattr(self.segmenter, "probabilities"):
            return self._packed(self.segmenter(text, lang))
        chances = self.segmenter.probabilities(text, lang)
        threshold = self.segmenter.threshold if self.threshold is None else self.threshold
        pieces = []
        for start, stop in spans(text, chances > threshold):
            if stop - start > self.characters:
                count = round((stop - start) / self.characters) + 1
                inner = most_probable(text[start:stop], chances[start:stop], count - 1)
                pieces += [text[start + a : start + b] for a, b in spans(text[start:stop], inner)]
            else:
                pieces.append(text[start:stop])
        return self._packed(pieces)

    def _packed(self, pieces: list[str]) -> list[str]:
        return [part for piece in pieces for part in pack(piece, self.characters, self._order)]


class Cleaned:
    """The clean-up around a segmenter, which loses characters on purpose: emoji are taken out first; in each sentence runs of
    white space become one space; sentences without a letter are dropped.

    lines: a line end also ends a sentence, as in web text, whose lines are paragraphs; hard-wrapped books are `unwrapped` first.
    """

    def __init__(self, segmenter: Segmenter, lines: bool = True):
        self.segmenter, self.lines = segmenter, lines

    @property
    def fingerprint(self) -> str:
        return digest("cleaned", 2, self.segmenter.fingerprint, self.lines)

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        text = EMOJI.sub(lambda found: " " if GLUED.match(text, found.end()) else "", text)
        texts = unwrapped(text).splitlines() if self.lines else [text]
        pieces = [" ".join(piece.split()) for part in texts if part.strip() for piece in self.segmenter(part, lang)]
        return [piece for piece in pieces if any(map(str.isalpha, piece))]


class Filtered:
    """A segmenter some of whose sentences and documents are left out, as LCM's released code can do.

    shortest, longest: characters of a sentence that is kept; comments there suggest 5 to 15, and 100 to 300.
    fewest: sentences of a document that is kept, those counted that are kept; one of fewer is left out whole.
    """

    def __init__(self, segmenter: Segmenter, shortest: int = 0, longest: int | None = None, fewest: int = 0):
        if longest is not None and longest < max(1, shortest):
            raise ValueError(f"no sentence has {shortest} characters at least and {longest} at most: give a higher `longest`")
        self.segmenter, self.shortest, self.longest, self.fewest = segmenter, shortest, longest, fewest

    @property
    def fingerprint(self) -> str:
        return digest("filtered", self.segmenter.fingerprint, self.shortest, self.longest, self.fewest)

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        most = float("inf") if self.longest is None else self.longest
        kept = [piece for piece in self.segmenter(text, lang) if self.shortest <= len(piece) <= most]
        return kept if len(kept) >= self.fewest else []


def unwrapped(text: str) -> str:
    """A hard-wrapped text with its paragraphs on one line each; any other text as it is.

    A text is hard-wrapped if most of the lines that another follows have a width in WRAPPED, hardly any is longer, and most of
    those that follow begin in lower case: lists, verse, and web pages, whose lines are items or paragraphs, do not. In it a line
    goes on in the next if it is no shorter or the next begins in lower case; a hyphen at its end stays, without a space.
    """
    lines = [line.strip() for line in text.splitlines()]
    lengths = list(map(len, lines))
    lower = [line[:1].islower() for line in lines]
    least, most = WRAPPED
    inner = [i for i in range(len(lines) - 1) if lines[i] and lines[i + 1]]
    wide = sum(least <= lengths[i] <= most for i in inner)
    if 2 * min(wide, sum(lower[i + 1] for i in inner)) <= len(inner) or 50 * sum(n > most for n in lengths) > len(inner):
        return text
    ends = ["\n"] * len(lines)
    for i in inner:
        if lengths[i] >= least or lower[i + 1]:
            ends[i] = "" if re.search(r"\w-$", lines[i]) and lower[i + 1] else " "
    return "".join(part for pair in zip(lines, ends) for part in pair)


def spans(text: str, ends: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of a text, without the white space around them; ends: (characters,) true where one ends."""
    found, start = [], 0
    for stop in [*(np.flatnonzero(ends) + 1).tolist(), len(text)]:
        piece = text[start:stop]
        if kept := piece.strip():
            first = start + len(piece) - len(piece.lstrip())
            found.append((first, first + len(kept)))
        start = stop
    return found


def cut(text: str, ends: np.ndarray) -> list[str]:
    return [text[start:stop] for start, stop in spans(text, ends)]


def most_probable(text: str, chances: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` most probable inner boundaries of a text are: (characters,) of bool. White space is no place of its own:
    its probability counts for the character before it."""
    places: list[tuple[float, int]] = []
    for at, (character, chance) in enumerate(zip(text, chances.tolist())):
        if not character.isspace():
            places.append((chance, at))
        elif places:
            places[-1] = max(chance, places[-1][0]), places[-1][1]
    best = sorted(places[:-1], key=lambda place: (-place[0], place[1]))[:count]
    ends = np.zeros(len(text), bool)
    ends[[at for _, at in best]] = True
    return ends


def pack(text: str, characters: int, separators: Iterable[str]) -> list[str]:
    """Pieces of at most so many characters: joined from the parts between the first separators as long as they fit; a piece that
    is longer than that is packed by the others in turn."""
    text, separators = text.strip(), tuple(separators)
    if len(text) <= characters:
        return [text] if text else []
    if not separators:
        return _hard(text, characters)
    packed, first = [""], separators[0]
    for part in _after(text, first):
        if len((packed[-1] + part).strip()) > characters:
            packed.append("")
        packed[-1] += part
    return [piece for each in packed for piece in pack(each, characters, separators[1:])]


def _after(text: str, separator: str) -> list[str]:
    """Parts of a text, each but the last with the separator that ends it."""
    ends = [match.end() for match in re.finditer(separator, text)]
    return [text[start:stop] for start, stop in zip([0, *ends], [*ends, len(text)])]


def _hard(text: str, characters: int) -> list[str]:
    pieces, start = [], 0
    while len(text) - start > characters:
        stop = start + characters
        while stop > start + characters // 2 and (unicodedata.category(text[stop])[0] == "M" or text[stop] in "\u200c\u200d"):
            stop -= 1
        pieces.append(text[start:stop])
        start = stop
    return _stripped([*pieces, text[start:]])


def _stripped(pieces: Iterable[str]) -> list[str]:
    return [piece for piece in map(str.strip, pieces) if piece]


def package(name: str, extra: str = "sentences"):
    """An optional package, or ImportError with the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise
        sentence = f"{error.name} is not installed: install the extra `{extra}` (pip install 'zoo[{extra}]')"
        raise ImportError(sentence) from None


def installed(name: str) -> str:
    """The version of a package, whose rules decide: another one makes a store of its own. Empty where it is not here."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
