"""The memory-flat backward against the naive joint one."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.mtp import MTP
from zoo.nn.heads import FutureHeads

torch.set_num_threads(1)
V, T, N = 31, 10, 3


def net(flavour="llama", dtype=torch.float64, **kw):
    torch.manual_seed(0)
    return MTP(**{"vocab": V, "context": T, "n": N, "dim": 24, "layers": 5, "heads": 3, "flavour": flavour, "chunk": 7, **kw}).to(
        dtype
    )


def batch(n=N, rows=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    shape = rows, T + n
    return {
        "tokens": torch.randint(0, V, shape, generator=g),
        "mask": torch.rand(shape, generator=g) > 0.2,
        "doc": (torch.arange(T + n) // 5).expand(shape),
    }


def naive(model, b):
    """Sum over heads of the mean nll: all heads, all logits, one graph."""
    tokens, mask, n = b["tokens"], b["mask"], model.n
    length = tokens.shape[1] - n
    h = model.trunk.blocks(model.trunk.embed(tokens[:, :length]))
    loss = 0.0
    for i in range(1, n + 1):
        logits = model.trunk.unembed(model.trunk.norm(model._head(i - 1, h)))
        nll = F.cross_entropy(logits.transpose(1, 2), tokens[:, i : i + length], reduction="none")
        loss = loss + nll[mask[:, i : i + length]].mean()
    return loss


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("flavour, tied", [("gpt2", True), ("gpt2", False), ("llama", True), ("llama", False)])
@pytest.mark.parametrize("backward", ["head-by-head", "joint", "naive"])
@pytest.mark.parametrize("dropout, checkpoint", [(0.0, False), (0.2, False), (0.2, True)])
def test_gradients_equal_the_naive_joint_backward(flavour, tied, backward, dropout, checkpoint):
    model, b = net(flavour, tied=tied, backward=backward, dropout=dropout, checkpoint=checkpoint), batch()
    torch.manual_seed(3)
    expected = naive(model, b)
    wanted = gradients(model, 2 * expected)
    torch.manual_seed(3)
    out = model(b)["loss"]
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    for name, g in gradients(model, 2 * out).items():
        torch.testing.assert_close(g, wanted[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("backward", ["head-by-head", "joint", "naive"])
def test_under_bf16_autocast_gradients_are_those_of_the_naive_form_to_bf16(backward):
    model, b = net("gpt2", torch.float32, backward=backward), batch()
    exact = gradients(model, naive(model, b))
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradients(model, naive(model, b))
        ours = gradients(model, model(b)["loss"])
    error = lambda g: (
        sum((g[k] - exact[k]).square().sum() for k in exact).sqrt() / sum(e.square().sum() for e in exact.values()).sqrt()
    )
    assert all(g.dtype == torch.float32 for g in ours.values())
    assert 0 < error(ours) < 1.5 * error(rough)


def test_gradients_accumulate_over_backward_passes():
    model, (a, b) = net(), (batch(), batch(seed=2))
    wanted = gradients(model, naive(model, a) + naive(model, b))
    model.zero_grad()
    for part in (a, b):
        model(part)["loss"].backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("frozen", ["trunk.", "heads.blocks.1.", "trunk.norm", "trunk.output"])
def test_frozen_parts_stay_without_gradient(frozen):
    model, b = net(), batch()
    wanted = gradients(model, naive(model, b))
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    for name, g in gradients(model, model(b)["loss"]).items():
        if name.startswith(frozen):
            assert g is None
        else:
            torch.testing.assert_close(g, wanted[name], atol=1e-10, rtol=0)


def test_hooks_on_parameters_fire_once_per_backward_with_the_whole_gradient():
    """What DDP relies on."""
    model, b, fired = net(), batch(), {}
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: fired.setdefault(name, []).append(p.grad.clone()))
    loss = model(b)["loss"]
    assert not fired
    loss.backward()
    assert {k: len(v) for k, v in fired.items()} == {k: 1 for k, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert torch.equal(fired[name][0], p.grad)


def test_finished_gradients_become_grad_without_a_copy(monkeypatch):
    """Untied: the one big gradient, the unembedding's, exists once."""
    import zoo.nn.heads as heads

    made, accumulator = [], heads.accumulator
    monkeypatch.setattr(heads, "accumulator", lambda like: made.append(accumulator(like)) or made[-1])
    model = net("llama")
    loss = model(batch())["loss"]
    assert len(made) == 1
    pointer = made.pop().data_ptr()
    loss.backward()
    assert model.trunk.output.weight.grad.data_ptr() == pointer


class Meter(TorchDispatchMode):
    """Most bytes of float tensors alive at a time that were made under it."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                storage = x.untyped_storage()
                if storage._cdata not in before | self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        return out

    def drop(self, key, size):
        self.known.discard(key)
        self.now -= size


def test_memory_is_flat_in_the_number_of_heads():
    """Peak of a step at equal parameters: the naive form grows by the logits of every head, ours does not grow at all."""
    sizes = {"vocab": 2000, "context": 64, "dim": 16, "layers": 9, "heads": 2, "flavour": "llama", "hidden": 16, "chunk": 16}
    logits = 4 * 64 * 2000 * 4  # bytes of one head's

    def peak(n, backward="head-by-head", loss=lambda model, b: model(b)["loss"], **form):
        model = MTP(n=n, backward=backward, **sizes, **form)
        b = {"tokens": torch.randint(0, 2000, (4, 64 + n)), "mask": torch.ones(4, 64 + n, dtype=torch.bool)}
        with Meter() as meter:
            loss(model, b).backward()
        return meter.peak

    ours = [peak(n) for n in (1, 2, 4, 8)]
    assert max(ours) <= 1.05 * ours[0]
    assert peak(8, loss=naive) > peak(1, loss=naive) + 6 * logits
    assert peak(1, loss=naive) > ours[0] + logits / 2
    assert peak(8, "joint") < ours[0] + logits  # one graph, still without the logits
    for arrangement in ("causal", "anticausal"):  # as many blocks' graphs as a deeper trunk would hold, and one head's logits
        assert peak(8, arrangement=arrangement) <= 1.05 * ours[0]
        assert peak(8, arrangement=arrangement, checkpoint=True) < peak(8, arrangement=arrangement)
    linear = [peak(n, head="linear") for n in (1, 8)]
    assert linear[1] <= linear[0] + 7 * 4 * (16 * 16 + 3 * 4 * 64)  # the matrices' gradients, weights and terms of the loss


def test_replicated_unembeddings_add_their_gradients_alone():
    sizes = {"vocab": 500, "context": 64, "dim": 16, "layers": 3, "heads": 2, "hidden": 16, "chunk": 16}
    table, logits = 500 * 16 * 4, 4 * 64 * 500 * 4

    def peak(n, backward):
        model = MTP(n=n, unembeddings="replicated", backward=backward, **sizes)
        b = {"tokens": torch.randint(0, 500, (4, 64 + n)), "mask": torch.ones(4, 64 + n, dtype=torch.bool)}
        with Meter() as meter:
            model(b)["loss"].backward()
        return meter.peak

    assert peak(9, "head-by-head") <= peak(1, "head-by-head") + 8 * (table + 3 * 4 * 4 * 64)  # and weights and terms of the loss
    assert peak(9, "naive") > peak(1, "naive") + 8 * logits


def test_choices():
    with pytest.raises(ValueError, match="'head-by-head', 'joint' or 'naive'"):
        FutureHeads([], backward="both")
