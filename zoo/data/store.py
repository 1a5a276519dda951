"""Token stores: memory-mapped shards of tokens with a manifest, built once, in parallel, and picked up again after a kill.

A folder holds `train-00000.bin` and on (little-endian uint16, or uint32 for more than 65536 ids; an end token after each
document), the same for the other splits, a sidecar such as `00000.json` per finished shard, the tokenizer, and `manifest.json`,
written last. Which parts of a corpus make up a shard depends on the parts alone, so the bytes are the same for any number of
workers.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo.data.shards import SPLITS, Progress, clear, dtype_of, sidecar_path, write_json, write_shards
from zoo.data.tokenizer import Tokenizer
from zoo.explain import Told

SHARDS = 256  # at most; sources cut large corpora into parts of some 16 MB
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def build(source, tokenizer: Tokenizer, folder: str | os.PathLike, workers: int | None = None, progress: bool = True) -> None:
    """Write the token store of a source into a folder; does nothing when it is there, and only what is missing after a kill.

    workers: processes (None: one per core). Memory does not depend on the corpus. Two processes that want the same store take
    turns.
    Raises RuntimeError in one sentence when the disk is full, when a worker is killed, or when a shard on disk has the wrong
    size; ValueError when the folder belongs to another corpus or tokenizer.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".store.lock"):
            if not complete(folder, source.fingerprint, tokenizer.fingerprint):
                _build(source, tokenizer, folder, workers or cores(), progress)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Told(
            f"the disk of {folder} is full; free some space, or choose another place with data.root, and run the same command "
            "again: finished shards are kept"
        ) from None


def complete(folder: str | os.PathLike, source: str, tokenizer: str) -> bool:
    """Whether a folder holds the whole store of a corpus and tokenizer (fingerprints); ValueError if it is that of others."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        return False
    manifest = read_manifest(folder)
    _belongs(folder, manifest, source, tokenizer)
    return all((folder / shard["file"]).exists() for shard in manifest["shards"])


def read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no token store in {folder}: prepare_data() (or `zoo prepare`) builds it") from None
    except ValueError:
        raise ValueError(f"{path} is damaged: delete it and run again, the shards are kept") from None


def _belongs(folder: Path, manifest: dict, source: str | None, tokenizer: str | None) -> None:
    if tokenizer not in (None, manifest["tokenizer"]):
        raise ValueError(
            f"the store in {folder} was made with another tokenizer than the one asked for: delete the folder to build it again, "
            "or put the tokenizer back that it was made with"
        )
    if source not in (None, manifest["source"]):
        about = manifest["description"]
        raise ValueError(f"the store in {folder} holds another corpus ({about}): delete the folder, or choose another root")


def _build(source, tokenizer: Tokenizer, folder: Path, workers: int, progress: bool) -> None:
    tokenizer.save(folder)
    clear(folder)
    parts, itemsize = source.parts(), dtype_of(tokenizer).itemsize
    size = max(1, -(-len(parts) // SHARDS))
    groups = [parts[i : i + size] for i in range(0, len(parts), size)]
    jobs = []
    for i, group in enumerate(groups):
        key = hashlib.sha256(f"{source.fingerprint} {tokenizer.fingerprint} {i}/{len(groups)}".encode()).hexdigest()
        if not _finished(folder, i, key, itemsize):
            jobs.append((i, key, group))
    with Progress(len(groups), len(groups) - len(jobs), folder, progress) as report:
        write_shards(source, tokenizer, folder, jobs, min(workers, len(jobs)), report)
    shards = [entry for i in range(len(groups)) for entry in json.loads(sidecar_path(folder, i).read_text())["files"]]
    totals = {split: dict.fromkeys(("tokens", "documents", "bytes"), 0) for split in SPLITS}
    for entry in shards:
        for name in totals[entry["split"]]:
            totals[entry["split"]][name] += entry[name]
    manifest = {
        "description": source.description,
        "source": source.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "vocab": tokenizer.vocab,
        "eos": tokenizer.eos,
        "dtype": dtype_of(tokenizer).str,
        "splits": totals,
        "shards": shards,
    }
    write_json(folder / "manifest.json", manifest)


def _finished(folder: Path, index: int, key: str, itemsize: int) -> bool:
    try:
        sidecar = json.loads(sidecar_path(folder, index).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return sidecar["key"] == key and all(_present(folder, entry, itemsize) for entry in sidecar["files"])


def _present(folder: Path, entry: dict, itemsize: int) -> bool:
    """Whether a file of a shard is there; RuntimeError if it is, with another size than when it was written."""
    path = folder / entry["file"]
    if not path.exists():
        return False
    found, right = path.stat().st_size, entry["tokens"] * itemsize
    if found != right:
        raise Told(
            f"{path} is damaged: it has {found} bytes instead of {right}; delete this file and run the same command again, it "
            "alone is built anew"
        )
    return True


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; ranks and runs that want the same thing wait. A killed process lets go of it by itself."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is preparing {path.parent}: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Prepared:
    """A token store that stands for its corpus, where the text itself is not: on a node without network or packages."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.description, self.fingerprint = manifest["description"], manifest["source"]

    def documents(self, split: str | None = None) -> Iterator:
        """Its documents as the tokenizer spells them; a cut store ends inside its last one."""
        from zoo.data.sources import Document, identity
        from zoo.data.tokenizer import load_tokenizer

        tokenizer, eos = load_tokenizer(self.folder), read_manifest(self.folder)["eos"]
        for each in [split] if split else ["train", "validation", "test"]:
            left: list[int] = []
            for shard in TokenStore(self.folder, each)._shards:
                *whole, rest = np.split(shard, np.flatnonzero(shard == eos) + 1)
                for tokens in whole:
                    text = tokenizer.decode([*left, *tokens[:-1].tolist()])
                    yield Document(text, identity(text), each)
                    left = []
                left += rest.tolist()
            if left:
                text = tokenizer.decode(left)
                yield Document(text, identity(text), each)


