"""Sentence stores: what a naive loop would write, whoever writes it and however often it is killed."""

import errno
import json
import os
import pickle
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from sentence_vectors import Hashed, Stops, vector

from zoo.data import sentences
from zoo.data.scale import executor
from zoo.data.sentence_store import SentenceStore, report
from zoo.data.sentences import END, SentenceShards, build
from zoo.data.shards import Progress
from zoo.data.sources import Files

COUNTS = [1, 3, 127, 128, 129, 255, 256, 400, 0, 5, *range(2, 40)]


@pytest.fixture
def source(tmp_path):
    """Documents of known numbers of sentences in two files; one of them has none."""
    rng = random.Random(0)
    for name, counts in (("a", COUNTS[:30]), ("b", COUNTS[30:])):
        rows = [
            " ".join(f"Größe {rng.randrange(500)} of {name}{i}." for _ in range(count)) or "#" for i, count in enumerate(counts)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return Files([f"{tmp_path}/*.jsonl"], validation=0.2, test=0.1)


@pytest.fixture
def shards(source, tmp_path):
    """Makes the work of a store in several parts and blocks."""

    def make(folder="store", encoder=None, **given):
        made = SentenceShards(source, Stops(), encoder or Hashed(), tmp_path / folder, **({"characters": 4000} | given))
        made.groups = [[(piece,)] for part in source.parts() for piece in part]  # one file each, as for a large corpus
        return made

    return make


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}


def naive(source, split):
    return [[*Stops()(document.text), END] for document in source.documents(split) if Stops()(document.text)]


def whole(folder, split, **given):
    store = SentenceStore(folder, split, **given)
    return [store.texts(number) for number in range(len(store))]


def test_a_store_is_what_a_naive_loop_gives(shards, source):
    made = shards()
    build(made, progress=False)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert len(manifest["shards"]) > 8 and manifest["without_sentences"] == 1
    assert (manifest["width"], manifest["encoder"], manifest["lang"], manifest["end"]) == (6, "hashed", "eng_Latn", END)
    for split in ("train", "validation", "test"):
        documents = naive(source, split)
        store = SentenceStore(made.folder, split, wrap=10**6)
        assert [store.texts(number) for number in range(len(store))] == documents and documents
        assert manifest["splits"][split] == {
            "sentences": sum(map(len, documents)), "documents": len(documents),
            "bytes": sum(len(text.encode()) for each in documents for text in each),
        }  # fmt: skip
        for number, texts in enumerate(documents):
            vectors, lengths = store.chunks(np.array([number]))
            assert lengths.tolist() == [len(texts)] and vectors.dtype == np.float32
            assert (vectors[0] == np.stack([vector(text) for text in texts]).astype(np.float16)).all()


def test_long_documents_are_wrapped_and_only_the_last_chunk_ends(shards, source):
    made = shards()
    build(made, progress=False)
    wanted = [texts[i : i + 128] for texts in naive(source, "train") for i in range(0, len(texts), 128)]
    assert whole(made.folder, "train") == wanted
    assert sum(chunk[-1] == END for chunk in wanted) == len(naive(source, "train")) and [END] in wanted
    store = SentenceStore(made.folder, "train")
    order = np.random.default_rng(0).permutation(len(store))[:20]
    vectors, lengths = store.chunks(order)
    assert vectors.shape == (20, lengths.max(), 6) and lengths.tolist() == [len(wanted[i]) for i in order]
    for row, length, number in zip(vectors, lengths, order):
        assert (row[:length] == store.chunks(np.array([number]))[0][0]).all() and not row[length:].any()
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.chunks(order)[0] == vectors).all()


