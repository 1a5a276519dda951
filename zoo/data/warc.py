"""Common Crawl as a source: WARC, WET and ARC files to documents of one language, each text once."""

import contextlib
import glob
import gzip
import json
import logging
import os
import platform
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePath

from zoo.data.archive import Page, decoded, pages
from zoo.data.duplicates import Duplicates
from zoo.data.language import LANG, spoken, told
from zoo.data.pieces import sample_hash
from zoo.data.segment import installed, package
from zoo.data.sources import Document, Source, digest, identity, split_of
from zoo.data.store import FULL
from zoo.explain import Told

RULES = 2  # part of the fingerprint: raise it when what is kept or extracted changes


class WARC(Source):
    """Documents from web archives: `.warc`, `.wet` and `.arc` files, gzipped or not; a part is a file.

    HTML becomes text by trafilatura (main text without tables, comments and boilerplate, a paragraph a line), WET's text is taken
    as it is. Damaged records and files, wrong encodings, empty pages, other languages and repetitions are left out and counted
    in `dropped`, never fatal. Before the first document is read, one pass over all files plans what is kept, since a repetition
    is one of the corpus and not of a file; workers are handed the plan. With a cache the pages of a file become text once, which
    both passes, either view and a resumed build read.

    Args:
        patterns: paths or globs.
        lang: the language kept, by what the crawler identified, where a WET file says so, or else by `language.written_in`,
            which has no rule for some languages; None keeps all.
        duplicates: False keeps repetitions and saves the planning pass.
        similar: Jaccard similarity from which on two texts are near duplicates; None: exact ones only.
        shortest: characters; shorter texts count as empty.
        longest: bytes of a page, before extraction.
        cache: folder of the texts of each file (`Extracts`), some 5 % of WARC files and all of WET ones; None extracts them in
            every pass. Once a store is whole it is not needed.
        validation, test: share held out by the hash of the text. Where it catches none of a small corpus, the document with the
            lowest hash is taken.

    Raises FileNotFoundError for a pattern without files, ValueError for what is no code of a language or when no document is
    left, ImportError where warcio or trafilatura is missing.
    """

    def __init__(
        self,
        patterns: list[str] | str,
        lang: str | None = LANG,
        duplicates: bool = True,
        similar: float | None = 0.8,
        shortest: int = 100,
        longest: int = 5_000_000,
        validation: float = 0.01,
        test: float = 0.01,
        cache: str | os.PathLike | None = None,
    ):
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        self.lang, self.duplicates, self.similar = lang, duplicates, similar
        self.shortest, self.longest, self.validation, self.test = shortest, longest, validation, test
        self.extracts = None if cache is None else Extracts(self, cache)
        if lang is not None and not re.fullmatch(r"[A-Za-z]{2,3}([-_]\w+)*", lang):
            raise ValueError(f"{lang!r} is no code of a language: give one like eng_Latn, or None, which keeps all languages")

    @property
    def description(self) -> str:
        return "web archives: " + ", ".join("/".join(PurePath(pattern).parts[-2:]) for pattern in self.patterns)

    @cached_property
    def fingerprint(self) -> str:
        """Of the content in its order; where the files lie does not count."""
        options = [self.lang, self.duplicates, self.similar, self.shortest, self.longest, self.validation, self.test]
        return digest("warc", RULES, options, [sample_hash(path) for path in self.paths])

    @cached_property
    def paths(self) -> list[str]:
        """Absolute, sorted, each once."""
        found = set()
        for pattern in self.patterns:
            files = [path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path)]
            if not files:
                raise FileNotFoundError(f"no file matches {pattern!r}, looked for from {os.getcwd()}: correct the pattern")
            found.update(map(os.path.abspath, files))
        return sorted(found)

    @property
    def dropped(self) -> Counter:
        """Reason → records, pages and texts left out."""
        return self._plan[0]

    @property
    def kept(self) -> int:
        """Documents."""
        return self._plan[1]

    def report(self) -> str:
        """What was kept and dropped, in a line."""
        return f"{self.description}: {self.kept:,} documents kept; left out: {_listed(self.dropped)}"

    def parts(self) -> list[str]:
        _ = self._rescued  # planned here once and carried to the workers
        return self.paths

    def read(self, part: str) -> Iterator[Document]:
        repeated = self._plan[2].get(part, frozenset()) if self.duplicates else frozenset()
        for number, text in enumerate(self._texts(part, Counter())):
            if number not in repeated:
                id = identity(text)
                yield Document(text, id, self._rescued.get(id) or split_of(id, self.validation, self.test))

    @cached_property
    def _plan(self) -> tuple[Counter, int, dict[str, frozenset[int]], dict[str, str]]:
        """(reason → count, documents, path → numbers of its repeated texts, id → split of what fills empty splits)"""
        dropped, kept, seen = Counter(), Counter(), Duplicates(self.similar)
        repeated: dict[str, set[int]] = defaultdict(set)
        lowest: dict[str, set[str]] = defaultdict(set)  # as many ids of each split as may be needed elsewhere
        for path in self.paths:
            for number, text in enumerate(self._texts(path, dropped)):
                reason = seen(text) if self.duplicates else None
                if reason:
                    dropped[reason] += 1
                    repeated[path].add(number)
                else:
                    id = identity(text)
                    split = split_of(id, self.validation, self.test)
                    kept[split] += 1
                    lowest[split] = set(sorted({*lowest[split], id})[:3])
        missing = [split for split in self._wanted if not kept[split]]
        donor = sorted(lowest[kept.most_common(1)[0][0]]) if kept else []
        if missing and len(donor) <= len(missing):
            raise ValueError(
                f"{self.description}: {kept.total()} document(s) left, too few for {', '.join(self._wanted)}: add files, keep "
                "all languages (data.all_languages) or repetitions (data.repetitions), or hold out nothing (data.share 0); "
                f"left out: {_listed(dropped)}"
            )
        repeats = {path: frozenset(numbers) for path, numbers in repeated.items()}
        return +dropped, kept.total(), repeats, dict(zip(donor, missing))

    @cached_property
    def _rescued(self) -> dict[str, str]:
        """Id → split of the documents that fill splits which the hash leaves empty."""
        if not self.duplicates:  # a few hundred texts say enough
            found = set()
            for path in self.paths:
                for text in self._texts(path, Counter()):
                    found.add(split_of(identity(text), self.validation, self.test))
                    if found.issuperset(self._wanted):
                        return {}
        return self._plan[3]

    @property
    def _wanted(self) -> list[str]:
        return ["train", *(["validation"] if self.validation else []), *(["test"] if self.test else [])]

    def _texts(self, path: str, dropped: Counter) -> Iterator[str]:
        """The texts of a file that are fit, repetitions included."""
        return self.extracted(path, dropped) if self.extracts is None else self.extracts.read(path, dropped)

    def extracted(self, path: str, dropped: Counter) -> Iterator[str]:
        """These, made of the file's pages. dropped: hears of what is left out, in the end of all of it."""
        package("warcio")
        for page in pages(path, dropped, self.longest):
            text, reason = text_of(page)
            if reason:
                dropped[reason] += 1
            elif len(text) < self.shortest:
                dropped["no text, or hardly any"] += 1
            elif self.lang and not (page.lang or told(self.lang)):
                dropped[f"language unknown, as {self.lang} has no rule"] += 1
            elif self.lang and not spoken(text, self.lang, page.lang):
                dropped["another language"] += 1
            else:
                yield text