class TokenStore:
    """The tokens of one split, memory-mapped; `len` is their number. A split without documents is an empty store.

    tokenizer: the fingerprint that is expected, if any. Raises FileNotFoundError, ValueError (wrong tokenizer) or RuntimeError
    (a shard that is missing or has the wrong size) in one sentence.
    """

    def __init__(self, folder: str | os.PathLike, split: str, tokenizer: str | None = None):
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(self.folder)
        _belongs(self.folder, self.manifest, None, tokenizer)
        dtype = np.dtype(self.manifest["dtype"])
        entries = [entry for entry in self.manifest["shards"] if entry["split"] == split]
        for entry in entries:
            if not _present(self.folder, entry, dtype.itemsize):
                path = self.folder / entry["file"]
                raise Told(f"{path} is missing: run the same command again, it alone is built anew")
        # plain views: slicing an np.memmap costs twenty times as much as slicing an array
        self._shards = [np.memmap(self.folder / entry["file"], dtype, "r").view(np.ndarray) for entry in entries]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    def __reduce__(self):
        return TokenStore, (self.folder, self.split)  # workers map the files anew

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The tokens at [start, start + length) for each start, across shards. (B,) -> (B, length) int64."""
        starts = np.asarray(starts, np.int64)
        if len(starts) and not 0 <= starts.min() <= starts.max() <= len(self) - length:
            raise ValueError(f"windows of {length} tokens reach beyond the {len(self)} tokens of the {self.split} split")
        out = np.empty((len(starts), length), np.int64)
        for row, start, shard in zip(out, starts.tolist(), np.searchsorted(self._ends, starts, side="right").tolist()):
            filled = 0
            while filled < length:
                tokens = self._shards[shard]
                begin = start + filled - int(self._ends[shard]) + len(tokens)
                piece = tokens[begin : begin + length - filled]
                row[filled : filled + len(piece)] = piece
                filled, shard = filled + len(piece), shard + 1
        return out
