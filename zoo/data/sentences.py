"""Documents to sentences to vectors: the plain generators, the shards they are written to, and the local loop over them.

A folder holds, for each split and block of documents, four files: `train-00000-000.vec` (little-endian float16, (sentences, E)),
`.text` (UTF-8, one sentence after the other), `.sentences` (int64, where each ends in the text) and `.documents` (int64, the
number of the sentence after each document's last). A sidecar such as `00000-000.json` says that a block is whole and on disk,
`00000.json` that all blocks of some parts are; `manifest.json`, which also says what was left out or cut, comes last, and beside
it `normalizer.safetensors` (`zoo.saved`). What a block holds depends on the source alone, so a resumed build writes the same
bytes, and any executor's store is that of the local loop.
"""

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from zoo.data.language import LANG
from zoo.data.segment import Segmenter
from zoo.data.sentence_store import SentenceStore, complete, present
from zoo.data.shards import SPLITS, Progress, sidecar_path, write_json
from zoo.data.sources import Document, digest
from zoo.data.store import FULL, SHARDS, locked
from zoo.explain import Told
from zoo.nn.normalizer import Normalizer
from zoo.saved import NORMALIZER, save

END = "End of text."  # LCM §2.3.1: appended to each document and encoded like any other sentence
BLOCK = 4_000_000  # characters of a block: some 45 thousand sentences, 90 MB of vectors at 1024 dimensions
BATCH = 8192  # sentences handed to the encoder at a time; it makes its own batches of them
FITTED = 1_000_000  # vectors that a normalizer is fitted on, at most, as LCM's authors did
COUNTED = ("truncated", "unknown")  # what an encoder may count
SUFFIXES = ("vec", "text", "sentences", "documents")


class Encoder(Protocol):
    """What turns sentences into vectors. `fingerprint`: hexadecimal, of what decides them; `width`: E. `encode` gives
    (N, E) finite floats, the vector of a text not depending on the others beside it. If it has `truncated` or `unknown`, these
    are the numbers of texts so far that were too long for it, or in letters that it does not know."""

    fingerprint: str
    width: int

    def encode(self, texts: list[str], lang: str): ...


class Cut(NamedTuple):
    """A document as sentences, the end marker among them."""

    texts: list[str]
    split: str


def segmented(documents: Iterable[Document], segmenter: Segmenter, lang: str = LANG, end: str | None = END) -> Iterator[Cut]:
    """Documents as sentences and the end marker; a document without a sentence has no sentences at all."""
    for document in documents:
        pieces = segmenter(document.text, lang)
        yield Cut([*pieces, end] if pieces and end else pieces, document.split)


def encoded(documents: Iterable[Cut], encoder: Encoder, lang: str = LANG) -> Iterator[tuple[Cut, np.ndarray]]:
    """(document, vectors (sentences, E) float16). A text that repeats among some thousand sentences is encoded once.

    Raises ValueError for vectors of another shape and RuntimeError for such as float16 cannot hold.
    """
    held: list[Cut] = []
    count = 0
    for document in documents:
        held.append(document)
        count += len(document.texts)
        if count >= BATCH:
            yield from _encoded(held, encoder, lang)
            held, count = [], 0
    yield from _encoded(held, encoder, lang)


def _encoded(documents: list[Cut], encoder: Encoder, lang: str) -> Iterator[tuple[Cut, np.ndarray]]:
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for each in documents for text in each.texts))}
    vectors = np.zeros((0, encoder.width), "<f2")
    if rows:
        texts = list(rows)
        found = encoder.encode(texts, lang)
        if tuple(found.shape) != (len(texts), encoder.width):
            raise ValueError(
                f"the encoder gave {tuple(found.shape)} for {len(texts)} sentences, not {(len(texts), encoder.width)}"
            )
        with np.errstate(over="ignore"):
            vectors = found.detach().float().cpu().numpy().astype("<f2")  # (N, E)
        wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(wrong):
            raise Told(f"the vector of {texts[wrong[0]]!r} holds NaN or numbers that float16 cannot hold: check the encoder")
    for each in documents:
        yield each, vectors[[rows[text] for text in each.texts]]


def blocks(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    """Lists of documents that reach so many characters together."""
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document.text)
        if size >= characters:
            yield block
            block, size = [], 0
    if block:
        yield block


