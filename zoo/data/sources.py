"""Where text comes from: a source yields documents, each of which belongs to one split for good.

Anything with `description`, `fingerprint`, `parts()`, `read(part)` and `documents()` is a source. It must pickle: parts are read
by several processes, and the documents of a corpus never depend on how many there are. `Installed` has its own file.
"""

import glob
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

from zoo.data.pieces import NO_TEXT, PART, Piece, cut, joined, no_text, not_blank, sample_hash, texts
from zoo.explain import Told


class Document(NamedTuple):
    text: str
    id: str  # hash of the text
    split: str  # "train", "validation" or "test"


def digest(*content: Any) -> str:
    """32 hexadecimal digits that stand for plain values (strings, numbers, lists, dicts)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def identity(text: str) -> str:
    """The id of a document: 32 hexadecimal digits of the hash of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def split_of(id: str, validation: float, test: float) -> str:
    """The id as a number in [0, 1) falls into the share of validation, of test, or of neither."""
    position = int(id[:12], 16) / 16**12
    return "validation" if position < validation else "test" if position < validation + test else "train"


class Source:
    """What sources share. A child gives `description` (for pages), `fingerprint` (hexadecimal, a pure function of content and
    options), `parts()` (small units of work that pickle, in a stable order) and `read(part)`.

    forgiving: of `Files` what is empty or cannot be read, and of `Hub` empty texts, are left out, and `lost` hears of it while a
    part is read (reason -> count); otherwise what cannot be read is a ValueError. Text without a fault is read in the same way.
    """

    forgiving = False

    @cached_property
    def lost(self) -> Counter:
        """Reason -> how much was empty or could not be read so far."""
        return Counter()

    def documents(self, split: str | None = None) -> Iterator[Document]:
        """All documents, or those of one split, in the order of the parts."""
        for part in self.parts():
            for document in self.read(part):
                if split in (None, document.split):
                    yield document


class Files(Source):
    """Text in files. `.jsonl` and `.json` (one object per line) and `.parquet` hold a document per row, any other file is one
    document; all but parquet may be `.gz`. Files are read as streams, and large uncompressed ones by several workers.

    Args:
        patterns: paths or globs (`**` goes into folders); documents come in the order of the sorted paths.
        column: field of the text; by default "text", else "content". A list of strings there is a text of as many lines.
        validation, test: share of documents held out by the hash of their text. Where it catches none of a small corpus, the
            document with the lowest hash is taken, so that no split asked for is empty.
        longest: bytes; a longer text file is cut at line ends into documents of about this size.

    Raises, when it plans or reads, FileNotFoundError for a pattern without files and ValueError for a file that cannot be
    read, unless it is forgiving.
    """

    def __init__(
        self,
        patterns: list[str] | str,
        column: str | None = None,
        validation: float = 0.01,
        test: float = 0.01,
        longest: int = 8_000_000,
    ):
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        self.column, self.validation, self.test, self.longest = column, validation, test, longest

    @property
    def description(self) -> str:
        return "files: " + ", ".join("/".join(PurePath(pattern).parts[-2:]) for pattern in self.patterns)

    @cached_property
    def fingerprint(self) -> str:
        """Of the content in its order; where the files lie does not count."""
        content = [sample_hash(path) for path in self.paths]
        return digest("files", self.column, self.validation, self.test, self.longest, content)

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

    def parts(self) -> list[tuple[Piece, ...]]:
        _ = self._rescued  # found here once and carried to the workers
        parts, current, total = [], [], 0
        for path in self.paths:
            for piece, size in cut(path, self.longest, self.forgiving):
                if current and total + size > PART:
                    parts.append(tuple(current))
                    current, total = [], 0
                current.append(piece)
                total += size
        return [*parts, tuple(current)]

    def read(self, part: tuple[Piece, ...]) -> Iterator[Document]:
        for piece in part:
            for text in texts(piece, self.column, self.longest, self.lost if self.forgiving else None):
                id = identity(text)
                yield Document(text, id, self._rescued.get(id) or split_of(id, self.validation, self.test))

    @cached_property
    def _rescued(self) -> dict[str, str]:
        """Id → split of the documents that fill splits which the hash leaves empty. Reads until every split has been seen: some
        hundred documents, or a small corpus."""
        wanted = ["train", *(["validation"] if self.validation else []), *(["test"] if self.test else [])]
        ids: dict[str, set[str]] = {split: set() for split in wanted}
        lost: Counter = Counter()
        for path in self.paths:
            for piece, _ in cut(path, self.longest, self.forgiving):
                for text in texts(piece, self.column, self.longest, lost if self.forgiving else None):
                    id = identity(text)
                    ids[split_of(id, self.validation, self.test)].add(id)
                    if all(ids.values()):
                        return {}
        count = sum(map(len, ids.values()))
        if count < len(wanted):
            raise ValueError(
                f"{self.description} holds {count} different document(s), too few for {', '.join(wanted)}: add "
                "files, cut long text files with a smaller `longest`, or hold out nothing (data.share 0, where data have it)"
                + ("; left out: " + ", ".join(f"{count:,} {reason}" for reason, count in lost.items()) if lost else "")
                + ("; name the field of the text with `column`" if lost[NO_TEXT] else "")
            )
        rescued: dict[str, str] = {}
        for split in [split for split in wanted if not ids[split]]:
            rescued[min(max(ids.values(), key=len) - rescued.keys())] = split
        return rescued


