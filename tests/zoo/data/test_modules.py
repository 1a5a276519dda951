import subprocess
import sys
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

import zoo.data
from zoo.data import Code, OpenWebText
from zoo.data.loader import spread
from zoo.data.modules import RESERVE, sample
from zoo.data.store import TokenStore

T = 16  # of the fixture `data`


# -- batches ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_batch_is_windows_of_the_store(data, tokenizer, attach):
    made = attach(data(tokenizer=tokenizer, vocab_size=300), ahead=3)
    store = TokenStore(made.folder, "train")
    flat = store.windows(np.array([0]), len(store))[0]
    documents = np.cumsum(flat == store.manifest["eos"]) - (flat == store.manifest["eos"])
    seen = set()
    for batch in made.train_dataloader():
        assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
            "tokens": ((4, T + 3), torch.int64),
            "doc": ((4, T + 3), torch.int64),
            "mask": ((4, T + 3), torch.bool),
            "bytes": ((4, T + 3), torch.int64),
            "window": ((4,), torch.int64),
        }
        assert batch["mask"].all()
        for tokens, doc, size, window in zip(*(batch[name].numpy() for name in ("tokens", "doc", "bytes", "window"))):
            start = window * T
            assert (flat[start : start + T + 3] == tokens).all()
            seen.add(start)
            assert (doc == documents[start : start + T + 3] - documents[start]).all()
            assert (size == made.tokenizer.token_bytes[tokens]).all()
    assert len(seen) == min(40, made.windows("train"))


def test_bytes_add_up_to_the_text(data, attach):
    made = attach(data(batch=1), max_steps=-1)
    text = sum(len(document.text.encode()) for document in made.documents("train"))
    read = sum(int(batch["bytes"][0, :T].sum()) for batch in made.train_dataloader())
    store, end = TokenStore(made.folder, "train"), made.windows("train") * T
    left = store.windows(np.array([end]), len(store) - end)
    assert RESERVE <= left.size < RESERVE + T and read == text - (left != 256).sum()


def test_every_net_gets_the_same_windows(data, attach):
    made = data()
    one, eight = ([*attach(made, ahead=ahead).train_dataloader(), *made.val_dataloader()] for ahead in (1, 8))
    assert len(one) == len(eight) > 10
    for a, b in zip(one, eight):
        assert b["tokens"].shape[1] == T + 8 and (a.pop("window") == b.pop("window")).all()
        assert all((a[name] == b[name][:, : T + 1]).all() for name in a)
    attach(made, ahead=RESERVE)
    assert len(list(made.train_dataloader())) == 10
    with pytest.raises(ValueError, match="65 tokens ahead"):
        attach(made, ahead=RESERVE + 1).train_dataloader()


