import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

import zoo.data
from zoo.data import Code, OpenWebText
from zoo.data.modules import RESERVE, sample, spread
from zoo.data.store import TokenStore

T = 16


@pytest.fixture
def files(tmp_path):
    """Sixty small documents in JSON lines and a text file."""
    draw = random.Random(0)
    words = ["größe", "= 1\\n", *("".join(draw.choices("abcdefgh", k=draw.randrange(1, 9))) for _ in range(300))]
    rows = [" ".join(draw.choices(words, k=draw.randrange(80, 120))) for _ in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    (tmp_path / "b.py").write_text("\n".join(f"import {name}" for name in words[2:]))
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.py")]


@pytest.fixture
def data(files, tmp_path):
    """Makes a prepared DataModule of these files; arguments override the defaults."""

    def make(kind=Code, **arguments):
        arguments = {"tokenizer": "bytes", "context": T, "batch": 4, "prepare_workers": 1} | arguments
        made = kind(source="files", files=files, root=str(tmp_path / "data"), **arguments)
        made.prepare_data()
        made.setup()
        return made

    return make


def attach(made, rank=0, world=1, ahead=1, max_steps=10, accumulate=1):
    """Stand-in for a Trainer, to see what one of several processes would read."""
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
    made.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": world, "rank": rank} if world > 1 else None,
        lightning_module=SimpleNamespace(net=SimpleNamespace(ahead=ahead)), max_steps=max_steps, accumulate_grad_batches=accumulate,
        overfit_batches=0, is_global_zero=rank == 0, strategy=SimpleNamespace(root_device=torch.device("cpu")), fit_loop=SimpleNamespace(epoch_loop=progress),
    )  # fmt: skip
    return made


# -- batches ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_batch_is_windows_of_the_store(data, tokenizer):
    made = attach(data(tokenizer=tokenizer, vocab_size=300), ahead=3)
    store = TokenStore(made.folder, "train")
    flat = store.windows(np.array([0]), len(store))[0]
    documents = np.cumsum(flat == store.manifest["eos"]) - (flat == store.manifest["eos"])
    seen = set()
    for batch in made.train_dataloader():
        assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
            "tokens": ((4, T + 3), torch.int64), "doc": ((4, T + 3), torch.int64), "mask": ((4, T + 3), torch.bool), "bytes": ((4, T + 3), torch.int64),
        }  # fmt: skip
        assert batch["mask"].all()
        for tokens, doc, size in zip(*(batch[name].numpy() for name in ("tokens", "doc", "bytes"))):
            start = next(p for p in range(0, len(flat), T) if (flat[p : p + T + 3] == tokens).all())
            seen.add(start)
            assert (doc == documents[start : start + T + 3] - documents[start]).all()
            assert (size == made.tokenizer.token_bytes[tokens]).all()
    assert len(seen) == min(40, made.windows("train"))


def test_bytes_add_up_to_the_text(data):
    made = attach(data(batch=1), max_steps=-1)
    text = sum(len(document.text.encode()) for document in made.documents("train"))
    read = sum(int(batch["bytes"][0, :T].sum()) for batch in made.train_dataloader())
    store, end = TokenStore(made.folder, "train"), made.windows("train") * T
    left = store.windows(np.array([end]), len(store) - end)
    assert RESERVE <= left.size < RESERVE + T and read == text - (left != 256).sum()


def test_every_net_gets_the_same_windows(data):
    made = data()
    one, eight = ([*attach(made, ahead=ahead).train_dataloader(), *made.val_dataloader()] for ahead in (1, 8))
    assert len(one) == len(eight) > 10
    for a, b in zip(one, eight):
        assert b["tokens"].shape[1] == T + 8 and all((a[name] == b[name][:, : T + 1]).all() for name in a)
    attach(made, ahead=RESERVE)
    assert len(list(made.train_dataloader())) == 10
    with pytest.raises(ValueError, match="65 tokens ahead"):
        attach(made, ahead=RESERVE + 1).train_dataloader()


