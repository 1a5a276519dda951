"""Laws of multi-token prediction (papers/mtp, section 6, first rows)."""

import pytest
import torch
import torch.nn.functional as F

from zoo.mtp import MTP
from zoo.ntp import NextToken

torch.set_num_threads(1)
V, T = 29, 12


def net(n, flavour="llama", seed=0, **kw):
    torch.manual_seed(seed)
    return MTP(**{"vocab": V, "context": T, "n": n, "dim": 24, "layers": 9, "heads": 3, "flavour": flavour, **kw})


def batch(n, rows=3):
    g = torch.Generator().manual_seed(1)
    shape = rows, T + n
    return {
        "tokens": torch.randint(0, V, shape, generator=g),
        "mask": torch.rand(shape, generator=g) > 0.2,
        "doc": torch.rand(shape, generator=g).gt(0.8).cumsum(1),
    }


def all_logits(model, tokens):
    """Logits (n, B, T, V) of all heads for tokens (B, T)."""
    h = model.trunk.blocks(model.trunk.embed(tokens))
    return torch.stack([model.trunk.unembed(model.trunk.norm(model._head(i, h))) for i in range(model.n)])


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_loss_is_the_sum_of_n_shifted_cross_entropies(flavour, n):
    model, b = net(n, flavour).double(), batch(n)
    logits = all_logits(model, b["tokens"][:, :T])
    parts = {}
    for i in range(1, n + 1):
        targets, counted = b["tokens"][:, i : i + T], b["mask"][:, i : i + T]
        parts["next" if i == 1 else f"head{i}"] = F.cross_entropy(logits[i - 1][counted], targets[counted])
    out = model(b)
    torch.testing.assert_close(out["loss"], sum(parts.values()), atol=1e-10, rtol=0)
    assert list(out["parts"]) == list(parts)
    for name, (total, count) in out["parts"].items():
        torch.testing.assert_close((total / count).double(), parts[name].detach(), atol=1e-5, rtol=1e-5)
    mean = net(n, flavour, reduction="mean").double()
    torch.testing.assert_close(mean(b)["loss"], out["loss"] / n, atol=1e-10, rtol=0)


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_one_head_is_next_token_prediction(flavour):
    """Same seed: same weights, same loss, same gradients, same nll, to the last digit."""
    one = net(1, flavour, layers=3, dropout=0.1)
    torch.manual_seed(0)
    base = NextToken(V, T, 24, 3, 3, flavour=flavour, dropout=0.1)
    pairs = list(zip(one.parameters(), base.parameters()))
    assert len(pairs) == len(list(base.parameters())) and all(torch.equal(a, b) for a, b in pairs)
    b, outs = batch(1), []
    for model in (one, base):
        torch.manual_seed(4)
        outs.append(model(b))
        outs[-1]["loss"].backward()
    assert torch.equal(outs[0]["loss"], outs[1]["loss"]) and outs[0]["parts"] == outs[1]["parts"]
    for p, q in pairs:
        torch.testing.assert_close(p.grad, q.grad, atol=1e-7, rtol=1e-6)
    assert torch.equal(one.eval().nll(b), base.eval().nll(b))


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_no_head_looks_ahead(flavour):
    model, tokens = net(3, flavour).double(), torch.randint(0, V, (1, T))
    before = all_logits(model, tokens)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        moved = (all_logits(model, changed) - before).abs().amax((1, 3)) > 0  # (n, T)
        assert not moved[:, :place].any() and moved[:, place:].all()


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_parameters_are_matched_for_every_n(flavour):
    with torch.device("meta"):
        counts = {sum(p.numel() for p in net(n, flavour).parameters()) for n in range(1, 9)}
        counts.add(sum(p.numel() for p in NextToken(V, T, 24, 9, 3, flavour=flavour).parameters()))
    assert len(counts) == 1


def test_every_target_is_the_token_i_places_ahead():
    """A head that is sure of token t+i has no loss; a head shifted by one has."""
    model, b = net(3).double(), batch(3)
    captured = {}
    heads = model.heads.forward
    model.heads.forward = lambda h, run, norm, w, targets, weights: (
        captured.update(t=targets, w=weights) or heads(h, run, norm, w, targets, weights)
    )
    model(b)
    for i in range(1, 4):
        for t in range(T):
            assert torch.equal(captured["t"][i - 1][:, t], b["tokens"][:, t + i])
            assert torch.equal(captured["w"][i - 1][:, t] > 0, b["mask"][:, t + i])


