"""CommonCrawlSentences: batches are rows of the store in one order for all, resumed exactly; the token view is any token data."""

import json
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

sys.path.insert(0, str(Path(__file__).parent))
from sentence_vectors import Hashed, Stops, vector
from web_archives import by_record, conversion, paragraph

from zoo.data import chunks
from zoo.data.chunks import PADDING, TARGET, ByLength, Filled
from zoo.data.crawl import CommonCrawlSentences
from zoo.data.modules import OpenWebText
from zoo.data.order import permute
from zoo.data.sentences import END
from zoo.data.sources import Files
from zoo.data.warc import WARC


@pytest.fixture
def files(tmp_path):
    """Ninety documents of one to thirty sentences."""
    rng = random.Random(0)
    rows = [" ".join(f"Satz {rng.randrange(10**6)} of {i}." for _ in range(rng.randint(1, 30))) for i in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return [f"{tmp_path}/a.jsonl"]


@pytest.fixture
def data(files, tmp_path):
    """Makes prepared data of these files."""

    def make(**given):
        given = {"source": "files", "files": files, "segmenter": Stops(), "encoder": Hashed(), "context": 12, "batch": 4} | given
        made = CommonCrawlSentences(root=str(tmp_path / "data"), **given)
        made.prepare_data()
        made.setup()
        return made

    return make


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(chunks, "POOL", 40)
    monkeypatch.setattr(chunks, "RUN", 8)


def test_a_batch_is_chunks_of_the_store(data, files, attach):
    made = attach(data(), max_steps=-1)
    store, seen = made.stores["train"], []
    assert made.vocab == made.width == 6
    for batch in made.train_dataloader():
        size = int(batch["length"].max())
        assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
            "vec": ((4, size, 6), torch.float32), "length": ((4,), torch.int64), "role": ((4, size), torch.int64),
            "mask": ((4,), torch.bool), "window": ((4,), torch.int64),
            "tokens": ((1, int(batch["length"].sum())), torch.int64),
        }  # fmt: skip
        for vec, length, role, number in zip(batch["vec"], batch["length"], batch["role"], batch["window"]):
            texts = store.texts(int(number))
            assert (vec[:length].numpy() == np.stack([vector(text) for text in texts]).astype(np.float16)).all()
            assert not vec[length:].any() and role.tolist() == [TARGET] * len(texts) + [PADDING] * (size - len(texts))
            seen.append(int(number))
    assert len(seen) == len(set(seen)) == len(store) // 4 * 4
    documents = [Stops()(each.text) for each in Files(files).documents("train")]
    assert sum(len(each) + 1 for each in documents) == store.sentences
    assert sum(store.texts(number)[-1] == END for number in range(len(store))) == len(documents)