@pytest.mark.parametrize("world, batch", [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_processes_share_one_order(data, world, batch):
    reference = torch.cat([b["tokens"] for b in attach(data(batch=8)).train_dataloader()])
    made = data(batch=batch)
    ranks = [[b["tokens"] for b in attach(made, rank, world).train_dataloader()] for rank in range(world)]
    assert (torch.cat([tokens for step in zip(*ranks) for tokens in step]) == reference).all()


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order(data):
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


@pytest.mark.parametrize("eval_tokens", [None, 1, 7 * T, 7 * T + 5])
@pytest.mark.parametrize("world, batch", [(1, 4), (1, 5), (2, 3), (3, 64)])
def test_evaluation_scores_the_same_windows_for_any_batch_and_world(data, eval_tokens, world, batch):
    made = data(eval_tokens=eval_tokens, batch=batch)
    count = made.windows("validation")
    scored = count if eval_tokens is None else max(1, eval_tokens // T)
    store = TokenStore(made.folder, "validation")
    expected = store.windows(np.arange(scored) * count // scored * T, T + 1)
    ranks = [list(attach(made, rank, world).val_dataloader()) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # under DDP all processes take part in every step
    rows = [(batch["tokens"], batch["mask"]) for step in zip(*ranks) for batch in step]
    tokens, mask = (torch.cat(x) for x in zip(*rows))
    assert (mask.all(1) == mask.any(1)).all()
    assert (tokens[mask.all(1)].numpy() == expected).all()
    assert len(made.val_dataloader()) == len(ranks[0])


def test_evaluation_is_spread_over_the_split():
    assert spread(np.arange(4), 8, 4).tolist() == [0, 2, 4, 6] and spread(np.arange(3), 10, 3).tolist() == [0, 3, 6]
    assert spread(np.arange(5), 5, 5).tolist() == [0, 1, 2, 3, 4]


# -- with Lightning -------------------------------------------------------------------------------------------------------
class Toy(L.LightningModule):
    """Remembers every batch it is trained on; its loss depends on them, so its weight does too."""

    def __init__(self, die_at: int | None = None, ahead: int = 2):
        super().__init__()
        self.net = nn.Embedding(257, 1)
        nn.init.zeros_(self.net.weight)
        self.net.ahead = ahead
        self.seen, self.validated, self.die_at = [], 0, die_at

    def training_step(self, batch, batch_idx):
        if self.die_at == self.trainer.fit_loop.total_batch_idx:
            raise MemoryError("killed")
        self.seen.append(batch["tokens"].clone())
        return self.net(batch["tokens"]).mean() * batch["tokens"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.validated += int(batch["mask"].sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(made, model, folder, resume=None, callbacks=None, **options):
    options = {"max_steps": 6, "accumulate_grad_batches": 2, "limit_val_batches": 0, "callbacks": callbacks} | options
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks or []), **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer.fit(model, datamodule=made, ckpt_path=resume)
    return trainer


@pytest.fixture
def quiet():
    import logging

    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_dies_goes_on_with_the_same_batches(data, tmp_path, quiet, workers, accumulate):
    straight, dies, resumed = Toy(), Toy(die_at=5 * accumulate), Toy()
    fit(data(loader_workers=workers), straight, tmp_path, accumulate_grad_batches=accumulate)
    keep = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3)
    with pytest.raises(MemoryError):  # two steps after the checkpoint, with batches fetched ahead
        fit(data(loader_workers=workers), dies, tmp_path, callbacks=[keep], accumulate_grad_batches=accumulate)
    trainer = fit(data(loader_workers=workers), resumed, tmp_path, tmp_path / "last.ckpt", accumulate_grad_batches=accumulate)
    assert len(straight.seen) == 6 * accumulate and len(dies.seen) == 5 * accumulate and trainer.global_step == 6
    whole = dies.seen[: 3 * accumulate] + resumed.seen
    assert len(whole) == len(straight.seen) and all((a == b).all() for a, b in zip(whole, straight.seen))
    assert (resumed.net.weight == straight.net.weight).all()


class SaveAt(Callback):
    """Saves at a hook that Lightning calls at another stage of its counting."""

    def __init__(self, path, hook: str, batch: int):
        self.path, self.batch = path, batch
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == self.batch and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end", "on_validation_end"])
def test_a_checkpoint_from_any_hook_loses_and_repeats_nothing(data, tmp_path, quiet, hook):
    straight, first, resumed = Toy(), Toy(), Toy()
    options = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "accumulate_grad_batches": 1}
    fit(data(), straight, tmp_path, **options)
    fit(data(), first, tmp_path, callbacks=[SaveAt(tmp_path / "at.ckpt", hook, 3)], **options)
    fit(data(), resumed, tmp_path, tmp_path / "at.ckpt", **options)
    done = 4 if hook in ("on_train_batch_end", "on_validation_end") else 3
    assert len(resumed.seen) == 6 - done
    assert all((a == b).all() for a, b in zip(resumed.seen, straight.seen[done:]))


def test_a_longer_run_goes_on_from_a_finished_one(data, tmp_path, quiet):
    straight, first, more = Toy(), Toy(), Toy()
    fit(data(), straight, tmp_path, max_steps=9)
    fit(data(), first, tmp_path, callbacks=[ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3)], max_steps=6)
    fit(data(), more, tmp_path, tmp_path / "last.ckpt", max_steps=9)
    assert len(more.seen) == 6 and all((a == b).all() for a, b in zip(more.seen, straight.seen[12:]))


def test_a_resumed_run_may_have_another_batch_size(data, tmp_path, quiet):
    straight, first, more = Toy(), Toy(), Toy()
    fit(data(batch=4), straight, tmp_path, accumulate_grad_batches=1)
    fit(data(batch=4), first, tmp_path, callbacks=[ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3)], max_steps=3, accumulate_grad_batches=1)
    fit(data(batch=2), more, tmp_path, tmp_path / "last.ckpt", max_steps=9, accumulate_grad_batches=1)
    assert (torch.cat(more.seen) == torch.cat(straight.seen[3:])).all()
    first = more
    fit(data(batch=2), more := Toy(), tmp_path, callbacks=[ModelCheckpoint(tmp_path, filename="second", every_n_train_steps=5)], max_steps=5,
        accumulate_grad_batches=1, resume=tmp_path / "last.ckpt")  # fmt: skip
    fit(data(batch=4), again := Toy(), tmp_path, tmp_path / "second.ckpt", max_steps=7, accumulate_grad_batches=1)
    assert (torch.cat(more.seen + again.seen)[:12] == torch.cat(straight.seen[3:])[:12]).all()


def test_epochs_go_on_in_the_order(data, tmp_path, quiet):
    model, made = Toy(), data(batch=8)
    fit(made, model, tmp_path, max_steps=-1, max_epochs=2, accumulate_grad_batches=1)
    per_pass = made.windows("train") // 8
    reference = [batch["tokens"] for batch in attach(data(batch=8), ahead=2, max_steps=2 * per_pass).train_dataloader()]
    assert len(model.seen) == 2 * per_pass and all((a == b).all() for a, b in zip(model.seen, reference))


def test_overfitting_repeats_the_same_batches(data, tmp_path, quiet):
    model = Toy()
    fit(data(), model, tmp_path, overfit_batches=2, accumulate_grad_batches=1)
    assert len(model.seen) == 6 and all((a == b).all() for a, b in zip(model.seen, model.seen[2:]))
    assert (model.seen[0] != model.seen[1]).any()


def test_resuming_within_an_optimizer_step_or_on_other_text_is_told(data, tmp_path):
    loader = attach(data(), accumulate=2).train_dataloader()
    loader.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 3
    with pytest.warns(UserWarning, match="gradients are lost"):
        loader.load_state_dict(loader.state_dict())
    loader.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 4
    with pytest.warns(UserWarning, match="another corpus or tokenizer"):
        loader.load_state_dict(loader.state_dict() | {"fingerprint": "other"})


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_no_random_numbers(data, workers):
    made = data(loader_workers=workers)
    before = torch.get_rng_state()
    assert len(list(made.val_dataloader())) > 0 and next(iter(made.train_dataloader()))
    assert (torch.get_rng_state() == before).all()


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
        made[1].tokenizer
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
    with pytest.raises(ValueError, match="another tokenizer.*delete the folder"):
        data(tokenizer="bpe", vocab_size=300)


def test_documents_are_those_of_the_store(data):
    made = data(OpenWebText)
    counts = TokenStore(made.folder, "train").manifest["splits"]
    for split, n in counts.items():
        assert n["documents"] == len(list(made.documents(split))) > 0
    assert sum(n["documents"] for n in counts.values()) == len(list(made.documents()))


def test_a_repeated_text_is_told_once(data, capsys):
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
    config = parser.parse_args(["--data=zoo.data.Code", "--data.source=installed", "--data.megabytes=2", "--data.exclude=[a.jsonl]"])
    made = parser.instantiate_classes(config).data
    assert type(made) is Code and (made.context, made.corpus.megabytes) == (4096, 2.0)
    assert OpenWebText().context == 1024 and OpenWebText().corpus.name == "Skylion007/openwebtext" and Code().corpus.column == "content"
    for kind in (Code, OpenWebText):
        inner = ArgumentParser()
        inner.add_class_arguments(kind)
        told = " ".join(inner.format_help().split())
        assert "tokens per window (T)" in told and "of the order of the training windows" in told


def test_importing_the_package_is_cheap():
    code = "import sys, zoo.data; assert {'Code', 'OpenWebText'} <= {*dir(zoo.data)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="Codes"):
        zoo.data.Codes
