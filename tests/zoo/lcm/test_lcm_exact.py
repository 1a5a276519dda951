"""Figures 5 and 13 as callbacks log them, and the clock of sentences, on a net that takes a known time."""

import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from zoo.lcm import speed
from zoo.lcm.cost import LARGE, OURS, RELEASED, SMALL, ConceptModel, TokenModel, TwoTowerShape
from zoo.lcm.exact import FAR_TOP, NEAR_TOP, InferenceCost, ScheduleDensity, between
from zoo.lcm.speed import SecondsPerSentence
from zoo.lcm.testbed import CodebookChains, Known
from zoo.lcm.two_tower import TwoTower
from zoo.module import LanguageModel
from zoo.nn.diffusion import Sampler, Schedule

SCHEDULES = {  # name: settings, median and interquartile range of λ over 99 steps
    "cosine": ({"kind": "cosine"}, -0.03, 3.41),
    "quadratic-1": ({"kind": "quadratic", "betas": (0.001, 0.0012)}, -0.99, 2.89),
    "quadratic-2": ({"kind": "quadratic", "betas": (0.02, 0.022)}, -1.75, 3.19),
    "sigmoid-15-1": ({"kind": "sigmoid", "gamma": 1.5, "delta": -1.0}, -1.00, 3.22),
    "sigmoid-15-2": ({"kind": "sigmoid", "gamma": 1.5, "delta": -2.0}, -2.00, 3.22),
    "sigmoid-08-1": ({"kind": "sigmoid", "gamma": 0.8, "delta": -1.0}, -1.01, 1.72),
    "sigmoid-35-0": ({"kind": "sigmoid", "gamma": 3.5, "delta": 0.0}, 0.00, 7.51),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_medians_and_quartiles_of_the_schedules(name):
    given, median, iqr = SCHEDULES[name]
    found = ScheduleDensity(Schedule(**given), centre=given.get("delta")).measured()
    assert (found["median"], found["iqr"]) == (pytest.approx(median, abs=0.006), pytest.approx(iqr, abs=0.006))
    assert ("centre" in found) == (given["kind"] == "sigmoid")
    levels = [found[f"level{place}"] for place in range(1, 25)]
    assert levels == sorted(levels) and found["least"] < levels[0] and levels[-1] < found["most"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_density_adds_up_to_the_share_of_its_steps(name):
    levels = Schedule(**SCHEDULES[name][0]).snr[:99].double()
    middle, density = between(levels, 100)
    assert float((density * (levels[:-1] - levels[1:])).sum()) == pytest.approx(0.98)
    assert bool((density > 0).all()) and len(middle) == 98


def test_the_density_is_the_derivative_of_the_sigmoid_schedule():
    """α² = sigmoid(δ - γ logit t) has λ = δ - γ logit t, so t = sigmoid((δ - λ) / γ) and p = t (1 - t) / γ."""
    middle, density = between(Schedule("sigmoid", 400, gamma=0.8, delta=-1.0, rescale=False).snr[20:380].double(), 400)
    t = torch.sigmoid((-1.0 - middle) / 0.8)
    torch.testing.assert_close(density, t * (1 - t) / 0.8, rtol=0.01, atol=1e-4)


def test_a_density_at_too_many_places_is_refused():
    with pytest.raises(ValueError, match="10 steps has no density at 24 places: 2 to 8"):
        ScheduleDensity(Schedule(steps=10))


def test_what_is_logged_of_a_cost():
    found, model = InferenceCost(LARGE, OURS).measured(), ConceptModel(LARGE, OURS)
    assert found["tflop_40@3000"] == model.document(3000, 40) / 1e12
    assert found["near_10@500"] == model.document(500, 10) / 1e12 and found["tokens@500"] == 500
    assert found["times_20@10000"] == pytest.approx(TokenModel().document(1e4) / model.document(1e4, 20))
    assert found["even@60000"] == model.break_even(6e4) and found["growth"] == pytest.approx(6.3, abs=0.3)
    assert not any(name.startswith(("near", "far", "tokens")) for name in InferenceCost(SMALL, drawn=False).measured())


def test_curves_end_at_the_papers_axes():
    for model in (InferenceCost(), InferenceCost(SMALL), InferenceCost(SMALL, RELEASED)):
        found = model.measured()
        assert all(value <= NEAR_TOP / 1e12 for name, value in found.items() if name.startswith("near"))
        assert all(value <= FAR_TOP / 1e12 for name, value in found.items() if name.startswith("far"))
    tokens = InferenceCost().measured()
    assert "far_20@54000" in tokens and "far_20@60000" not in tokens  # 1.74e15 there
    assert tokens["near_10@3000"] == tokens["near_40@3000"] and not any(name.startswith("even") for name in tokens)
    assert "near_20@3000" not in found and "near_20@500" in found  # the released code


class Slow(nn.Module):
    """Takes a second to begin a sentence and a tenth per sentence before it, on a clock of its own."""

    ahead = 0

    def __init__(self, clock):
        super().__init__()
        self.clock, self.sampler, self.asked, self.samplers = clock, "its own", [], set()

    def memory(self, rows, capacity):
        self.asked.append((rows, capacity))
        return SimpleNamespace(read=0, capacity=capacity)

    def read(self, vectors, memory):
        memory.read += vectors.shape[1]
        assert memory.read <= memory.capacity and vectors.shape[0] == self.asked[-1][0]
        self.clock.now += 0.01 * vectors.shape[1]

    def next_vector(self, memory, noise):
        assert self._is_packed  # as where one writes
        self.samplers.add(self.sampler)
        self.clock.now += 1 + 0.1 * memory.read
        return torch.zeros_like(noise)


@pytest.mark.parametrize("sampler", [None, Sampler(taken=2)])
def test_seconds_per_sentence(sampler, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(speed, "_now", lambda device: clock.now)
    net, logged = Slow(clock), {}
    module = SimpleNamespace(net=net, vocab=3, device=torch.device("cpu"), log=lambda name, value: logged.update({name: value}))
    trainer = SimpleNamespace(world_size=1, precision_plugin=SimpleNamespace(forward_context=nullcontext))
    SecondsPerSentence((4, 20), rows=2, repeats=3, sampler=sampler).on_test_epoch_end(trainer, module)
    assert net.asked == [(2, 8), (2, 24)] and net.samplers == {sampler or "its own"} and net.sampler == "its own"
    for context in (4, 20):  # the first is left out; of three, the second is the median, which stands behind two more
        assert logged[f"test/sentence_seconds@{context}"] == pytest.approx((1 + 0.1 * (context + 2) + 0.01) / 2)
        assert logged[f"test/read_seconds@{context}"] == pytest.approx(0.01 * context / 2)
        assert logged[f"test/sentences@{context}"] == context
    assert module.measured["crowd"] is None or module.measured["crowd"] >= 0


def test_the_papers_shapes_are_measured_on_any_device(monkeypatch, capsys):
    monkeypatch.setitem(speed.SHAPES, "7b", TwoTowerShape(16, 24, 1, 2, width=8))
    monkeypatch.setattr(speed, "HEAD", 8)
    speed.main(["7b", "--device", "cpu", "--contexts", "4", "20", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("    20 sentences: ") and lines[1].endswith(" s to read")
    assert torch.get_default_dtype() == torch.float32
    net = TwoTower(8, 20, 16, 1, 2, 2, 24, dropout=0.0)
    grown = 2 * 2 * 16 * 4 * (1 + 2) * 10  # keys and values, twice, of 10 more sentences in the layers of both towers
    assert speed.held(net, 1, 32) - speed.held(net, 1, 22) == grown and speed.held(net, 1, 1) > 4 * 16 * 24
    weights = sum(each.nbytes for each in net.parameters())
    assert speed.held(net, 1, 32) - speed.held(net, 1, 32, "cuda") == weights  # packed copies, on a CPU
    monkeypatch.setattr(speed, "LARGEST", weights - 1)
    assert speed.held(net, 1, 32) == speed.held(net, 1, 32, "cuda")
    monkeypatch.setattr(speed, "free", lambda device: 1000)
    for shape in speed.SHAPES:  # the 1.6B too: nothing is allocated
        with pytest.raises(SystemExit, match=r"take [\d,]+ bytes, and cpu has 1,000 free"):
            speed.main([shape, "--device", "cpu"])


def test_seconds_are_of_one_process():
    with pytest.raises(ValueError, match=r"--trainer\.devices=1"):
        SecondsPerSentence().on_test_epoch_end(SimpleNamespace(world_size=2), SimpleNamespace())
    with pytest.raises(ValueError, match="at least 1"):
        SecondsPerSentence(contexts=(0, 8))


def test_too_little_memory_is_said_before_the_net_is_made(monkeypatch):
    data = CodebookChains(held_out=4, context=4, batch=4)
    net = partial(TwoTower, dim=16, layers=1, denoiser_layers=1, heads=2, hidden=24)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=[SecondsPerSentence((2,), repeats=1)], precision="bf16-true", **quiet)
    trainer.test(LanguageModel(data.vocab, data.context, net), datamodule=data, verbose=False)
    assert trainer.callback_metrics["test/sentence_seconds@2"] > 0
    monkeypatch.setattr(speed, "free", lambda device: 1000)
    module = LanguageModel(data.vocab, data.context, net)
    with pytest.raises(ValueError, match="cpu has 1,000 free"):
        trainer.test(module, datamodule=data, verbose=False)
    assert module.net is None


def test_callbacks_log_at_test():
    data = CodebookChains(held_out=4, context=4, batch=4)
    module = LanguageModel(data.vocab, data.context, Known)
    callbacks = [InferenceCost(SMALL), ScheduleDensity(Schedule())]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **quiet)
    trainer.test(module, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    expected = callbacks[0].measured() | callbacks[1].measured()
    assert {name.removeprefix("test/") for name in found} == expected.keys() | {"mse", "loss"}
    assert all(math.isclose(found[f"test/{name}"], value, rel_tol=1e-5, abs_tol=1e-6) for name, value in expected.items())
