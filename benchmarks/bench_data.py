"""Speed and memory of data preparation and loading: the data's part of `python -m benchmarks.bench [--quick]`.

Code of the installed packages as JSON lines becomes a token store, with the same merges everywhere: ours with one and two
workers, and `datasets.map` one document at a time, whose result is then written to one file (how it is commonly done).
Every sample is a process of its own, imports included; CPU seconds count its workers too. Medians of interleaved rounds.
Two workers are compared with one on three times the text, and mean something on a quiet machine only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES = 48  # of which a third is the text that most samples read
SAMPLES = {
    "datasets": ("datasets", FILES // 3),
    "ours": ("ours 1", FILES // 3),
    "one": ("ours 1", FILES),
    "two": ("ours 2", FILES),
}
STEP = {"dim": 128, "layers": 12, "heads": 4, "vocab": 4096, "context": 256, "rows": 8}  # recipes/scales/laptop.yaml


def write_corpus(folder: Path, megabytes: float, vocab: int) -> None:
    """JSON lines of code in FILES files, and a BPE trained on the first fifteenth of it."""
    from zoo.data.installed import Installed
    from zoo.data.tokenizer import train_bpe

    texts, size = [], 0
    for document in Installed("code").documents():
        texts.append(document.text)
        size += len(document.text.encode())
        if size > megabytes * 1e6:
            break
    for i in range(FILES):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[i::FILES])
        (folder / f"{i:02d}.jsonl").write_text("".join(lines))
    train_bpe(iter(texts[: len(texts) // 15]), vocab).save(folder / "tokenizer")


def sample(route: str, folder: Path, files: int) -> None:
    """Body of one measured process: make the first `files` files into tokens, print the peak memory in KiB."""
    paths = [str(folder / f"{i:02d}.jsonl") for i in range(files)]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        if route == "datasets":
            with_datasets(paths, folder / "tokenizer", Path(out))
        else:
            from zoo.data import sources, store
            from zoo.data.tokenizer import load_tokenizer

            sources.PART = 1  # each file a part, although they are small
            store.build(sources.Files(paths), load_tokenizer(folder / "tokenizer"), out, workers=int(route[-1]), progress=False)
    # not getrusage: its peak of a new process begins with the memory of the one that started it
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))


def with_datasets(paths: list[str], tokenizer: Path, out: Path) -> None:
    """`datasets.map` document by document, then shard by shard into one memory-mapped file."""
    import datasets

    from zoo.data.tokenizer import load_tokenizer

    datasets.disable_progress_bars()
    bpe = load_tokenizer(tokenizer)
    rows = datasets.load_dataset("json", data_files=paths, split="train", cache_dir=str(out))

    def encode(row: dict) -> dict:
        ids = [*bpe.encode(row["text"]), bpe.eos]
        return {"ids": ids, "count": len(ids)}

    rows = rows.map(encode, remove_columns=["text"], new_fingerprint="tokens")
    tokens = np.memmap(out / "train.bin", np.uint16, "w+", shape=(sum(rows["count"]),))
    start = 0
    for i in range(32):
        ids = np.concatenate(rows.shard(32, i, contiguous=True).with_format("numpy")["ids"])
        tokens[start : start + len(ids)] = ids
        start += len(ids)
    tokens.flush()


def measure(route: str, folder: Path, files: int) -> dict[str, float]:
    """CPU seconds (workers included), wall seconds and peak MiB (without workers) of one sample."""
    command = [sys.executable, "-m", "benchmarks.bench_data", "--sample", route, str(folder), str(files)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the sample {route!r} ended with code {process.returncode}; what it said is above")
    return {"cpu": used.ru_utime + used.ru_stime, "wall": time.perf_counter() - start, "peak": int(said.split()[-1]) / 1024}


def loader(quick: bool) -> tuple[float, float]:
    """Milliseconds per batch of the loader, and of a training step of the laptop scale (forward and backward), medians."""
    from zoo.data import Code
    from zoo.ntp import NextToken

    with tempfile.TemporaryDirectory() as root:
        data = Code(
            source="installed",
            megabytes=2,
            tokenizer="bpe",
            vocab_size=STEP["vocab"],
            context=STEP["context"],
            batch=STEP["rows"],
            root=root,
        )
        data.prepare_data()
        data.setup()
        net = NextToken(STEP["vocab"], STEP["context"], STEP["dim"], STEP["layers"], STEP["heads"])
        batches = iter(data.train_dataloader())
        next(batches)
        loads, steps = [], []
        for _ in range(5 if quick else 20):
            start = time.perf_counter()
            batch = next(batches)
            loads.append(time.perf_counter() - start)
            start = time.perf_counter()
            net(batch)["loss"].backward()
            steps.append(time.perf_counter() - start)
    return 1e3 * statistics.median(loads), 1e3 * statistics.median(steps)


def main(quick: bool = False, rounds: int = 3) -> list[dict]:
    """Measure everything: rows {name, ours, anchor, ratio, target, unit, ok}. Two minutes; `quick` half of one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, 9 if quick else 150, 4096 if quick else 50257)
        texts = [
            sum(len(json.loads(line)["text"].encode()) for line in open(path)) / 1e6 for path in sorted(folder.glob("*.jsonl"))
        ]
        taken = {name: [] for name in SAMPLES}
        for _ in range(1 if quick else rounds):
            for name, (route, files) in SAMPLES.items():
                taken[name].append(measure(route, folder, files) | {"text": sum(texts[:files])})
        small = measure("ours 1", folder, FILES // 12)

    def speed(name: str, clock: str) -> float:
        return statistics.median(sample["text"] / sample[clock] for sample in taken[name])

    def paired(a: str, b: str, clock: str) -> float:
        return statistics.median(x["text"] / x[clock] / (y["text"] / y[clock]) for x, y in zip(taken[a], taken[b]))

    faster, both, parallel = paired("ours", "datasets", "cpu"), paired("two", "datasets", "cpu"), paired("two", "one", "wall")
    peak, load, step = max(sample["peak"] for sample in taken["one"]), *loader(quick)
    growth = peak / small["peak"]
    return [
        row(
            "store: text per CPU s beside datasets.map",
            speed("ours", "cpu"),
            speed("datasets", "cpu"),
            faster,
            ">= 1.9",
            "MB/s",
            faster >= 1.9,
        ),
        row("store, two workers: the same", speed("two", "cpu"), speed("datasets", "cpu"), both, ">= 1.9", "MB/s", both >= 1.9),
        row(
            "store: text per s of wall, two workers beside one",
            speed("two", "wall"),
            speed("one", "wall"),
            parallel,
            ">= 1.7",
            "MB/s",
            parallel >= 1.7,
        ),
        row(
            "store: peak memory beside that of a twelfth of the text",
            peak,
            small["peak"],
            growth,
            "<= 1.15",
            "MiB",
            growth <= 1.15,
        ),
        row("loader: a batch beside a laptop step", load, step, load / step, "<= 0.02", "ms", load / step <= 0.02),
        sentence_reading(quick),
    ]


def sentence_reading(quick: bool) -> dict:
    """Sentences of SONAR's width per CPU second, from a store that was just opened to training batches, shuffled."""
    import torch

    from zoo.data.crawl import CommonCrawlSentences
    from zoo.data.segment import Sentencex
    from zoo.data.sentences import SentenceShards, build
    from zoo.data.sources import Files

    class Drawn:
        """Vectors of no meaning; a store does not care."""

        fingerprint, width = "drawn", 1024

        def encode(self, texts: list[str], lang: str):
            return torch.randn(len(texts), self.width)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [" ".join(f"Sentence {i} of document {k}." for i in range(1 + k * 37 % 200)) for k in range(40 if quick else 1000)]
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        build(SentenceShards(Files(str(folder / "a.jsonl")), Sentencex(), Drawn(), folder / "store"), progress=False)
        data = CommonCrawlSentences(source="store", files=[str(folder / "store")], similar_lengths=False)
        data.setup()
        start = time.process_time()
        speed = sum(int(batch["length"].sum()) for batch in data.train_dataloader()) / (time.process_time() - start)
    return row("sentence store: reading, sentences per s and core", speed, None, None, ">= 20000", "/s", speed >= 20000)


def row(name: str, ours: float, anchor: float | None, ratio: float | None, target: str, unit: str, ok: bool) -> dict:
    return {"name": name, "ours": ours, "anchor": anchor, "ratio": ratio, "target": target, "unit": unit, "ok": ok}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little text, one round: that it works, not how fast")
    parser.add_argument("--sample", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sample:
        sample(given.sample[0], Path(given.sample[1]), int(given.sample[2]))
    else:
        from benchmarks.bench import cells

        for line in main(given.quick):
            print(*cells(line), sep=" | ")
