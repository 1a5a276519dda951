"""What is selected, followed through a training and a resume; columns, recall and entropies by hand."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.cocomix.net import CoCoMix
from zoo.cocomix.selection import Selection, columns
from zoo.module import LanguageModel

V, T, C, K, B, STEPS = 23, 8, 200, 3, 4, 6


class Windows(L.LightningDataModule):
    """The same few batches every time, with labels."""

    def __init__(self, count: int = 2 * STEPS):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.batches = []
        for _ in range(count):
            tokens = torch.randint(0, V, (B, T + 1), generator=draw)
            labels = torch.randint(0, 12, (B, T + 1, 2), generator=draw)
            labels[:, T], labels[0, 3], labels[1, 2, 1] = -1, -1, -1
            self.batches.append({"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool), "concepts": labels})
        self.batches[-1]["mask"] = self.batches[-1]["mask"].clone()
        self.batches[-1]["mask"][2:] = False

    def train_dataloader(self):
        return Rest(self.batches, self.trainer)

    def test_dataloader(self):
        return torch.utils.data.DataLoader(self.batches, batch_size=None)

    val_dataloader = test_dataloader


class Rest:
    """Goes on after the batches that the Trainer has trained on, as `zoo.data.loader.Loader` does."""

    def __init__(self, batches: list, trainer: L.Trainer):
        self.batches, self.trainer = batches, trainer

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        yield from self.batches[self.trainer.fit_loop.epoch_loop.batch_progress.total.processed :]

    def state_dict(self) -> dict:  # by this Lightning knows that it can go on
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def made(**settings):
    sizes = {"dim": 16, "layers": 3, "heads": 2, "insert": 1, "concepts": C, "keep": K}
    return LanguageModel(V, T, net=lambda vocab, context: CoCoMix(vocab, context, **sizes | settings), warmup=1)


def trainer(callback, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
             "max_epochs": 1, "accumulate_grad_batches": 2, "num_sanity_val_steps": 0, "val_check_interval": 4}  # fmt: skip
    return L.Trainer(accelerator="cpu", callbacks=[callback], use_distributed_sampler=False, **(quiet | options))


class Kept(L.Callback):
    """Remembers, the slow way, what was kept in which step of the training."""

    def __init__(self):
        self.steps: dict[int, set[int]] = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        with torch.no_grad():
            h = module.net.trunk.blocks(module.net.trunk.embed(batch["tokens"][:, :-1]), stop=1)
            self.steps.setdefault(trainer.global_step, set()).update(module.net.mixer(h).ids.flatten().tolist())


class Saving(L.Callback):
    """Leaves a checkpoint after the third step."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 3 and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.fixture
def fitted(tmp_path):
    module, callback, slow = made(), Selection(lately=1 / 3), Kept()
    run = trainer(callback)
    run.callbacks += [slow, Saving(tmp_path / "third.ckpt")]
    run.fit(module, datamodule=Windows())
    return module, callback, slow.steps


def test_never_and_lately_are_those_of_the_training_alone(fitted):
    module, callback, steps = fitted
    assert sorted(steps) == list(range(STEPS)) and callback.seen == STEPS and callback.kept is None
    wanted = [max((step for step, ids in steps.items() if i in ids), default=-1) for i in range(C)]
    assert callback.last.tolist() == wanted and 0 < wanted.count(-1) < C and len(set(wanted)) > 3
    assert not module.net.mixer._forward_hooks
    run = trainer(callback)
    run.test(module, datamodule=Windows(), verbose=False)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert found["test/never_selected"] == pytest.approx(100 * wanted.count(-1) / C)
    assert found["test/unselected_lately"] == pytest.approx(100 * sum(step < STEPS - 2 for step in wanted) / C)
    assert found["test/never_selected"] < found["test/unselected_lately"] and callback.last.tolist() == wanted


def test_a_resumed_run_knows_what_the_lost_one_selected(fitted, tmp_path):
    _, whole, steps = fitted
    again, checkpoint = Selection(lately=1 / 3), tmp_path / "third.ckpt"
    trainer(again).fit(made(), datamodule=Windows(), ckpt_path=checkpoint, weights_only=True)
    assert again.last.equal(whole.last) and again.counts.equal(whole.counts) and again.seen == whole.seen == STEPS
    tested = Selection(lately=1 / 3)
    run = trainer(tested)
    run.test(made(), datamodule=Windows(), ckpt_path=checkpoint, weights_only=True, verbose=False)
    wanted = [max((step for step, ids in steps.items() if i in ids and step < 3), default=-1) for i in range(C)]
    assert tested.last.tolist() == wanted != whole.last.tolist() and tested.seen == 3
    assert float(run.callback_metrics["test/never_selected"]) == pytest.approx(100 * wanted.count(-1) / C)
    other = Selection()
    other.on_load_checkpoint(SimpleNamespace(global_rank=1), None, torch.load(checkpoint, weights_only=True))
    assert not other.counts.any() and other.last.equal(tested.last)  # sums are carried on by the first process alone