@pytest.mark.parametrize("similar", [True, False])
@pytest.mark.parametrize("world, batch", [(1, 8), (2, 4), (4, 2)])
def test_processes_share_one_order(data, attach, world, batch, similar):
    reference = torch.cat([b["window"] for b in attach(data(batch=8, similar_lengths=similar), max_steps=60).train_dataloader()])
    made = data(batch=batch, similar_lengths=similar)
    ranks = [[b["window"] for b in attach(made, rank, world, max_steps=60).train_dataloader()] for rank in range(world)]
    assert (torch.cat([numbers for step in zip(*ranks) for numbers in step]) == reference).all()
    count = made.windows("train")
    for epoch in range(len(reference) // count):
        assert sorted(reference[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))
    assert len(reference) > 2 * count and (reference[:count] != reference[count : 2 * count]).any()
    other = attach(data(batch=8, seed=1, similar_lengths=similar), max_steps=60).train_dataloader()
    assert (torch.cat([b["window"] for b in other]) != reference).any()


def test_a_resumed_run_reads_what_is_left(data, attach):
    reference = torch.cat([b["window"] for b in attach(data(), max_steps=40).train_dataloader()])
    made = attach(data(), max_steps=40)
    made.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 13
    state = made.train_dataloader().state_dict()
    assert json.loads(json.dumps(state)) == state
    resumed = attach(data(batch=2), max_steps=10)  # a new process, another batch size
    loader = resumed.train_dataloader()
    loader.load_state_dict(state)
    assert (torch.cat([b["window"] for b in loader]) == reference[13 * 4 : 13 * 4 + 20]).all()


@pytest.mark.parametrize("world", [1, 3])
def test_batches_of_so_many_sentences(data, attach, world):
    """Every chunk once an epoch, in batches that weigh about the same, shared among processes and resumed exactly."""
    made = data(sentences=24)
    ranks = [list(attach(made, rank, world, max_steps=150).train_dataloader()) for rank in range(world)]
    batches = [each for step in zip(*ranks) for each in step]
    assert all(len(b["window"]) * int(b["length"].max()) <= 24 and b["mask"].all() for b in batches)
    assert sum(int(b["length"].sum()) for b in batches) > 0.7 * 24 * len(batches)
    numbers, count = [b["window"].tolist() for b in batches], made.windows("train")
    filled = Filled(partial(permute, n=count, seed=0), made.stores["train"].lengths, 24)
    first, second = numbers[: filled.count(0)], numbers[filled.count(0) : filled.count(0) + filled.count(1)]
    for epoch in (first, second):
        assert sorted(number for batch in epoch for number in batch) == list(range(count))
    assert first != second
    alone = [b["window"].tolist() for b in attach(data(sentences=24), max_steps=150 * world).train_dataloader()]
    assert numbers == alone
    loader = attach(data(sentences=24), max_steps=60).train_dataloader()
    loader.load_state_dict({"windows": 13, "fingerprint": loader.fingerprint})
    assert [b["window"].tolist() for b in loader] == alone[13:73]
    with pytest.raises(ValueError, match=r"less than one chunk of data\.context"):
        data(sentences=8)


def test_chunks_of_similar_length_come_together():
    lengths = np.random.default_rng(0).integers(1, 128, 1000)
    order = partial(permute, n=1000, seed=3)
    by = ByLength(order, lengths)
    position = np.arange(3000)
    found, plain = by(position), order(position)
    for start in [*range(0, 3000, 1000)]:
        for pool in range(start, start + 1000, 40):
            assert sorted(found[pool : pool + 40]) == sorted(plain[pool : pool + 40])
    rng = np.random.default_rng(1)
    for _ in range(20):
        some = rng.integers(0, 3000, 7)
        assert (ByLength(order, lengths)(some) == found[some]).all() and (by(some) == found[some]).all()
    padded = [lengths[numbers].reshape(-1, 8).max(1).sum() * 8 for numbers in (plain, found)]
    assert padded[1] < 1.25 * lengths[found].sum() < 0.8 * padded[0]


def test_evaluation_counts_every_chunk_once(data, attach):
    made = data(batch=3)
    count = made.windows("validation")
    batches = [b for rank in range(2) for b in attach(made, rank, 2).val_dataloader()]
    seen = torch.cat([b["window"][b["mask"]] for b in batches])
    assert sorted(seen.tolist()) == list(range(count))
    size = made.stores["train"].manifest["splits"]["validation"]["bytes"]
    assert sum(int(b["mask"].sum()) for b in attach(data(eval_bytes=size // 2)).val_dataloader()) == max(1, count // 2)


def test_the_token_view_is_that_of_any_token_data(data, files, tmp_path, attach):
    given = {"tokenizer": "bytes", "context": 16, "prepare_workers": 1}
    made = attach(data(view="tokens", encoder=None, **given))
    other = OpenWebText(source="files", files=files, batch=4, root=str(tmp_path / "other"), **given)
    other.prepare_data()
    other.setup()
    attach(other)
    assert made.vocab == 257 and made.fingerprint == other.fingerprint != data().fingerprint
    for mine, theirs in zip(made.train_dataloader(), other.train_dataloader()):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)
    sentences = data()
    for split in ("train", "validation", "test"):
        assert list(sentences.documents(split)) == list(made.documents(split)) == list(other.documents(split))
    assert made.epochs_seen(16) == pytest.approx(1 / made.windows("train"))
    assert sentences.epochs_seen(sentences.stores["train"].sentences) == 1


def test_web_archives_to_both_views(data, tmp_path, capsys):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    pytest.importorskip("justext", reason="justext is in the extra `sentences`")
    texts = [f"{paragraph(i)} {paragraph(100 + i)}" for i in range(30)]
    (tmp_path / "a.wet.gz").write_bytes(by_record([conversion(text) for text in [*texts, texts[3], "short"]])[:-3])
    given = {"source": "warc", "files": [f"{tmp_path}/*.gz"]}
    made = data(**given)
    said = capsys.readouterr().out
    assert "left out: 1 damaged or truncated gzip, 1 exact duplicate" in said
    assert sum(n["documents"] for n in made.stores["train"].manifest["splits"].values()) == 30
    data(**given)  # which builds nothing, and reads what the manifest says
    data(source="store", files=[str(made.folder)], encoder=None)
    assert capsys.readouterr().out.count("left out: 1 damaged or truncated gzip, 1 exact duplicate") == 2
    assert {each.text for each in made.documents()} == set(texts) and all(made.windows(split) for split in made.stores)
    assert made.stores["train"].texts(0)[-1] == END
    tokens = data(**given, view="tokens", tokenizer="bytes", context=64, encoder=None, prepare_workers=1)
    assert tokens.windows("train") > 20


def test_all_languages_of_an_archive(data, tmp_path):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    pages = [conversion(paragraph(i), "deu" if i % 3 else "eng") for i in range(30)]
    (tmp_path / "a.wet").write_bytes(by_record(pages))
    count = lambda made: sum(n["documents"] for n in made.stores["train"].manifest["splits"].values())
    given = {"source": "warc", "files": [f"{tmp_path}/a.wet"]}
    assert count(data(**given)) == 10 and count(data(**given, all_languages=True)) == 30


def test_an_archive_of_a_page_is_a_store_without_held_out_documents(data, tmp_path, attach):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    (tmp_path / "a.wet").write_bytes(by_record([conversion(text) for text in [paragraph(0)] * 3]))
    given = {"source": "warc", "files": [f"{tmp_path}/a.wet"]}
    with pytest.raises(ValueError, match=r"1 document.*too few for train, validation, test: .*data\.repetitions.*data\.share 0"):
        data(**given)
    counts = {}
    for repetitions in (False, True):
        made = attach(data(**given, share=0, repetitions=repetitions, batch=1), max_steps=2)
        counts[repetitions] = {split: len(store) for split, store in made.stores.items()}
        assert len(list(made.train_dataloader())) == 2
        for held in (made.val_dataloader, made.test_dataloader):
            with pytest.raises(ValueError, match=r"nothing is held out: .*data\.share above 0.*limit_val_batches=0"):
                held()
    assert counts == {False: {"train": 1, "validation": 0, "test": 0}, True: {"train": 3, "validation": 0, "test": 0}}
    tokens = data(**given, view="tokens", tokenizer="bytes", context=16, share=0, encoder=None, prepare_workers=1)
    assert tokens.windows("train") > 5
    with pytest.raises(ValueError, match="nothing is held out"):
        tokens.windows("test")


def test_a_share_of_any_documents_is_held_out(files, tmp_path):
    kinds = {"files": {"files": files}, "hub": {}, "stories": {}, "warc": {"files": files}}
    for source, given in kinds.items():
        made = {share: CommonCrawlSentences(source=source, **given, share=share).corpus for share in (None, 0, 0.2)}
        assert len({each.fingerprint for each in made.values()}) == 3
        assert (made[0].validation, made[0.2].test, made[0.2].validation) == (0, 0.2, 0.2)
        assert made[None].fingerprint == CommonCrawlSentences(source=source, **given).corpus.fingerprint
    distinct = CommonCrawlSentences(source="files", files=files, share=0.2, similar=0.9).corpus
    assert distinct.fingerprint != CommonCrawlSentences(source="files", files=files, similar=0.9).corpus.fingerprint
    assert CommonCrawlSentences(source="files", files=files).corpus.fingerprint == Files(files).fingerprint
    assert {each.split for each in CommonCrawlSentences(source="files", files=files, share=0).corpus.documents()} == {"train"}
    assert CommonCrawlSentences(source="warc", files=files).corpus.fingerprint == WARC(files).fingerprint


def test_a_store_stands_for_its_corpus(data, attach):
    made = data()
    lone = data(source="store", files=[str(made.folder)], encoder=None, segmenter=None)
    assert (lone.folder, lone.fingerprint, lone.description, lone.width) == (made.folder, made.fingerprint, made.description, 6)
    for mine, theirs in zip(attach(lone).train_dataloader(), attach(made).train_dataloader()):
        assert all((mine[name] == theirs[name]).all() for name in mine)
    assert [each.text for each in lone.documents("test")] == [each.text for each in made.documents("test")]


def test_a_store_that_is_there_asks_the_encoder_for_its_fingerprint_alone(data, attach):
    made = data()
    named = data(encoder=SimpleNamespace(fingerprint=made.encoder.fingerprint))
    assert (named.folder, named.width) == (made.folder, 6)
    for mine, theirs in zip(attach(named).train_dataloader(), attach(made).train_dataloader()):
        assert all((mine[name] == theirs[name]).all() for name in mine)


def test_it_is_described_by_a_config():
    parser = ArgumentParser()
    parser.add_class_arguments(CommonCrawlSentences, "data")
    config = {
        "source": "warc", "files": ["a.warc.gz"], "view": "tokens", "segmenter": {
            "class_path": "zoo.data.segment.Cleaned", "init_args": {"segmenter": {
                "class_path": "zoo.data.segment.Capped", "init_args": {"segmenter": {
                    "class_path": "zoo.data.segment.SaT", "init_args": {"model": "sat-6l"}}, "threshold": 0.01}}}},
    }  # fmt: skip
    made = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert made.segmenter.segmenter.threshold == 0.01 and made.segmenter.segmenter.segmenter.model == "sat-6l"
    assert (made.corpus.lang, made.context, made.source) == ("eng_Latn", 128, "warc")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"source": "warc"}, "data.files and `data.source: warc` go together"),
        ({"source": "store"}, "data.files and `data.source: store` go together"),
        ({"files": ["a"]}, "data.files and `data.source: files`"),
        ({"source": "warc", "files": ["a"], "lang": "english"}, "'english' is no code of a language"),
        ({"source": "installed", "context": 0}, r"data.context \(0\)"),
        ({"source": "stories", "share": 0.5}, r"data.share is 0.5: hold out less than half"),
        (
            {"source": "warc", "files": ["a"], "repetitions": True, "similar": 0.9},
            "data.repetitions keeps what",
        ),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        CommonCrawlSentences(**given)


def test_a_store_needs_an_encoder(files, tmp_path):
    with pytest.raises(ValueError, match=r"data.encoder is missing: give what turns sentences into vectors"):
        CommonCrawlSentences(source="files", files=files, root=str(tmp_path)).prepare_data()