@pytest.mark.parametrize("limit", [0, 60, 700, 1500])
def test_a_killed_build_goes_on_where_it_was(shards, limit, monkeypatch):
    monkeypatch.setattr(sentences, "BATCH", 32)
    build(shards("reference", whole_encoder := Hashed()), progress=False)
    with pytest.raises(KeyboardInterrupt):
        build(shards(encoder=Hashed(limit)), progress=False)
    for name in ("train-00001-000.vec.node.123.tmp", "00001.json.123.tmp"):
        (shards().folder / name).write_bytes(b"left by a kill")
    again = Hashed()
    build(shards(encoder=again), progress=False)
    assert content(shards().folder) == content(shards("reference").folder)
    assert again.count <= whole_encoder.count - limit / 2 or limit < 100  # what was whole is not encoded again
    idle = Hashed(0)
    build(shards(encoder=idle), progress=False)
    assert idle.count == 0


def test_a_resumed_build_tells_what_was_there(shards, capsys, monkeypatch):
    made = shards()
    kept = [size for size, _ in zip(made.write(0), range(3))]
    assert all(kept) and made.kept(0) == 4  # the fourth was written before it was asked whether it is wanted
    now, heard = [100.0], []
    monkeypatch.setattr("zoo.data.shards.time", SimpleNamespace(monotonic=lambda: now[0]))

    def hear(self, message):
        now[0] += 10
        heard.append(message)
        return plain(self, message)

    plain = Progress.hear
    monkeypatch.setattr(Progress, "hear", hear)
    build(shards())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "store: 0 of 2 shards and 4 blocks of others are there already"
    assert heard[:4] == [0] * 4 and all(size != 0 for size in heard[4:])
    written = sum(filter(None, heard)) / 1e6
    assert said[4] == "store: 0 of 2 shards, 0 MB, 0.00 MB/s"
    assert said[-1] == f"store: 2 of 2 shards, {written:.0f} MB, {written / (10 * len(heard[4:])):.2f} MB/s, 0 s to go"
    (made.folder / "manifest.json").unlink()
    (made.folder / "00001.json").unlink()
    build(shards())
    assert " 1 of 2 shards and " in capsys.readouterr().out.splitlines()[0]


def test_speed_is_of_what_is_done_now(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("zoo.data.shards.time", SimpleNamespace(monotonic=lambda: now[0]))
    report = Progress(2, 0, Path("store"), True, 1)
    for message, seconds in ((0, 100), (40_000_000, 10), (None, 0), (20_000_000, 10)):
        now[0] += seconds
        report.hear(message)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "store: 0 of 2 shards and 1 blocks of others are there already"
    assert lines[-2:] == ["store: 0 of 2 shards, 40 MB, 4.00 MB/s", "store: 1 of 2 shards, 60 MB, 3.00 MB/s, 20 s to go"]


def test_two_writers_of_a_shard_take_turns(shards, monkeypatch):
    monkeypatch.setattr(sentences, "BATCH", 32)
    monkeypatch.setattr("platform.node", lambda: "node7")
    build(reference := shards("reference"), progress=False)
    reached, go, errors = threading.Event(), threading.Event(), []

    class Waiting(Hashed):
        def encode(self, texts, lang):
            if self.count:  # the files of its first block are open by now
                reached.set()
                go.wait(60)
            return super().encode(texts, lang)

    def run(work):
        try:
            work()
        except Exception as error:
            errors.append(error)

    task, other = shards(encoder=Waiting()), Hashed()
    writer = threading.Thread(target=run, args=(lambda: list(task.write(0)),))
    builder = threading.Thread(target=run, args=(lambda: build(shards(encoder=other), progress=False),))
    writer.start()
    assert reached.wait(60)
    builder.start()
    builder.join(1)
    left = [path.name for path in task.folder.glob("*.tmp")]
    waited = builder.is_alive()
    go.set()
    writer.join()
    builder.join()
    assert errors == [] and waited and left and all(".node7." in name for name in left)
    assert content(task.folder) == content(reference.folder)
    assert other.count and task.encoder.count + other.count == reference.encoder.count  # nothing twice


def test_a_store_of_more_files_than_a_process_may_open(shards, source):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    made = shards(characters=1)  # a block for each document
    build(made, progress=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 20, limits[1]))
    try:
        stores = {split: SentenceStore(made.folder, split, wrap=10**6) for split in ("train", "validation", "test")}
        found = {split: [store.texts(number) for number in range(len(store))] for split, store in stores.items()}
        vectors, lengths = stores["train"].chunks(np.arange(len(stores["train"])))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert stores["train"].shards > 20 and found == {split: naive(source, split) for split in stores}
    rows = [row[:length] for row, length in zip(vectors, lengths)]
    assert (np.concatenate(rows) == stores["train"].sample(10**9)).all()