class Hub(Source):
    """A data set of the Hugging Face hub, streamed; a part is one of its shards.

    Args:
        name, config, split, revision, data_files: as `datasets.load_dataset` takes them; `revision` pins the content.
        column: field of the text, or of a list of strings, which are its lines.
        megabytes: at most so much text (10⁶ bytes, all splits together), in equal shares from shards spread over the data set.
        validation, test: share of documents held out by hash. The default is 0.0005, what CoCoMix holds out of OpenWebText;
            with a cap it is what makes about 1 MB, at most 5 %.

    Raises RuntimeError when the data set cannot be reached, ValueError when it has no such column.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        column: str = "text",
        split: str = "train",
        revision: str | None = None,
        data_files: list[str] | None = None,
        megabytes: float | None = None,
        validation: float | None = None,
        test: float | None = None,
    ):
        self.name, self.config, self.column, self.split = name, config, column, split
        self.revision, self.data_files, self.megabytes = revision, data_files, megabytes
        share = max(0.0005, min(0.05, 1 / megabytes)) if megabytes else 0.0005
        self.validation = share if validation is None else validation
        self.test = share if test is None else test
        self._dataset = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_dataset": None}

    @property
    def description(self) -> str:
        return f"hub: {self.name}" + (f" ({self.config})" if self.config else "")

    @property
    def fingerprint(self) -> str:
        return digest(
            "hub", {name: value for name, value in self.__dict__.items() if name not in ("_dataset", "forgiving", "lost")}
        )

    def parts(self) -> list[tuple[int, int, int | None]]:
        """(shard, number of shards, most bytes to take from it)"""
        shards = self._opened().num_shards
        if self.megabytes is None:
            return [(i, shards, None) for i in range(shards)]
        count = min(shards, max(16, math.ceil(self.megabytes / 64)))  # a few connections, yet no shard should run dry
        return [(i * shards // count, shards, int(self.megabytes * 1e6 / count)) for i in range(count)]

    def read(self, part: tuple[int, int, int | None]) -> Iterator[Document]:
        shard, shards, room = part
        for text in not_blank(self._texts(shard, shards, room), self.lost if self.forgiving else None):
            id = identity(text)
            yield Document(text, id, split_of(id, self.validation, self.test))

    def _texts(self, shard: int, shards: int, room: int | None) -> Iterator[str | None]:
        for row in self._rows(shard, shards):
            text = joined(row.get(self.column))
            if not isinstance(text, str) and not (self.forgiving and self.column in row and text is None):
                raise no_text(self.description, self.column, ((name, type(value).__name__) for name, value in row.items()))
            if room is not None:
                room -= len((text or "").encode())
                if room < 0:
                    return
            yield text

    def _rows(self, shard: int, shards: int) -> Iterator[dict]:
        dataset = self._opened().shard(num_shards=shards, index=shard)
        try:
            yield from dataset
        except Exception as error:  # whatever the network and the many file formats raise
            raise self._unreachable(error) from error

    def _opened(self):
        if self._dataset is None:
            import datasets

            try:
                self._dataset = datasets.load_dataset(
                    self.name, self.config, split=self.split, revision=self.revision, data_files=self.data_files, streaming=True
                )
            except Exception as error:  # as above
                raise self._unreachable(error) from error
        return self._dataset

    def _unreachable(self, error: Exception) -> RuntimeError:
        offline = " while HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else ""
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": .")
        return Told(
            f"the data set {self.name!r} could not be read{offline} ({reason}): check its name and the network, "
            "or use `source: installed` or `source: files`, which need none"
        )
