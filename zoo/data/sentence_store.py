"""Reading a sentence store: documents in chunks of at most so many sentences, memory-mapped. `zoo.data.sentences` writes it."""

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from zoo.explain import Told

MAPS = 4096  # files of a kind and split that are mapped at a time: Linux lets a process map 65530


class SentenceStore:
    """The sentences of one split and their vectors; `len` is the number of its chunks.

    wrap: a document is cut into chunks of so many sentences (LCM §2.4.1: 128); its end marker, the last sentence, is in the last
    chunk alone. fingerprint: that is expected, if any. Raises FileNotFoundError, ValueError (another store) or RuntimeError (a
    file that is missing or has the wrong size) in one sentence.
    """

    def __init__(self, folder: str | os.PathLike, split: str, wrap: int = 128, fingerprint: str | None = None):
        self.folder, self.split, self.wrap = Path(folder), split, wrap
        if wrap < 1:
            raise ValueError(f"chunks of {wrap} sentences are none: give data.context 1 or more")
        self.manifest = read_manifest(self.folder)
        entries = [entry for entry in self.manifest["shards"] if entry["split"] == split]
        if not complete(self.folder, fingerprint):
            raise Told(f"files of the sentence store in {self.folder} are missing: run the same command again")
        self.width, self.end = self.manifest["width"], self.manifest["end"]
        stems = [self.folder / entry["stem"] for entry in entries]
        self._vectors = _mapped([f"{stem}.vec" for stem in stems], "<f2", self.width)
        self._texts = _mapped([f"{stem}.text" for stem in stems], "u1")
        self._ends = _mapped([f"{stem}.sentences" for stem in stems], "<i8")
        stops = [np.fromfile(f"{stem}.documents", "<i8") for stem in stems]
        starts = [np.concatenate([[0], stop[:-1]]) for stop in stops]
        none = np.zeros(0, np.int64)
        shard = np.repeat(np.arange(len(stems)), [len(stop) for stop in stops])  # (documents,)
        start, sizes = np.concatenate([none, *starts]), np.concatenate([none, *stops]) - np.concatenate([none, *starts])
        self.shards, self.documents, self.sentences = len(stems), len(sizes), int(sizes.sum())
        pieces = -(-sizes // wrap)  # chunks of each document
        self.document = np.repeat(np.arange(len(sizes)), pieces)  # (chunks,) of which document a chunk is
        within = np.arange(len(self.document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._shard, self._start = shard[self.document], start[self.document] + within * wrap
        self.lengths = np.minimum(wrap, sizes[self.document] - within * wrap)  # (chunks,) sentences of each

    def __reduce__(self):
        return SentenceStore, (self.folder, self.split, self.wrap)  # workers map the files anew

    def __len__(self) -> int:
        return len(self.lengths)

    def chunks(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of chunks (B,), zero behind each end: (B, S, E) float32, S the longest of them; and their lengths (B,)."""
        lengths = self.lengths[numbers]
        out = np.zeros((len(numbers), int(lengths.max(initial=0)), self.width), np.float32)
        places = zip(out, self._shard[numbers].tolist(), self._start[numbers].tolist(), lengths.tolist())
        for row, shard, start, length in places:
            row[:length] = self._vectors(shard)[start : start + length]
        return out, lengths

    def texts(self, number: int) -> list[str]:
        """The sentences of a chunk."""
        shard, start, length = int(self._shard[number]), int(self._start[number]), int(self.lengths[number])
        ends, text = self._ends(shard), self._texts(shard)
        stops = ends[start : start + length].tolist()
        first = int(ends[start - 1]) if start else 0
        return [text[a:b].tobytes().decode() for a, b in zip([first, *stops], stops)]

    def sample(self, count: int, dtype: type = np.float32) -> np.ndarray:
        """Vectors of at most so many sentences, evenly spread over the split, to fit a normalizer or codebook: (n, E) floats."""
        count, passed = min(count, self.sentences), 0
        wanted = np.arange(count) * self.sentences // max(1, count)
        out = np.empty((count, self.width), dtype)
        for vectors in map(self._vectors, range(self.shards)):
            first, stop = np.searchsorted(wanted, (passed, passed + len(vectors)))
            out[first:stop] = vectors[wanted[first:stop] - passed]
            passed += len(vectors)
        return out


def _mapped(paths: list[str], dtype: str, *shape: int) -> Callable[[int], np.ndarray]:
    """The files as arrays (-1, *shape), each mapped when it is first asked for; those not used for longest are let go of.

    By torch: numpy's maps hold a file descriptor each, of which a process often may have 1024, and slice twenty times slower.
    """

    @lru_cache(MAPS)
    def array(number: int) -> np.ndarray:
        path = paths[number]
        content = torch.from_file(path, shared=False, size=os.path.getsize(path), dtype=torch.uint8).numpy()
        content.flags.writeable = False
        return content.view(dtype).reshape(-1, *shape)

    return array


def complete(folder: Path, expected: str | None = None) -> bool:
    """Whether a folder holds a whole sentence store; ValueError if it is another one than that of a fingerprint."""
    if not (folder / "manifest.json").exists():
        return False
    manifest = read_manifest(folder)
    if expected not in (None, manifest["fingerprint"]):
        raise ValueError(
            f"the sentence store in {folder} ({manifest['description']}) was made of another corpus, segmenter, encoder or "
            "language: delete the folder to build it again, or choose another root"
        )
    return all(present(folder, entry) for entry in manifest["shards"])


def read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if "encoder" not in manifest:
            raise ValueError(f"{folder} holds a token store, not one of sentences: give data.view tokens, or another folder")
        return manifest
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no sentence store in {folder}: prepare_data() (or `zoo prepare`) builds it") from None
    except json.JSONDecodeError:
        raise ValueError(f"{folder / 'manifest.json'} is damaged: delete it and run again, the shards are kept") from None


def report(manifest: dict) -> str:
    """What a store holds, and what its making left out or cut, as its manifest says."""
    splits = manifest["splits"].items()
    counts = ", ".join(f"{name} {n['sentences']:,} sentences of {n['documents']:,} documents" for name, n in splits)
    dropped = Counter(manifest.get("dropped", {})) + Counter({"without a sentence": manifest["without_sentences"]})
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0])))
    said = f"{counts}; left out: {reasons or 'nothing'}"
    if cut := manifest.get("truncated"):
        said += f"; {cut:,} sentences were too long for the encoder and lost their end: set the segmenter's Capped(characters=…)"
    if strange := manifest.get("unknown"):
        said += f"; {strange:,} sentences are in letters that the encoder hardly knows: take a space of their language"
    return said


def present(folder: Path, entry: dict) -> bool:
    """Whether the files of an entry are there; RuntimeError if one has another size than when it was written."""
    there = True
    for suffix, right in entry["sizes"].items():
        path = folder / f"{entry['stem']}.{suffix}"
        found = path.stat().st_size if path.exists() else None
        if found not in (None, right):
            raise Told(
                f"{path} is damaged: it has {found} bytes instead of {right}; delete this file and run the same command again, "
                "its block alone is built anew"
            )
        there &= found is not None
    return there
