import gc
import os
import time
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from zoo import meter
from zoo.meter import AllocatedPeak, busy_seconds, peak_memory_mib, training_flops
from zoo.mtp import MTP

VOCAB, CONTEXT, DIM = 97, 8, 16


def flops(n: int, layers: int = 6) -> int:
    batch = {"tokens": torch.zeros(1, CONTEXT + n, dtype=torch.long), "mask": torch.ones(1, CONTEXT + n, dtype=torch.bool)}
    return training_flops(lambda: MTP(VOCAB, CONTEXT, n=n, dim=DIM, layers=layers, heads=2, hidden=32), batch)


def test_a_head_costs_one_more_unembedding_and_a_layer_its_products():
    """Six FLOPs per weight and token (sheet 2.4: parameter-matched is not FLOP-matched), attention over all pairs."""
    assert flops(2) - flops(1) == 6 * VOCAB * DIM * CONTEXT
    weights = 4 * DIM * DIM + 3 * 32 * DIM
    attention = 3 * 2 * 2 * CONTEXT * CONTEXT * DIM
    assert flops(1, layers=7) - flops(1) == 6 * weights * CONTEXT + attention


MIB = 2**18  # floats


def test_the_peak_of_a_step_is_counted_to_the_byte():
    """Weights 2 MiB, a gradient 2 MiB that the second step still holds, 8 MiB in the second step and 20 in the first."""
    weight = nn.Parameter(torch.zeros(2 * MIB))
    follow = AllocatedPeak([weight, weight.view(-1)])  # two views of one storage count once
    first = torch.zeros(20 * MIB)
    del first
    gradient = torch.zeros(2 * MIB)
    follow.mark()
    a = torch.zeros(5 * MIB)
    b = torch.zeros(3 * MIB)
    del a, b
    c = torch.zeros(6 * MIB)
    assert follow.stop() == pytest.approx(12.0, abs=0.01)
    del gradient, c  # held until here


def test_what_is_freed_in_a_step_does_not_add_up():
    follow = AllocatedPeak([])
    follow.mark()
    for _ in range(5):
        torch.zeros(4 * MIB)
    assert follow.stop() == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("accumulate, most", [(1, 4.2), (2, 4.5)])
def test_memory_of_a_run_is_that_of_its_tensors(tmp_path, accumulate, most):
    """Weights, AdamW's two moments and one set of gradients, of a net whose activations are small beside them.

    Where gradients add up over micro-steps, those that the heads make in the forward pass are a second set of the heads' share.
    """
    from zoo.cli import main

    sizes = {"model.init_args.net.init_args.dim": 256, "data.init_args.batch": 1, "data.init_args.context": 8}
    lean = {"export.keep": "false", "last.save_top_k": 0, "best.save_top_k": 0, "trainer.limit_val_batches": 1}
    own = {
        "trainer.precision": "32-true",
        "trainer.accumulate_grad_batches": accumulate,
        "trainer.logger.init_args.save_dir": tmp_path,
    }
    options = [f"--{key}={value}" for key, value in (sizes | lean | own).items()]
    gc.collect()  # what earlier tests left in cycles, and is freed while this one counts, would count against it
    cli = main(["fit", "-c", "recipes/mtp/code.yaml", "-c", "recipes/scales/smoke.yaml", *options])
    weights = 4 * cli.model.measured["parameters"] / 2**20
    assert 4 * weights < cli.model.measured["allocated_mib"] < most * weights
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("pretrained"))


def test_batches_of_several_lengths_are_counted_one_by_one():
    """As of sentences: two rows of 4, 8, 12 and 4 predicted tokens; the first two are not timed; a resumed run adds what was."""
    callback, lengths = meter.Meter(), [4, 8, 12, 4]
    net = SimpleNamespace(ahead=1, parameters=list)
    module = SimpleNamespace(net=net, device=torch.device("cpu"), measured={}, log=lambda *given: None)
    module._make_net = lambda vocab, context: Scale()
    module.vocab = module.context = module.measured = None
    trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=2, optimizers=[SimpleNamespace(state={})])
    module.parameters = module.buffers = list
    trainer._logger_connector = SimpleNamespace(should_update_logs=False)
    trainer.datamodule = SimpleNamespace(epochs_seen=lambda tokens: tokens / 8)
    callback.on_fit_start(trainer, module)
    for step, length in enumerate(lengths):
        batch = {"tokens": torch.zeros(2, length + 1)}
        callback.on_train_batch_start(trainer, module, batch, step)
        callback.on_train_batch_end(trainer, module, None, batch, step)
    found = module.measured
    assert found["tokens"] == 2 * 2 * sum(lengths) and found["epochs"] == found["tokens"] / 8
    assert found["tokens_per_second"] == pytest.approx(2 * 2 * (12 + 4) / found["seconds"])
    assert found["flops"] == callback.flops * sum(lengths) // lengths[0] * 2 and callback.flops > 0


class Scale(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)

    def forward(self, batch):
        return {"loss": super().forward(batch["tokens"]).sum()}


def test_it_goes_before_all_other_callbacks_and_each_is_set_up_once():
    """Those of `trainer.callbacks` come before it otherwise, and what a teacher takes before a step would not be timed."""
    calls = []

    class Other(L.Callback):
        def setup(self, trainer, module, stage):
            calls.append(self)

    others, callback = [Other(), Other(), Other()], meter.Meter()
    given = [*others[:2], callback, others[2]]
    trainer = L.Trainer(callbacks=given, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.test(BoringModel(), verbose=False)
    assert calls == others and trainer.callbacks[:4] == [callback, *others]


def test_the_machines_time_holds_this_process_time():
    machine, own = busy_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    machine_later, own_later = busy_seconds()
    assert own_later - own >= 0.25
    if os.path.exists("/proc/stat"):
        assert machine_later - machine >= own_later - own - 0.05


def test_a_system_that_does_not_tell_gives_nan(monkeypatch):
    monkeypatch.setattr(meter, "Path", lambda name: meter_missing)
    assert busy_seconds()[0] != busy_seconds()[0]


class Missing:
    def read_text(self):
        raise FileNotFoundError


meter_missing = Missing()


def test_memory_is_told_where_the_system_names_no_peak(tmp_path, monkeypatch):
    right = peak_memory_mib(torch.device("cpu"))
    (tmp_path / "status").write_text("Name: python\nVmRSS: 12 kB\n")
    monkeypatch.setattr(meter, "STATUS", tmp_path / "status")
    assert 0.5 * right < peak_memory_mib(torch.device("cpu")) < 5 * right
