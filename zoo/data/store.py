"""Token stores: memory-mapped shards of tokens with a manifest, built once, in parallel, and picked up again after a kill.

A folder holds, for a corpus cut into S shards, `train-00000.bin` … (little-endian uint16, or uint32 for more than 65536 ids; an end token
after each document), the same for the other splits, one `00000.json` per shard (written after its files: the shard is done), the tokenizer, and
`manifest.json`, written last. Which parts make up a shard depends on the parts alone, so the bytes are the same for any number of workers.
Nothing here imports torch: a worker process is ready in a fraction of a second.
"""
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from zoo.data.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "validation", "test")
SHARDS = 256  # at most; sources cut large corpora into parts of some 64 MB
BATCH = 256  # documents encoded at a time
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def build(source, tokenizer: Tokenizer, folder: str | os.PathLike, workers: int | None = None, progress: bool = True) -> None:
    """Write the token store of a source into a folder; does nothing when it is there, and only what is missing after a kill.

    workers: processes (None: one per core). Memory does not depend on the corpus. Two processes that ask for the same store take turns.
    Raises RuntimeError in one sentence when the disk is full, when a worker is killed, or when a shard on disk has the wrong size; ValueError
    when the folder belongs to another corpus or tokenizer.
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
        raise RuntimeError(f"the disk of {folder} is full; free some space, or choose another place with data.root, and run the same "
                           "command again: finished shards are kept") from None  # fmt: skip


def complete(folder: str | os.PathLike, source: str, tokenizer: str) -> bool:
    """Whether a folder holds the whole store of this corpus and tokenizer (fingerprints); ValueError if it is the store of others."""
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
        raise ValueError(f"the store in {folder} was made with another tokenizer than the one asked for: delete the folder to build it "
                         "again, or ask for the tokenizer that lies in it")  # fmt: skip
    if source not in (None, manifest["source"]):
        raise ValueError(f"the store in {folder} holds another corpus ({manifest['description']}): delete the folder, or choose another root")


def _build(source, tokenizer: Tokenizer, folder: Path, workers: int, progress: bool) -> None:
    tokenizer.save(folder)
    for leftover in folder.glob("*.tmp"):  # of a killed run; the lock says that nobody is writing them
        leftover.unlink(missing_ok=True)
    parts = source.parts()
    size, dtype = -(-len(parts) // SHARDS), _dtype(tokenizer)
    groups = [parts[i : i + size] for i in range(0, len(parts), size)]
    keys = [hashlib.sha256(f"{source.fingerprint} {tokenizer.fingerprint} {i}/{len(groups)}".encode()).hexdigest() for i in range(len(groups))]
    jobs = [(i, key, group) for i, (key, group) in enumerate(zip(keys, groups)) if not _finished(folder, i, key, dtype.itemsize)]
    report = Progress(len(groups), len(groups) - len(jobs), folder, progress)
    if min(workers, len(jobs)) > 1:
        _in_processes(source, folder, jobs, min(workers, len(jobs)), report)
    else:
        for job in jobs:
            for step in _shard(source, tokenizer, folder, *job):
                report.read(step)
            report.done()
    report.close()
    shards = [entry for i in range(len(groups)) for entry in json.loads(_sidecar(folder, i).read_text())["files"]]
    totals = {split: {name: sum(entry[name] for entry in shards if entry["split"] == split) for name in ("tokens", "documents", "bytes")}
              for split in SPLITS}  # fmt: skip
    _write_json(folder / "manifest.json", {
        "description": source.description, "source": source.fingerprint, "tokenizer": tokenizer.fingerprint, "vocab": tokenizer.vocab,
        "eos": tokenizer.eos, "dtype": dtype.str, "splits": totals, "shards": shards,
    })  # fmt: skip


def _shard(source, tokenizer: Tokenizer, folder: Path, index: int, key: str, parts: list) -> Iterator[int]:
    """Write one shard: a file per split, then its sidecar. Yields the bytes of text read, batch by batch."""
    writers: dict[str, _Writer] = {}
    documents = (document for part in parts for document in source.read(part))
    dtype = _dtype(tokenizer)
    end = np.array([tokenizer.eos], dtype).tobytes()
    try:
        while batch := list(islice(documents, BATCH)):
            read = 0
            for document, ids in zip(batch, tokenizer.encode_batch([document.text for document in batch])):
                if document.split not in writers:
                    writers[document.split] = _Writer(folder, f"{document.split}-{index:05d}.bin", document.split)
                size = len(document.text.encode(errors="replace"))
                writers[document.split].add(ids.astype(dtype, copy=False), end, size)
                read += size
            yield read
        files = [writers[split].close() for split in SPLITS if split in writers]
    finally:
        for writer in writers.values():
            writer.discard()
    _write_json(_sidecar(folder, index), {"key": key, "files": files})


class _Writer:
    """Collects the tokens of one file a megabyte at a time; the file gets its name when it is whole and on disk."""

    def __init__(self, folder: Path, name: str, split: str):
        self.path, self.temporary = folder / name, folder / f"{name}.{os.getpid()}.tmp"
        self.file, self.digest, self.pending, self.size = open(self.temporary, "wb", buffering=0), hashlib.sha256(), [], 0
        self.entry = {"file": name, "split": split, "tokens": 0, "documents": 0, "bytes": 0}

    def add(self, ids: np.ndarray, end: bytes, size: int) -> None:
        self.pending += [ids, end]
        self.size += ids.nbytes
        self.entry["tokens"] += len(ids) + 1
        self.entry["documents"] += 1
        self.entry["bytes"] += size
        if self.size > 1 << 20:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self.pending)
        self.digest.update(data)
        rest = memoryview(data)
        while rest:  # an unbuffered write may stop short, on a disk that fills up
            rest = rest[self.file.write(rest) :]
        self.pending, self.size = [], 0

    def close(self) -> dict:
        self._flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        return self.entry | {"sha256": self.digest.hexdigest()}

    def discard(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _in_processes(source, folder: Path, jobs: list, workers: int, report: "Progress") -> None:
    """Give jobs to spawned workers as they become free, over one pipe each; a worker whose pipe breaks off ends by itself."""
    context = multiprocessing.get_context("spawn")
    jobs, processes, busy = iter(jobs), [], {}
    try:
        with _light_children(source):
            for _ in range(workers):
                ours, theirs = context.Pipe()
                processes.append(context.Process(target=_work, args=(theirs, source, folder), daemon=True))
                processes[-1].start()
                theirs.close()
                busy[ours] = processes[-1]
                ours.send(next(jobs))
        while busy:
            for connection in wait(list(busy)):
                try:
                    message = connection.recv()
                except EOFError:
                    busy[connection].join()
                    raise RuntimeError(f"a worker that was building {folder} was killed (exit code {busy[connection].exitcode}; out of "
                                       "memory?): run again with fewer prepare_workers, finished shards are kept") from None  # fmt: skip
                if isinstance(message, Exception):
                    raise message
                if message is not None:
                    report.read(message)
                    continue
                report.done()
                if (job := next(jobs, None)) is None:
                    del busy[connection]
                    connection.close()
                else:
                    connection.send(job)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(connection: Connection, source, folder: Path) -> None:
    """Body of a worker: jobs come in; byte counts, None for a finished shard, or an exception go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone, or has no more jobs
        try:
            tokenizer = load_tokenizer(folder)
            while True:
                for step in _shard(source, tokenizer, folder, *connection.recv()):
                    connection.send(step)
                connection.send(None)
        except (EOFError, BrokenPipeError):
            raise
        except (ValueError, RuntimeError, OSError) as error:
            connection.send(error)
        except Exception:
            connection.send(RuntimeError(f"a worker that was building {folder} failed:\n{traceback.format_exc()}"))


