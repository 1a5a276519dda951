"""Writing the shards of a token store, in several processes: `zoo.data.store` says what a store is and builds it.

Files are written under a temporary name and get their own when they are whole and on disk; a sidecar such as `00000.json` says
that the files of its shard are. Nothing here imports torch: a worker process is ready in half a second.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from zoo.data.tokenizer import Tokenizer, load_tokenizer
from zoo.explain import Told
from zoo.files import put

SPLITS = ("train", "validation", "test")
BATCH, BATCH_SIZE = 256, 4_000_000  # documents, and characters, encoded at a time


def write_shards(source, tokenizer: Tokenizer, folder: Path, jobs: list, workers: int, report: "Progress") -> None:
    """Write the shards of all jobs in this process and in `workers` - 1 spawned ones; each takes the next job when it is free."""
    context = multiprocessing.get_context("spawn")
    taken, children = context.Value("q", 0), {}

    def listen(timeout: float | None) -> None:
        for connection in wait(list(children), timeout):
            try:
                report.hear(connection.recv())
            except EOFError:  # the worker has closed its end
                child = children.pop(connection)
                child.join()
                if child.exitcode:
                    raise Told(
                        f"a worker that was building {folder} was killed (exit code {child.exitcode}; out of memory?): run "
                        "again with fewer data.prepare_workers, finished shards are kept"
                    ) from None

    processes = []
    try:
        with _light_children(source):
            for _ in range(workers - 1):
                ours, theirs = context.Pipe(duplex=False)
                processes.append(context.Process(target=_work, args=(theirs, taken, source, folder, jobs), daemon=True))
                processes[-1].start()
                theirs.close()
                children[ours] = processes[-1]
        for step in _steps(source, tokenizer, folder, jobs, taken):
            report.hear(step)
            listen(0)
        while children:
            listen(None)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        clear(folder)


def _steps(source, tokenizer: Tokenizer, folder: Path, jobs: list, taken) -> Iterator[int | None]:
    """Do jobs that nobody has taken until there are none. Yields the bytes of text of each batch, and None after each shard."""
    while True:
        with taken:
            job = taken.value
            taken.value += 1
        if job >= len(jobs):
            return
        yield from _shard(source, tokenizer, folder, *jobs[job])
        yield None


def _work(connection: Connection, taken, source, folder: Path, jobs: list) -> None:
    """Body of a worker: sends what `_steps` yields, or the exception that ended it. Ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    try:
        for step in _steps(source, load_tokenizer(folder), folder, jobs, taken):
            connection.send(step)
    except BrokenPipeError:
        return
    except (ValueError, RuntimeError, OSError) as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"a worker that was building {folder} failed:\n{traceback.format_exc()}"))


def clear(folder: Path) -> None:
    """Remove what processes that were ended have left; the lock says that nobody else is writing here."""
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)


def _shard(source, tokenizer: Tokenizer, folder: Path, index: int, key: str, parts: list) -> Iterator[int]:
    """Write one shard: a file per split, then its sidecar. Yields the bytes of text read, batch by batch."""
    writers: dict[str, _Writer] = {}
    dtype = dtype_of(tokenizer)
    end = np.array([tokenizer.eos], dtype).tobytes()
    try:
        for batch in _batches(document for part in parts for document in source.read(part)):
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
    write_json(sidecar_path(folder, index), {"key": key, "files": files})


def _batches(documents: Iterable) -> Iterator[list]:
    """Lists of BATCH documents, or fewer where they hold more than a few MB, so that memory does not depend on the corpus."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == BATCH or size > BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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


class Progress:
    """A bar on a terminal, a line every five seconds elsewhere: shards, megabytes of text, speed, time to go. What was there
    before, `finished` shards and `blocks` of others, is said first and no part of megabytes and speed."""

    def __init__(self, shards: int, finished: int, folder: Path, shown: bool, blocks: int = 0):
        from tqdm import tqdm

        self.shards, self.finished, self.already, self.megabytes, self.start = shards, finished, finished, 0.0, time.monotonic()
        self.name, self.shown, self.last, self.heard, self.bar = folder.name, shown, self.start, self.start, None
        terminal = sys.stdout.isatty()
        if shown and (blocks or (finished and not terminal)):
            more = f" and {blocks} blocks of others" if blocks else ""
            print(f"{self.name}: {finished} of {shards} shards{more} are there already", flush=True)
        if shown and terminal:
            self.bar = tqdm(total=shards, initial=finished, unit="shard", desc=self.name, file=sys.stdout, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def hear(self, message: int | Exception | None) -> None:
        """Bytes of text that were encoded, 0 where they were there before, None for a finished shard, or what went wrong (which
        is raised)."""
        if isinstance(message, Exception):
            raise message
        self.megabytes += (message or 0) / 1e6
        self.finished += message is None
        now = time.monotonic()
        self.start += now - self.heard if message == 0 else 0.0  # the time that reading on took is no part of the speed
        self.heard, spent = now, now - self.start
        rate = f"{self.megabytes:.0f} MB, {self.megabytes / max(spent, 1e-9):.2f} MB/s"
        if self.bar is not None:
            self.bar.set_postfix_str(rate, refresh=False)
            self.bar.update(message is None)
        elif self.shown and now - self.last > 5:
            self.last = now
            new = self.finished - self.already
            to_go = f", {spent / new * (self.shards - self.finished):.0f} s to go" if new else ""
            print(f"{self.name}: {self.finished} of {self.shards} shards, {rate}{to_go}", flush=True)


def sidecar_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab <= 1 << 16 else "<u4")


def write_json(path: Path, content: dict) -> None:
    """Write a file, which appears whole. Raises OSError, in a sentence, where it cannot be written."""
    put(path, lambda draft: draft.write_text(json.dumps(content, indent=1), encoding="utf-8"))