def test_health_of_the_predictions(fitted):
    module, callback, _ = fitted
    run, data = trainer(callback), Windows()
    run.test(module, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    labels = torch.cat([batch["concepts"] for batch in data.batches]).flatten()
    labels = labels[labels >= 0]
    assert callback.counts.equal(torch.bincount(labels, minlength=C))
    shares = torch.bincount(labels) / len(labels)
    assert found["test/concept_unigram"] == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5)
    assert found["test/concept_frequent"] == pytest.approx(100 * float(shares.topk(2).values.sum()), rel=1e-5)  # 1 % of 200
    assert found["test/concept_uniform"] == pytest.approx(math.log(C)) and found["test/concept"] > 0
    right = all_ = 0
    for batch in data.batches:
        with torch.no_grad():
            h = module.net.trunk.blocks(module.net.trunk.embed(batch["tokens"][:, :-1]), stop=1)
            ids = module.net.mixer(h).ids.tolist()
        for b in range(B):
            for t in range(T):
                wanted = [i for i in batch["concepts"][b, t].tolist() if i >= 0 and batch["mask"][b, t + 1]]
                right, all_ = right + sum(i in ids[b][t] for i in wanted), all_ + len(wanted)
    assert 0 < right < all_ and found["test/concept_recall"] == pytest.approx(100 * right / all_, rel=1e-5)


def test_columns_by_hand():
    norms = torch.tensor([0.0, 0.009, 0.05, 0.3, 1.99, 2.0, 5.0, 0.001])
    last = torch.tensor([-1, 3, 9, -1, 4, 9, 9, -1])
    found = columns(norms, last, lately=4, bins=4)
    assert found == {
        "tiny_columns": 37.5, "norm_above": 25.0, "never_selected": 37.5, "unselected_lately": 50.0,
        "norm_bin1": 62.5, "norm_bin2": 0.0, "norm_bin3": 0.0, "norm_bin4": 12.5,
        "norm_at1": 0.25, "norm_at2": 0.75, "norm_at3": 1.25, "norm_at4": 1.75,
        "never_selected_tiny": pytest.approx(200 / 3), "selected_tiny": 20.0, "tiny_never_selected": pytest.approx(200 / 3),
    }  # fmt: skip
    assert columns(norms, last, lately=0)["unselected_lately"] == 37.5  # all of the run: never
    assert "never_selected" not in columns(norms, None, 0)
    assert "tiny_never_selected" not in columns(norms + 1, last, 0) and "selected_tiny" in columns(norms + 1, last, 0)


def test_a_net_without_a_training_has_norms_and_recall_alone(tmp_path):
    callback, module = Selection(), made()
    logger = L.pytorch.loggers.TensorBoardLogger(tmp_path)
    run = trainer(callback, logger=logger)
    run.test(module, datamodule=Windows(), verbose=False)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    norms = module.net.mixer.compressor.weight.norm(dim=1)
    assert found["test/norm_bin1"] == pytest.approx(100 * float((norms < 0.1).float().mean())) and found["test/norm_bin1"] > 0
    assert sum(found[f"test/norm_bin{i}"] for i in range(1, 21)) + found["test/norm_above"] == pytest.approx(100, rel=1e-5)
    assert "test/concept_recall" in found and not {"test/never_selected", "test/concept_unigram"} & found.keys()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Histograms("compressor/norms")[0].histogram_value.num == C


@pytest.mark.parametrize("settings", [{"mixing": "none"}, {"mixing": "none", "lam": 0.0}])
def test_a_net_without_a_compressor_has_no_columns(settings):
    module, callback = made(**settings), Selection()
    trainer(callback).fit(module, datamodule=Windows())
    run = trainer(callback)
    run.test(module, datamodule=Windows(), verbose=False)
    assert "test/concept_recall" in run.callback_metrics and "test/tiny_columns" not in run.callback_metrics
    assert (callback.last >= 0).any() == ("lam" not in settings)


def test_what_cannot_be_followed_is_said():
    with pytest.raises(ValueError, match=r"CoCoMix\) predicts no concepts: take the callback out"):
        trainer(Selection()).test(made(inserted="pause"), datamodule=Windows(), verbose=False)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"lately \({wrong}\) is a share"):
            Selection(lately=wrong)
