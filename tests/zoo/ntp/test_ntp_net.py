"""The next-token baseline."""

import pytest
import torch
import torch.nn.functional as F

from zoo.ntp import NextToken

torch.set_num_threads(1)
V, T = 29, 12


def net(flavour="llama", **kw):
    torch.manual_seed(0)
    return NextToken(**{"vocab": V, "context": T, "dim": 24, "layers": 3, "heads": 3, "flavour": flavour, **kw})


def batch(rows=3, ahead=1, masked=0.2):
    g = torch.Generator().manual_seed(1)
    shape = rows, T + ahead
    return {"tokens": torch.randint(0, V, shape, generator=g), "mask": torch.rand(shape, generator=g) >= masked}


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_loss_is_the_plain_mean_over_counted_targets(flavour):
    model, b = net(flavour).double(), batch()
    logits = model.trunk.unembed(model.trunk.norm(model.trunk.blocks(model.trunk.embed(b["tokens"][:, :-1]))))
    nll = F.cross_entropy(logits.transpose(1, 2), b["tokens"][:, 1:], reduction="none")
    counted = b["mask"][:, 1:]
    wanted = torch.autograd.grad(nll[counted].mean(), list(model.parameters()))
    out = model(b)
    torch.testing.assert_close(out["loss"], nll[counted].mean(), atol=1e-10, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(out["loss"], list(model.parameters())), wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    total, count = out["parts"]["next"]
    assert total.dtype == count.dtype == torch.float32 and not total.requires_grad
    assert count == counted.sum()
    torch.testing.assert_close(total.double(), nll[counted].sum().detach(), atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(model.nll(b).double(), nll.detach(), atol=1e-6, rtol=1e-6)


def test_a_batch_without_targets_gives_zero_loss_and_no_nan():
    model, b = net(), batch(masked=2.0)
    out = model(b)
    out["loss"].backward()
    assert out["loss"] == 0 and out["parts"]["next"][1] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_evaluation_without_gradients_gives_the_same_numbers():
    model, b = net("gpt2"), batch()
    trained = model(b)
    with torch.no_grad():
        evaluated = model(b)
    assert not evaluated["loss"].requires_grad
    torch.testing.assert_close(evaluated["loss"], trained["loss"].detach())
    torch.testing.assert_close(evaluated["parts"]["next"], trained["parts"]["next"])


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_it_learns_one_batch_by_heart(flavour):
    model, b = net(flavour, dim=32, heads=4), batch(rows=2, masked=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(b)["loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_the_config_builds_the_same_net():
    model = net("gpt2", dropout=0.1, positions=20, hidden=40)
    again = NextToken(**model.config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert again.config == model.config and all(type(v) in (int, float, str, bool, type(None)) for v in model.config.values())
    assert (model.vocab, model.context, model.ahead) == (V, T, 1)


# papers/cocomix 1.7: base and baseline of the three sizes, GPT-2 flavour
@pytest.mark.parametrize(
    "dim, layers, heads, millions",
    [
        (512, 8, 8, 51.48),
        (1024, 24, 16, 354.8),
        (2048, 24, 16, 1313.6),
        (624, 8, 8, 69.45),
        (1072, 24, 16, 386.3),
        (2096, 24, 16, 1373.4),
    ],
)
def test_the_sizes_of_cocomix(dim, layers, heads, millions):
    with torch.device("meta"):
        model = NextToken(50257, 1024, dim, layers, heads, flavour="gpt2")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-4)


def test_a_context_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="positions=12"):
        net(positions=8)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        net(layers=0)