@pytest.mark.parametrize("world, batch", [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_processes_share_one_order(data, world, batch, attach):
    reference = torch.cat([b["tokens"] for b in attach(data(batch=8)).train_dataloader()])
    made = data(batch=batch)
    ranks = [[b["tokens"] for b in attach(made, rank, world).train_dataloader()] for rank in range(world)]
    assert (torch.cat([tokens for step in zip(*ranks) for tokens in step]) == reference).all()


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order(data, attach):
    made = data(batch=1)
    count = made.windows("train")
    rows = [tuple(batch["tokens"][0].tolist()) for batch in attach(made, max_steps=2 * count).train_dataloader()]
    store = TokenStore(made.folder, "train")
    everything = sorted(map(tuple, store.windows(np.arange(count) * T, T + 1).tolist()))
    assert sorted(rows[:count]) == sorted(rows[count:]) == everything and rows[:count] != rows[count:]
    assert made.epochs_seen(2 * count * T) == 2


def test_the_seed_makes_the_order(data):
    first = {seed: next(iter(data(seed=seed).train_dataloader()))["tokens"] for seed in (0, 1)}
    assert (first[0] != first[1]).any() and (first[0] == next(iter(data().train_dataloader()))["tokens"]).all()


@pytest.mark.parametrize("eval_bytes", [None, 1, 7 * T, 7 * T + 5])
@pytest.mark.parametrize("world, batch", [(1, 4), (1, 5), (2, 3), (3, 64)])
def test_evaluation_scores_the_same_windows_for_any_batch_and_world(data, eval_bytes, world, batch, attach):
    made = data(eval_bytes=eval_bytes, batch=batch)
    count = made.windows("validation")
    scored = count if eval_bytes is None else max(1, tokens_of(made, eval_bytes) // T)
    store = TokenStore(made.folder, "validation")
    expected = store.windows(np.arange(scored) * count // scored * T, T + 1)
    ranks = [list(attach(made, rank, world).val_dataloader()) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # under DDP all processes take part in every step
    rows = [(batch["tokens"], batch["mask"]) for step in zip(*ranks) for batch in step]
    tokens, mask = (torch.cat(x) for x in zip(*rows))
    assert (mask.all(1) == mask.any(1)).all()
    assert (tokens[mask.all(1)].numpy() == expected).all()
    assert len(made.val_dataloader()) == len(ranks[0])


def tokens_of(made, eval_bytes: int) -> int:
    """Tokens of so much text of the validation split, at its mean length."""
    total = made.stores["validation"].manifest["splits"]["validation"]
    return eval_bytes * total["tokens"] // total["bytes"]


def test_evaluation_is_spread_over_the_split():
    assert spread(np.arange(4), 8, 4).tolist() == [0, 2, 4, 6] and spread(np.arange(3), 10, 3).tolist() == [0, 3, 6]
    assert spread(np.arange(5), 5, 5).tolist() == [0, 1, 2, 3, 4]


# -- preparing ------------------------------------------------------------------------------------------------------------
def test_it_prepares_itself_once_and_says_where(data, capsys, monkeypatch):
    made = data(tokenizer="bpe", vocab_size=300)
    said = capsys.readouterr().out
    assert str(made.folder) in said and "documents" in said and "training a BPE" in said
    monkeypatch.setattr("zoo.data.modules.train_bpe", lambda *_: pytest.fail("trained again"))
    made.prepare_data()
    assert capsys.readouterr().out == ""
    again = data(tokenizer="bpe", vocab_size=300, context=8, batch=1, seed=3)
    assert again.folder == made.folder and again.fingerprint == made.fingerprint
    assert again.decode(again.encode("def größe")) == "def größe"


def test_what_is_known_before_anything_is_built(files, tmp_path):
    def make(**arguments):
        return Code(**{"source": "files", "files": files, "root": str(tmp_path / "none"), "tokenizer": "bytes"} | arguments)

    assert make().vocab == 257 and make(tokenizer="bpe", vocab_size=1000).vocab == 1000
    made = [make(), make(tokenizer="bpe"), make(tokenizer="bpe", vocab_size=999), make(files=files[:1])]
    assert len({m.fingerprint for m in made}) == len({m.folder for m in made}) == 4
    assert make(context=7, batch=9, seed=5).fingerprint == make().fingerprint
    assert made[0].description.startswith("files: ") and not (tmp_path / "none").exists()
    with pytest.raises(RuntimeError, match="prepare_data"):
        made[1].encode("x")
    with pytest.raises(FileNotFoundError, match="zoo prepare"):
        made[0].setup()


def test_a_local_tokenizer_counts_by_content(data, tmp_path):
    data(tokenizer="bpe", vocab_size=300).save_tokenizer(tmp_path / "one")
    data(tokenizer="bpe", vocab_size=301).save_tokenizer(tmp_path / "two")
    one, two = data(tokenizer=str(tmp_path / "one")), data(tokenizer=str(tmp_path / "two" / "tokenizer.json"))
    assert one.vocab == 300 and one.folder != two.folder and "-one-" in one.folder.name and "-two-" in two.folder.name
    (tmp_path / "one").rename(tmp_path / "three")
    assert data(tokenizer=str(tmp_path / "three")).fingerprint == one.fingerprint


def test_a_tokenizer_that_does_not_match_the_store_is_told(data, tmp_path):
    made, other = data(tokenizer="bpe", vocab_size=300), data(tokenizer="bpe", vocab_size=310)
    other.save_tokenizer(made.folder)
    with pytest.raises(ValueError, match=r"another tokenizer.*delete the folder"):
        data(tokenizer="bpe", vocab_size=300)


def test_documents_are_those_of_the_store(data):
    made = data(OpenWebText)
    counts = TokenStore(made.folder, "train").manifest["splits"]
    for split, n in counts.items():
        assert n["documents"] == len(list(made.documents(split))) > 0
    assert sum(n["documents"] for n in counts.values()) == len(list(made.documents()))


def test_a_repeated_text_is_told_once(data, capsys, attach):
    made = attach(data(), max_steps=10**4)
    made.train_dataloader(), made.train_dataloader()
    assert capsys.readouterr().out.count("reads the training text") == 1
    attach(made, max_steps=3).train_dataloader()
    assert "reads" not in capsys.readouterr().out


def test_wrong_arguments_are_told_in_one_sentence(data, files):
    with pytest.raises(ValueError, match="too few for one window of 99999"):
        data(context=99999).train_dataloader()
    for wrong in ({"source": "files"}, {"source": "installed", "files": files}):
        with pytest.raises(ValueError, match="go together"):
            Code(**wrong)
    with pytest.raises(ValueError, match="exclude"):
        Code(source="hub", exclude=["a.jsonl"])
    with pytest.raises(ValueError, match="at least 1"):
        Code(source="installed", batch=0)


def test_the_sample_for_a_tokenizer_is_training_text_from_all_over():
    def read(part):
        return (SimpleNamespace(text=f"{part:02d}" + "x" * 98, split="test" if i % 5 == 0 else "train") for i in range(100))

    corpus = SimpleNamespace(parts=lambda: list(range(40)), read=read)
    texts = list(sample(corpus, 20_000))
    assert texts == list(sample(corpus, 20_000)) and 19_000 <= sum(map(len, texts)) <= 20_000
    assert len({text[:2] for text in texts}) >= 12
    assert len(list(sample(corpus, 10**6))) == 40 * 80  # all there is


# -- as the command line sees it ------------------------------------------------------------------------------------------
def test_arguments_are_documented_and_parse(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    config = parser.parse_args(
        ["--data=zoo.data.Code", "--data.source=installed", "--data.megabytes=2", "--data.exclude=[a.jsonl]"]
    )
    made = parser.instantiate_classes(config).data
    assert type(made) is Code and (made.context, made.corpus.megabytes) == (4096, 2.0)
    assert (
        OpenWebText().context == 1024
        and OpenWebText().corpus.name == "Skylion007/openwebtext"
        and Code().corpus.column == "content"
    )
    assert [kind(source="installed").corpus.kind for kind in (Code, OpenWebText)] == ["code", "prose"]
    for kind in (Code, OpenWebText):
        inner = ArgumentParser()
        inner.add_class_arguments(kind)
        told = " ".join(inner.format_help().split())
        assert "tokens per window (T)" in told and "of the order of the training windows" in told


def test_importing_the_package_is_cheap():
    code = "import sys, zoo.data; assert {'Code', 'OpenWebText'} <= {*dir(zoo.data)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="Codes"):
        getattr(zoo.data, "Codes")  # noqa: B009


# -- a store that came along ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_store_stands_for_its_corpus(data, tokenizer, tmp_path):
    made = data(tokenizer=tokenizer, vocab_size=300)
    moved = made.folder.rename(tmp_path / "carried")
    came = Code(source="store", files=[str(moved)], tokenizer=tokenizer, vocab_size=300, context=T, batch=4, root="nowhere")
    came.prepare_data()
    came.setup()
    assert (came.fingerprint, came.description) == (made.fingerprint, made.description)
    for ours, theirs in zip(came.test_dataloader(), Code.test_dataloader(made)):
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert {d.text for d in came.documents("test")} == {d.text for d in made.documents("test")}


def test_a_store_wants_the_tokenizer_it_was_made_with(data):
    made = data(tokenizer="bpe", vocab_size=300)
    came = Code(source="store", files=[str(made.folder)], tokenizer="bytes", context=T, batch=4)
    with pytest.raises(ValueError, match="ids up to 299"):
        came.setup()


def test_a_store_needs_its_folder(tmp_path):
    with pytest.raises(ValueError, match="go together"):
        Code(source="store")
    with pytest.raises(FileNotFoundError, match="there is no token store"):
        Code(source="store", files=[str(tmp_path)])