class Extracts:
    """The texts of web archives on disk, each file's in one of its own: JSON lines, gzipped, a string for each text in its order
    and at last an object of what was left out, reason → count. A file is named after the content of its archive and all that
    decides its texts, and appears whole.

    It is work in pieces for an executor of zoo.data.scale: `extracts(data, rank, world_size)` makes every world_size-th file.
    """

    def __init__(self, source: WARC, folder: str | os.PathLike):
        self.source, self.folder = source, Path(folder)

    @property
    def count(self) -> int:
        return len(self.source.paths)

    def __call__(self, data, rank: int = 0, world_size: int = 1):
        for path in self.source.paths[rank::world_size]:
            self.write(path)
        return data

    def done(self) -> bool:
        return all(self.place(path).exists() for path in self.source.paths)

    def place(self, path: str) -> Path:
        """Of the texts of an archive."""
        options = [self.source.lang, self.source.shortest, self.source.longest, installed("trafilatura")]
        return self.folder / f"{digest('extract', RULES, options, sample_hash(path))}.jsonl.gz"

    def write(self, path: str) -> None:
        """Make the texts of an archive, if they are not there."""
        place, dropped = self.place(path), Counter()
        if place.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{platform.node()}.{os.getpid()}.tmp")
        try:
            with gzip.open(temporary, "wt", 1, encoding="utf-8") as file:
                for text in self.source.extracted(path, dropped):
                    file.write(json.dumps(text, ensure_ascii=False) + "\n")
                file.write(json.dumps(dropped) + "\n")
            os.replace(temporary, place)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise Told(
                f"the disk of {self.folder} is full; free some space, or choose another place with data.root, and run the same "
                "command again: finished archives are kept"
            ) from None
        else:
            print(f"web archives: the text of {os.path.basename(path)} is in {place}", flush=True)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, path: str, dropped: Counter) -> Iterator[str]:
        """The texts of an archive, made first if they are not there. RuntimeError for a damaged file."""
        self.write(path)
        last = None
        with contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error, ValueError):
            with gzip.open(self.place(path), "rt", encoding="utf-8") as file:
                for line in file:
                    last = json.loads(line)
                    if isinstance(last, str):
                        yield last
        if not isinstance(last, dict):
            raise Told(f"{self.place(path)} is damaged: delete it and run the same command again")
        dropped.update(last)


def _listed(dropped: Counter) -> str:
    """The reasons, the most frequent first."""
    found = sorted((-count, reason) for reason, count in dropped.items() if count)
    return ", ".join(f"{-count:,} {reason}" for count, reason in found) or "nothing"


def text_of(page: Page) -> tuple[str, str | None]:
    """(text, None) of a page, or ("", why there is none)."""
    text = decoded(page)
    if text is None:
        return "", "wrong encoding"
    if not page.html or not text.strip():
        return text.strip(), None
    trafilatura = package("trafilatura")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports each page it finds nothing in
    try:
        found = trafilatura.extract(text, include_comments=False, include_tables=False, favor_precision=True)
    except Exception:  # lxml, recursion, … on what calls itself HTML
        return "", "HTML that cannot be read"
    return (found or "").strip(), None
