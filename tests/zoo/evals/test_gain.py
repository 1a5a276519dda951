"""Gain against entropy: by hand, for a known world of two equally good nets, and what it refuses."""

import math
from types import SimpleNamespace

import pytest
import torch

from zoo.evals.gain import Gain, Trend, quantiles, scores
from zoo.mtp import MTP
from zoo.ntp.net import NextToken

V, T = 19, 12


def made(n: int):
    torch.manual_seed(n)
    net = MTP(V, T, n=n, dim=16, layers=4, heads=2) if n else NextToken(V, T, dim=16, layers=3, heads=2)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return net.eval()


def batches(count: int, ahead: int, batch: int = 3, seed: int = 5):
    draw = torch.Generator().manual_seed(seed)
    for k in range(count):
        tokens = torch.randint(0, V, (batch, T + ahead), generator=draw)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[-1] = k < count - 1  # the last window repeats one that was counted
        yield {"tokens": tokens, "mask": mask}


def run(net, other, monkeypatch, count: int = 6, **arguments) -> dict[str, float]:
    """All hooks of the callback, with stand-ins for trainer and data."""
    words = SimpleNamespace(fingerprint="f")
    monkeypatch.setattr("zoo.evals.gain.load_tokenizer", lambda folder: words)
    monkeypatch.setattr("zoo.evals.gain.from_pretrained", lambda folder: other)
    values: dict[str, float] = {}
    module = SimpleNamespace(net=net, device=torch.device("cpu"), log=lambda name, value: values.update({name: value}))
    data = SimpleNamespace(tokenizer=words, val_dataloader=lambda: list(batches(4, net.ahead, seed=6)))
    trainer = SimpleNamespace(world_size=1, datamodule=data)
    gain = Gain("saved", **arguments)
    gain.on_test_epoch_start(trainer, module)
    for i, batch in enumerate(batches(count, net.ahead)):
        gain.on_test_batch_end(trainer, module, None, batch, i)
    gain.on_test_epoch_end(trainer, module)
    return values


@pytest.mark.parametrize("n", [0, 1, 3])
def test_scores_are_those_of_the_net(n):
    net, batch = made(n), next(batches(1, max(n, 1)))
    found = scores(net, batch["tokens"][:, : T + 1], heads=min(2, max(n, 1)), chunk=5)
    torch.testing.assert_close(found.nll * math.log(2), net.nll(batch), atol=1e-5, rtol=1e-5)
    logits = net.next(batch["tokens"][:, :T], net.cache(3, T))
    expected = torch.distributions.Categorical(logits=logits).entropy() / math.log(2)
    torch.testing.assert_close(found.entropy, expected, atol=1e-5, rtol=1e-5)
    if n > 1:
        net.eval()
        head2 = float(found.second.sum() * math.log(2))
        full = net({"tokens": batch["tokens"][:, : T - 1 + n], "mask": torch.ones(3, T - 1 + n, dtype=torch.bool)})
        assert head2 == pytest.approx(float(full["parts"]["head2"][0]), rel=1e-4)