def test_what_was_cut_or_dropped_is_in_the_manifest(shards, source):
    class Short(Hashed):
        truncated = 3  # of an earlier store
        unknown = 0

        def encode(self, texts, lang):
            self.truncated += sum(len(text) > 15 for text in texts)
            self.unknown += sum("ö" in text for text in texts)
            return super().encode(texts, lang)

    made = shards(encoder=Short(), characters=1)  # a block for each document
    next(made.write(0))
    source.dropped = {"broken record": 2}
    again = shards(encoder=Short(), characters=1)  # another process does the rest
    build(again, progress=False)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    documents = [texts for split in ("train", "validation", "test") for texts in naive(source, split)]
    cut = sum(len(text) > 15 for texts in documents for text in set(texts))
    assert manifest["truncated"] == cut > again.encoder.truncated - 3 > 0 and manifest["dropped"] == {"broken record": 2}
    assert f"left out: 2 broken record, 1 without a sentence; {cut:,} sentences were too long for the encoder" in report(manifest)
    strange = sum("ö" in text for texts in documents for text in set(texts))
    assert manifest["unknown"] == strange > again.encoder.unknown > 0
    assert f"; {strange:,} sentences are in letters that the encoder hardly knows" in report(manifest)


def test_what_could_not_be_read_is_counted_once(shards, source, tmp_path):
    good = shards("good")
    build(good, progress=False)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    broken = [*lines[:4], "{", *lines[4:20], '{"text": 3}', "}", *lines[20:], "["]
    (tmp_path / "a.jsonl").write_text("\n".join(broken) + "\n")
    (tmp_path / "b.jsonl").write_text("{\n" + (tmp_path / "b.jsonl").read_text())
    source.forgiving = True
    del source.__dict__["fingerprint"], source.__dict__["paths"]
    made = shards(characters=300)
    for _ in zip(range(6), made.write(0)):
        pass  # killed after some blocks
    again = shards(characters=300)
    build(again, progress=False)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["dropped"] == {"lines that are no JSON object": 4, "rows or files without a text": 1}
    assert "left out: 4 lines that are no JSON object, 1 rows or files without a text, 1 without a sentence" in report(manifest)
    for split in ("train", "validation", "test"):
        assert whole(made.folder, split) == whole(good.folder, split)


def test_a_repeated_sentence_is_encoded_once_in_a_block(shards, source):
    encoder = Hashed()
    made = shards(encoder=encoder, characters=10**9)  # a block for each of the two files
    build(made, progress=False)
    files = [[Stops()(each.text) for part in group for each in source.read(part)] for group in made.groups]
    distinct = [{text for texts in file for text in texts} | {END} for file in files]
    assert encoder.count == sum(map(len, distinct)) < sum(len(texts) + 1 for file in files for texts in file)


def test_a_lost_file_is_made_again_and_a_damaged_one_named(shards):
    made = shards()
    build(made, progress=False)
    before = content(made.folder)
    (made.folder / "train-00000-001.text").unlink()
    with pytest.raises(RuntimeError, match=r"files of the sentence store .* are missing: run the same command again"):
        SentenceStore(made.folder, "train")
    again = Hashed()
    build(shards(encoder=again), progress=False)
    assert content(made.folder) == before and 0 < again.count < 400
    with open(made.folder / "train-00000-000.vec", "ab") as file:
        file.write(b"x")
    for failing in (lambda: build(made, progress=False), lambda: SentenceStore(made.folder, "train")):
        with pytest.raises(
            RuntimeError, match=r"train-00000-000.vec is damaged: it has \d+ bytes instead of \d+; delete this file"
        ):
            failing()


