"""Lightning over the loader: whatever happens to a run, its batches are those of a run to which nothing happened."""

import logging
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn


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
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks or []), **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer.fit(model, datamodule=made, ckpt_path=resume)
    return trainer


@pytest.fixture
def quiet():
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
    options = {
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "accumulate_grad_batches": 1,
    }
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
    fit(
        data(batch=4),
        first,
        tmp_path,
        callbacks=[ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3)],
        max_steps=3,
        accumulate_grad_batches=1,
    )
    fit(data(batch=2), more, tmp_path, tmp_path / "last.ckpt", max_steps=9, accumulate_grad_batches=1)
    assert (torch.cat(more.seen) == torch.cat(straight.seen[3:])).all()
    first = more
    keep = ModelCheckpoint(tmp_path, filename="second", every_n_train_steps=5)
    fit(data(batch=2), more := Toy(), tmp_path, tmp_path / "last.ckpt", [keep], max_steps=5, accumulate_grad_batches=1)
    fit(data(batch=4), again := Toy(), tmp_path, tmp_path / "second.ckpt", max_steps=7, accumulate_grad_batches=1)
    assert (torch.cat(more.seen + again.seen)[:12] == torch.cat(straight.seen[3:])[:12]).all()


def test_epochs_go_on_in_the_order(data, tmp_path, quiet, attach):
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


def test_resuming_within_an_optimizer_step_or_on_other_text_is_told(data, tmp_path, attach):
    loader = attach(data(), accumulate=2).train_dataloader()
    loader.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 3
    with pytest.warns(UserWarning, match="gradients are lost") as told:
        loader.load_state_dict(loader.state_dict())
    assert len(told) == 1
    loader.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 4
    with pytest.warns(UserWarning, match="another corpus or tokenizer") as told:
        loader.load_state_dict(loader.state_dict() | {"fingerprint": "other"})
    assert len(told) == 1


def test_what_belongs_to_windows_comes_with_them(data, attach):
    """As long as the tokens are, -1 behind the window's own places."""
    made = attach(data(), ahead=2)
    made.sidecars["concepts"] = {"train": _Numbers()}
    batch = made.train_dataloader().batches[3]
    own, beyond = batch["concepts"].split([16, 2], 1)
    assert batch["concepts"].shape == (*batch["tokens"].shape, 3) and (beyond == -1).all()
    assert (own == batch["window"][:, None, None]).all()


class _Numbers:
    """Labels of windows that are their numbers."""

    def __getitem__(self, windows):
        return windows[:, None, None].repeat(16, 1).repeat(3, 2)


def test_an_id_beyond_the_tokenizer_names_the_store(data):
    batches = data().train_dataloader().batches
    batches.token_bytes = batches.token_bytes[:100]  # of a store whose bytes were changed on their disk
    with pytest.raises(ValueError, match=r"is damaged, or of another tokenizer.*delete its shards"):
        batches[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_no_random_numbers(data, workers):
    made = data(loader_workers=workers)
    before = torch.get_rng_state()
    assert len(list(made.val_dataloader())) > 0 and next(iter(made.train_dataloader()))
    assert (torch.get_rng_state() == before).all()