def test_everything_by_hand(monkeypatch):
    net, other = made(3), made(0)
    found = run(net, other, monkeypatch, bins=4, axis="baseline")
    x, y, lacks, at = [], [], [], []
    for batch in batches(6, 3):
        tokens = batch["tokens"]
        for row in range(int(batch["mask"].all(1).sum())):
            own = net.next(tokens[row : row + 1, :T], net.cache(1, T), heads=2)[0].log_softmax(-1) / math.log(2)
            base = other.next(tokens[row : row + 1, :T], other.cache(1, T))[0].log_softmax(-1) / math.log(2)
            for t in range(T):
                entropy = -float((base[t].mul(math.log(2)).exp() * base[t]).sum())
                x.append(entropy)
                y.append(float(own[t, 0, tokens[row, t + 1]] - base[t, tokens[row, t + 1]]))
                if t < T - 1:
                    at.append(entropy)
                    lacks.append(float(own[t + 1, 0, tokens[row, t + 2]] - own[t, 1, tokens[row, t + 2]]))
    x, y, at, lacks = (torch.tensor(each, dtype=torch.float64) for each in (x, y, at, lacks))
    assert found["test/gain"] == pytest.approx(float(y.mean()), abs=1e-5)
    assert found["test/harder"] == pytest.approx(float(lacks.mean()), abs=1e-5)
    assert found["test/gain_correlation"] == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]), abs=1e-5)
    slope = lambda a, b: float(((a - a.mean()) * (b - b.mean())).sum() / ((a - a.mean()) ** 2).sum())
    assert found["test/gain_slope"] == pytest.approx(slope(x, y), abs=1e-5)
    assert found["test/harder_slope"] == pytest.approx(slope(at, lacks), abs=1e-5)
    edges = []
    for batch in batches(4, 3, seed=6):  # the validation split, which alone fixes the bins
        edges += scores(other, batch["tokens"][:, : T + 1]).entropy[batch["mask"].all(1)].flatten().tolist()
    edges = [sorted(edges)[len(edges) * k // 4] for k in (1, 2, 3)]
    for b in range(4):
        inside = torch.tensor([sum(e <= value for e in edges) == b for value in x.tolist()])
        if inside.any():
            assert found[f"test/gain_bin{b + 1}"] == pytest.approx(float(y[inside].mean()), abs=1e-4)
            assert found[f"test/entropy_bin{b + 1}"] == pytest.approx(float(x[inside].mean()), abs=1e-4)


def test_a_net_gains_nothing_on_itself(monkeypatch):
    net = made(1)
    found = run(net, net, monkeypatch)
    assert found["test/gain"] == found["test/gain_slope"] == found["test/gain_bin1"] == 0.0
    assert "test/gain_correlation" not in found and "test/harder" not in found
    assert all(math.isfinite(value) for value in found.values())


class Noisy(torch.nn.Module):
    """A net that knows the chances of a Markov chain but for noise of its own on the logits."""

    ahead = 1

    def __init__(self, chain: torch.Tensor, seed: int):
        super().__init__()
        noise = torch.randn(chain.shape, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("table", chain.log() + noise)

    def cache(self, batch, capacity):
        return None

    def states(self, tokens, cache, heads=1):
        return self.table[tokens][:, :, None]

    def logits(self, states, head=0):
        return states


def test_swapping_two_equally_good_nets_turns_the_trend_unless_one_of_them_is_the_axis():
    """On the axis of both nets the gain of a on b is the loss of b on a; on the axis of one, either seems to lose at its end."""
    slopes = {"both": [], "baseline": []}
    draw = torch.Generator().manual_seed(0)
    for pair in range(80):
        chain = (torch.randn(8, 8, generator=draw) * torch.linspace(0.2, 3.0, 8)[:, None]).softmax(1)
        nets = Noisy(chain, 2 * pair), Noisy(chain, 2 * pair + 1)
        tokens = torch.randint(0, 8, (16, 30), generator=draw)
        for t in range(29):
            tokens[:, t + 1] = torch.multinomial(chain[tokens[:, t]], 1, generator=draw)[:, 0]
        gain = Gain("saved")
        for axis, a, b in [(axis, *order) for axis in slopes for order in (nets, nets[::-1])]:
            gain.axis, gain.other = axis, b
            steps = gain._compare(a, {"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)})
            trend = Trend(torch.tensor([1.0, 2.0], dtype=torch.float64))
            trend.add(steps.entropy, steps.gain, steps.counted)
            slopes[axis].append(trend.summary()["mean_slope"])
    both, one = (torch.tensor(each).view(-1, 2).mean(1) for each in slopes.values())
    torch.testing.assert_close(both, torch.zeros(80), atol=1e-6, rtol=0)
    assert one.mean() < -3 * one.std() / len(one) ** 0.5


def test_errors_are_those_of_repeated_draws():
    """The jackknife's error of slope and mean agrees with their spread over fresh samples, windows being correlated inside."""
    draw, values, errors = torch.Generator().manual_seed(1), [], []
    for _ in range(200):
        shift = torch.randn(30, 1, generator=draw)
        x = torch.rand(30, 10, generator=draw) + shift
        y = 0.3 * x + torch.randn(30, 1, generator=draw)
        trend = Trend(torch.tensor([0.5], dtype=torch.float64))
        trend.add(x, y, torch.ones(30, 10, dtype=torch.bool))
        found = trend.summary()
        values.append((found["mean"], found["mean_slope"]))
        errors.append((found["mean_error"], found["mean_slope_error"]))
    spread, stated = torch.tensor(values).std(0), torch.tensor(errors).mean(0)
    assert ((stated / spread) > 0.85).all() and ((stated / spread) < 1.2).all()
    assert torch.tensor(values).mean(0)[1] == pytest.approx(0.3, abs=0.05)


def test_quantiles_fill_bins_evenly():
    x = torch.randn(1000, dtype=torch.float64)
    edges = quantiles(x, torch.arange(1, 10) / 10)
    assert torch.bincount(torch.bucketize(x, edges, right=True)).tolist() == [100] * 10


def test_what_it_refuses(monkeypatch):
    module = SimpleNamespace(net=made(1), device=torch.device("cpu"))
    with pytest.raises(ValueError, match="one process"):
        Gain("saved").on_test_epoch_start(SimpleNamespace(world_size=2), module)
    monkeypatch.setattr("zoo.evals.gain.load_tokenizer", lambda folder: SimpleNamespace(fingerprint="a"))
    data = SimpleNamespace(tokenizer=SimpleNamespace(fingerprint="b"))
    with pytest.raises(ValueError, match="another tokenizer"):
        Gain("saved").on_test_epoch_start(SimpleNamespace(world_size=1, datamodule=data), module)
    with pytest.raises(ValueError, match="axis"):
        Gain("saved", axis="none")