class SentenceShards:
    """The work of a sentence store in pieces that any executor can run: `write(i)` for i in range(count), then `finish()`.

    It pickles if its parts do, and is a step of a datatrove pipeline: a callable of (data, rank, world size).
    """

    def __init__(
        self,
        source,
        segmenter: Segmenter,
        encoder: Encoder,
        folder: str | os.PathLike,
        lang: str = LANG,
        end: str | None = END,
        characters: int = BLOCK,
    ):
        self.source, self.segmenter, self.encoder, self.folder = source, segmenter, encoder, Path(folder)
        self.lang, self.end, self.characters = lang, end, characters
        parts = source.parts()
        size = max(1, -(-len(parts) // SHARDS))
        self.groups = [parts[i : i + size] for i in range(0, len(parts), size)]
        self.fingerprint = fingerprint(source, segmenter, encoder, lang, end)

    @property
    def count(self) -> int:
        return len(self.groups)

    def __call__(self, data, rank: int = 0, world_size: int = 1):
        """Every world_size-th shard; what comes in is handed on."""
        for index in range(rank, self.count, world_size):
            for _ in self.write(index):
                pass
        return data

    def done(self, index: int) -> bool:
        """Whether a shard and all of its blocks are there."""
        about = _sidecar(sidecar_path(self.folder, index))
        if about.get("key") != self._key(index):
            return False
        return all(self._block(index, number) is not None for number in range(about["blocks"]))

    def kept(self, index: int) -> int:
        """How many blocks of a shard are there."""
        numbers = [int(path.stem.split("-")[1]) for path in self.folder.glob(f"{index:05d}-*.json")]
        return sum(self._block(index, number) is not None for number in numbers)

    def write(self, index: int) -> Iterator[int]:
        """Write what is missing of a shard, after any other process that is at it; yields the characters of each block, 0 of one
        that was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / f".{index:05d}.lock"):
            if self.done(index):
                return
            for leftover in self.folder.glob("*.tmp"):
                if f"{index:05d}" in leftover.name.lstrip(".").split(".")[0].split("-"):  # its writer is gone: the lock says so
                    leftover.unlink(missing_ok=True)
            number, before = -1, self._lost()
            documents = (document for part in self.groups[index] for document in self.source.read(part))
            for number, block in enumerate(blocks(documents, self.characters)):
                missing = self._block(index, number) is None
                if missing:
                    self._write(index, number, block, self._lost() - before)
                before = self._lost()
                yield sum(len(document.text) for document in block) if missing else 0
            write_json(
                sidecar_path(self.folder, index), {"key": self._key(index), "blocks": number + 1, "lost": self._lost() - before}
            )

    def _lost(self) -> Counter:
        """What the source could not read so far, by reason; some sources do not count it so."""
        return Counter(getattr(self.source, "lost", {}))

    def _counted(self) -> dict[str, int]:
        """What the encoder counted so far."""
        return {name: getattr(self.encoder, name, 0) for name in COUNTED}

    def _write(self, index: int, number: int, block: list[Document], lost: Counter) -> None:
        writers: dict[str, _Writer] = {}
        empty, before = 0, Counter(self._counted())
        try:
            for document, vectors in encoded(segmented(block, self.segmenter, self.lang, self.end), self.encoder, self.lang):
                if not document.texts:
                    empty += 1
                    continue
                if document.split not in writers:
                    writers[document.split] = _Writer(self.folder, f"{document.split}-{index:05d}-{number:03d}", document.split)
                writers[document.split].add(document.texts, vectors)
            entries = [writers[split].close() for split in SPLITS if split in writers]
        finally:
            for writer in writers.values():
                writer.discard()
        counted = {name: count - before[name] for name, count in self._counted().items()}
        about = {"key": self._key(index), "empty": empty, **counted, "files": entries, "lost": lost}
        write_json(_block_path(self.folder, index, number), about)

    def _block(self, index: int, number: int) -> dict | None:
        """The sidecar of a block that is whole, or None. RuntimeError for a file of another size than when it was written."""
        about = _sidecar(_block_path(self.folder, index, number))
        whole = about.get("key") == self._key(index) and all(present(self.folder, each) for each in about["files"])
        return about if whole else None

    def _key(self, index: int) -> str:
        return hashlib.sha256(f"{self.fingerprint} {self.characters} {index}/{self.count}".encode()).hexdigest()

    def finish(self) -> None:
        """Write the manifest. RuntimeError where a shard is missing."""
        missing = [index for index in range(self.count) if not self.done(index)]
        if missing:
            raise Told(f"{len(missing)} of {self.count} shards of {self.folder} are missing: run the same command again")
        entries, empty, counted, dropped = [], 0, Counter(), Counter(getattr(self.source, "dropped", {}))
        for index in range(self.count):
            shard = _sidecar(sidecar_path(self.folder, index))
            dropped.update(shard.get("lost", {}))
            for number in range(shard["blocks"]):
                about = self._block(index, number)
                dropped.update(about.get("lost", {}))
                entries += about["files"]
                empty += about["empty"]
                counted.update({name: about.get(name, 0) for name in COUNTED})  # older blocks do not say, nor what was lost
        totals = {split: Counter(sentences=0, documents=0, bytes=0) for split in SPLITS}
        for entry in entries:
            totals[entry["split"]].update({name: entry[name] for name in ("sentences", "documents", "bytes")})
        manifest = {
            "description": self.source.description, "source": self.source.fingerprint, "segmenter": self.segmenter.fingerprint,
            "encoder": self.encoder.fingerprint, "fingerprint": self.fingerprint, "lang": self.lang, "end": self.end,
            "width": self.encoder.width, "dtype": "<f2", "dropped": dropped,
            "without_sentences": empty, **{name: counted[name] for name in COUNTED}, "splits": totals, "shards": entries,
        }  # fmt: skip
        with locked(self.folder / ".manifest.lock"):
            write_json(self.folder / "manifest.json", manifest)


def fingerprint(source, segmenter: Segmenter, encoder: Encoder, lang: str = LANG, end: str | None = END) -> str:
    """Of the store that these make."""
    return digest("sentences", source.fingerprint, segmenter.fingerprint, encoder.fingerprint, lang, end)


def build(shards: SentenceShards, progress: bool = True) -> None:
    """The local loop: write a sentence store; does nothing when it is there, and only what is missing after a kill.

    Raises RuntimeError in one sentence when the disk is full or a file is damaged, ValueError when the folder is another store.
    """
    folder = shards.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".store.lock"):
            if complete(folder, shards.fingerprint):
                return
            missing = [index for index in range(shards.count) if not shards.done(index)]
            kept = sum(map(shards.kept, missing))
            with Progress(shards.count, shards.count - len(missing), folder, progress, kept) as report:
                for index in missing:
                    for size in shards.write(index):
                        report.hear(size)
                    report.hear(None)
            shards.finish()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Told(
            f"the disk of {folder} is full; free some space, or choose another place with data.root, and run the same command "
            "again: finished blocks are kept"
        ) from None


def write_normalizer(folder: Path) -> None:
    """Fit a whole store's normalizer and write it beside the manifest, where it is missing: the robust scaler (LCM §2.3.1: median
    and quartiles) of vectors that are spread evenly over the training split. None for a split of fewer than two sentences.

    Raises OSError where the folder cannot be written to.
    """
    path = folder / NORMALIZER
    if path.exists():
        return
    with locked(folder / ".normalizer.lock"):
        store = SentenceStore(folder, "train")
        if path.exists() or store.sentences < 2:
            return
        made = Normalizer.fitted(torch.from_numpy(store.sample(FITTED, np.float16)))  # half the memory
        save(made, path)


def _sidecar(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _block_path(folder: Path, index: int, number: int) -> Path:
    return folder / f"{index:05d}-{number:03d}.json"


class _Writer:
    """Collects the documents of one split in a block; its files get their names when they are whole and on disk."""

    def __init__(self, folder: Path, stem: str, split: str):
        self.entry = {"stem": stem, "split": split, "sentences": 0, "documents": 0, "bytes": 0}
        self.paths = {suffix: folder / f"{stem}.{suffix}" for suffix in SUFFIXES}
        mine = f"{platform.node()}.{os.getpid()}"  # several machines may share the folder
        self.temporary = {suffix: path.with_name(f"{path.name}.{mine}.tmp") for suffix, path in self.paths.items()}
        self.files = {suffix: open(path, "wb") for suffix, path in self.temporary.items()}

    def add(self, texts: list[str], vectors: np.ndarray) -> None:
        data = [text.encode(errors="replace") for text in texts]
        ends = self.entry["bytes"] + np.cumsum([len(each) for each in data])
        self.entry["sentences"] += len(texts)
        self.entry["documents"] += 1
        self.entry["bytes"] = int(ends[-1])
        self.files["vec"].write(vectors.tobytes())
        self.files["text"].write(b"".join(data))
        self.files["sentences"].write(ends.astype("<i8").tobytes())
        self.files["documents"].write(np.array([self.entry["sentences"]], "<i8").tobytes())

    def close(self) -> dict:
        sizes = {}
        for suffix, file in self.files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[suffix] = file.tell()
            file.close()
        for suffix in SUFFIXES:
            os.replace(self.temporary[suffix], self.paths[suffix])
        return self.entry | {"sizes": sizes}

    def discard(self) -> None:
        for suffix, file in self.files.items():
            file.close()
            self.temporary[suffix].unlink(missing_ok=True)