@contextlib.contextmanager
def _light_children(source) -> Iterator[None]:
    """Keep spawned workers from importing the caller's main script, which may lack the `if __name__` guard or import torch."""
    main = sys.modules["__main__"]
    if type(source).__module__ != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _finished(folder: Path, index: int, key: str, itemsize: int) -> bool:
    try:
        sidecar = json.loads(_sidecar(folder, index).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return sidecar["key"] == key and all(_present(folder, entry, itemsize) for entry in sidecar["files"])


def _present(folder: Path, entry: dict, itemsize: int) -> bool:
    """Whether a file of a shard is there; RuntimeError if it is, with another size than when it was written."""
    path = folder / entry["file"]
    if path.exists() and path.stat().st_size != entry["tokens"] * itemsize:
        raise RuntimeError(f"{path} is damaged: it has {path.stat().st_size} bytes instead of {entry['tokens'] * itemsize}; delete this file "
                           "and run the same command again, it alone is built anew")  # fmt: skip
    return path.exists()


def _sidecar(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab <= 1 << 16 else "<u4")


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


class Progress:
    """A bar on a terminal; elsewhere a line every five seconds. Counts shards and megabytes of text."""

    def __init__(self, shards: int, finished: int, folder: Path, shown: bool):
        from tqdm import tqdm

        self.shards, self.finished, self.already, self.megabytes, self.start = shards, finished, finished, 0.0, time.monotonic()
        self.shown, self.last = shown, time.monotonic()
        self.bar = None
        if shown and sys.stdout.isatty():
            self.bar = tqdm(total=shards, initial=finished, unit="shard", desc=folder.name, file=sys.stdout, dynamic_ncols=True)
        elif shown and finished:
            print(f"{folder.name}: {finished} of {shards} shards are there already", flush=True)
        self.name = folder.name

    def read(self, size: int) -> None:
        """Another `size` bytes of text have been encoded."""
        self.megabytes += size / 1e6
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.megabytes:.0f} MB, {self.rate:.1f} MB/s", refresh=False)
            self.bar.update(0)
        elif self.shown and time.monotonic() - self.last > 5:
            self.last = time.monotonic()
            print(f"{self.name}: shard {self.finished} of {self.shards}, {self.megabytes:.0f} MB, {self.rate:.1f} MB/s{self.to_go}", flush=True)

    def done(self) -> None:
        self.finished += 1
        if self.bar is not None:
            self.bar.update(1)

    @property
    def rate(self) -> float:
        return self.megabytes / max(1e-9, time.monotonic() - self.start)

    @property
    def to_go(self) -> str:
        new = self.finished - self.already
        return f", {(time.monotonic() - self.start) / new * (self.shards - self.finished):.0f} s to go" if new else ""

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class TokenStore:
    """The tokens of one split, memory-mapped; `len` is their number. A split without documents is an empty store.

    tokenizer: the fingerprint that is expected, if any. Raises FileNotFoundError, ValueError (wrong tokenizer) or RuntimeError (a shard
    that is missing or has the wrong size) in one sentence.
    """

    def __init__(self, folder: str | os.PathLike, split: str, tokenizer: str | None = None):
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(self.folder)
        _belongs(self.folder, self.manifest, None, tokenizer)
        dtype = np.dtype(self.manifest["dtype"])
        entries = [entry for entry in self.manifest["shards"] if entry["split"] == split]
        for entry in entries:
            if not _present(self.folder, entry, dtype.itemsize):
                raise RuntimeError(f"{self.folder / entry['file']} is missing: run the same command again, it alone is built anew")
        # plain views: slicing an np.memmap costs twenty times as much as slicing an array
        self._shards = [np.memmap(self.folder / entry["file"], dtype, "r").view(np.ndarray) for entry in entries]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    def __reduce__(self):
        return TokenStore, (self.folder, self.split)  # workers map the files anew

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The tokens at [start, start + length) for each start, across shards. (B,) -> (B, length) int64; ValueError past the end."""
        starts = np.asarray(starts, np.int64)
        if len(starts) and not 0 <= starts.min() <= starts.max() <= len(self) - length:
            raise ValueError(f"a window of {length} tokens at {starts.max()} does not lie within the {len(self)} {self.split} tokens")
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