def test_targets_in_other_documents_are_left_out_of_training_when_asked():
    b = batch(3)
    model = net(3, within_documents=True)
    for i, (_, count) in enumerate(model(b)["parts"].values(), 1):
        same = b["doc"][:, i : i + T] == b["doc"][:, :T]
        assert count == (same & b["mask"][:, i : i + T]).sum() < b["mask"][:, i : i + T].sum()
    for i, (_, count) in enumerate(model.eval()(b)["parts"].values(), 1):
        assert count == b["mask"][:, i : i + T].sum()


def test_evaluation_without_gradients_gives_the_same_numbers():
    model, b = net(3, "gpt2"), batch(3)
    trained = model(b)
    with torch.no_grad():
        evaluated = model(b)
    assert not evaluated["loss"].requires_grad
    torch.testing.assert_close(evaluated["loss"], trained["loss"].detach())
    torch.testing.assert_close(evaluated["parts"], trained["parts"])
    nll = model.nll(b)
    torch.testing.assert_close((nll * b["mask"][:, 1 : T + 1]).sum(), trained["parts"]["next"][0])
    assert nll.shape == (3, T) and nll.dtype == torch.float32


@pytest.mark.parametrize("n", [2, 4])
def test_it_learns_one_batch_by_heart(n):
    model, b = net(n, dim=32, heads=4, layers=n + 2), batch(n, rows=1)
    b["mask"] = torch.ones_like(b["mask"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        out = model(b)
        out["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(total / count < 0.1 for total, count in out["parts"].values())


def test_compiled_blocks_give_the_same(monkeypatch):
    """With the compiler's back end left out, which takes half a minute on its own."""
    compiled = []
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block) or compile(block, backend="eager"))
    plain, fast, b = net(2, layers=4), net(2, layers=4, compile=True), batch(2)
    assert len(compiled) == 4 and list(fast.state_dict()) == list(plain.state_dict())
    for model in (plain, fast):
        model(b)["loss"].backward()
    for p, q in zip(plain.parameters(), fast.parameters()):
        torch.testing.assert_close(p.grad, q.grad)
    seen = torch._dynamo.utils.counters["frames"]["total"]
    cache = fast.cache(3)
    for part in b["tokens"][:, :T].split([5, 1, 1, 5], 1):
        fast.next(part, cache, heads=2)
    assert torch._dynamo.utils.counters["frames"]["total"] == seen > 0  # decoding compiles nothing


def test_the_config_builds_the_same_net():
    model = net(4, "gpt2", reduction="mean", within_documents=True, backward="joint")
    again = MTP(**model.config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert again.config == model.config and (again.ahead, again.n) == (4, 4)


# Table S14: name, dim, layers, heads; the small names count parameters without, the large ones with both embeddings
SIZES = [
    ("1M", 128, 5, 4, 0.98e6),
    ("3M", 256, 4, 8, 3.1e6),
    ("10M", 384, 6, 8, 10.6e6),
    ("30M", 512, 10, 8, 31.5e6),
    ("100M", 768, 14, 12, 99e6),
    ("300M", 1024, 25, 16, 315e6),
    ("1B", 1536, 36, 24, 1.02e9),
    ("0.3B", 1024, 18, 16, 292e6),
    ("0.6B", 1280, 27, 20, 613e6),
    ("1.3B", 2048, 24, 16, 1.34e9),
    ("3B", 2560, 36, 20, 3.0e9),
    ("6.7B", 4096, 32, 32, 6.70e9),
    ("13B", 5120, 40, 40, 12.9e9),
]


@pytest.mark.parametrize("name, dim, layers, heads, count", SIZES, ids=[s[0] for s in SIZES])
def test_the_sizes_of_the_paper(name, dim, layers, heads, count):
    """12 L d^2 (+ 2 V d): reached with a feed-forward width of 8/3 d."""
    n = 2 if name == "3M" else 4
    with torch.device("meta"):
        model = MTP(32000, 2048, n, dim, layers, heads, hidden=round(8 * dim / 3))
    tables = 2 * 32000 * dim if "." in name or name in ("3B", "13B") else 0
    blocks = sum(p.numel() for p in model.parameters()) - 2 * 32000 * dim
    assert blocks == pytest.approx(12 * layers * dim**2, rel=2e-3)
    assert blocks + tables == pytest.approx(count, rel=2e-2)  # the sheet's figures are rounded


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n": 9}, "leave no trunk: choose n between 1 and 8"),
        ({"n": 0}, "n and layers must be at least 1, not 0 and 9"),
        ({"n": 12}, "leave no trunk"),
        ({"n": 2, "reduction": "max"}, "reduction is 'sum' or 'mean'"),
        ({"n": 2, "heads": 5}, "choose heads that divide dim"),
        ({"n": 2, "positions": 8}, "positions=12"),
        ({"n": 2, "backward": "flat"}, "backward is"),
    ],
)
def test_impossible_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        net(**wrong)