def test_mistakes_are_named(shards, tmp_path, monkeypatch):
    made = shards()
    with pytest.raises(FileNotFoundError, match="there is no sentence store in"):
        SentenceStore(made.folder, "train")
    with pytest.raises(RuntimeError, match=r"2 of 2 shards of .* are missing"):
        made.finish()
    for bad, message in [
        (lambda texts, lang: torch.zeros(len(texts), 5), r"gave \(\d+, 5\) for \d+ sentences, not \(\d+, 6\)"),
        (lambda texts, lang: torch.full((len(texts), 6), 1e6), "numbers that float16 cannot hold: check the encoder"),
        (lambda texts, lang: torch.full((len(texts), 6), torch.nan), r"the vector of 'Größe \d+ of a0.' holds NaN"),
    ]:
        wrong = Hashed()
        wrong.encode = bad
        with pytest.raises((ValueError, RuntimeError), match=message):
            build(shards(encoder=wrong), progress=False)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=r"the disk of .* is full; free some space"):
        patch.setattr(sentences._Writer, "add", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        build(made, progress=False)
    build(made, progress=False)
    with pytest.raises(ValueError, match="made of another corpus, segmenter, encoder or language: delete the folder"):
        build(shards(lang="deu_Latn"), progress=False)
    with pytest.raises(ValueError, match="another corpus"):
        SentenceStore(made.folder, "train", fingerprint="other")
    (tmp_path / "manifest.json").write_text('{"tokenizer": "bytes"}')
    with pytest.raises(ValueError, match="holds a token store, not one of sentences"):
        SentenceStore(tmp_path, "train")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: delete it"):
        SentenceStore(tmp_path, "train")


def test_a_sample_is_spread_over_the_split(shards, source):
    build(shards(), progress=False)
    store = SentenceStore(shards().folder, "train")
    flat = np.stack([vector(text) for texts in naive(source, "train") for text in texts]).astype(np.float16)
    assert (store.sample(10**9) == flat).all() and store.sentences == len(flat)
    assert (store.sample(37) == flat[np.arange(37) * len(flat) // 37]).all()


def test_datatrove_writes_what_the_loop_writes(shards):
    pytest.importorskip("datatrove", reason="datatrove is in the extra `scale`")
    build(shards("reference"), progress=False)
    made = shards()
    executor(made, workers=2).run()
    made.finish()
    reference = content(shards("reference").folder)
    assert content(made.folder) == reference and len(whole(made.folder, "train")) > 30
    (made.folder / "00001.json").unlink()
    executor(made, workers=1).run()  # its logs say that all is done, the store knows better
    assert content(made.folder) == reference


def test_slurm_and_ray_are_told_the_same_work(shards, tmp_path):
    pytest.importorskip("datatrove", reason="datatrove is in the extra `scale`")
    made = executor(shards(), "slurm", partition="gpu", time="01:00:00", gpus=1, cpus=8, gigabytes=64, logs=tmp_path / "logs")
    assert (made.tasks, made.partition, made.time, made.gpus_per_task) == (2, "gpu", "01:00:00", 1)
    assert (made.cpus_per_task, made.mem_per_cpu_gb) == (8, 8)
    assert made.pipeline[0].folder == shards().folder
    with pytest.raises(ValueError, match="Slurm executor needs the name of a partition"):
        executor(shards(), "slurm")
    with pytest.raises(ValueError, match="executor 'cloud' is none of local, slurm, ray"):
        executor(shards(), "cloud")
    assert executor(shards(), "ray", logs=tmp_path / "logs").tasks == 2
