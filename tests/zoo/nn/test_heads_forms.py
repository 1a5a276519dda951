"""Every form of the heads (MTP, App. B): loss and gradients against one joint graph that is written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.mtp import MTP
from zoo.nn.heads import FutureHeads
from zoo.nn.transformer import Block

torch.set_num_threads(1)
V, T, N = 23, 8, 4
FORMS = {
    "parallel + 2": {"extra": 2},
    "causal": {"arrangement": "causal"},
    "causal + 3": {"arrangement": "causal", "extra": 3},
    "anticausal": {"arrangement": "anticausal"},
    "anticausal + 1": {"arrangement": "anticausal", "extra": 1},
    "linear": {"head": "linear"},
    "replicated": {"unembeddings": "replicated"},
    "replicated, n > layers": {"unembeddings": "replicated", "n": 7},
}
LAYOUTS = [("head-by-head", flavour, tied) for flavour in ("gpt2", "llama") for tied in (True, False)]
LAYOUTS += [(backward, *layout) for backward in ("joint", "naive") for layout in (("gpt2", True), ("llama", False))]


def net(form, flavour="llama", dtype=torch.float64, **kw):
    torch.manual_seed(0)
    sizes = {"vocab": V, "context": T, "n": N, "dim": 16, "layers": 5, "heads": 2, "hidden": 24, "chunk": 7}
    model = MTP(**{**sizes, "flavour": flavour, **FORMS[form], **kw}).to(dtype)
    with torch.no_grad():  # large enough that every part matters, norms and biases included
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def batch(n, rows=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    shape = rows, T + n
    return {"tokens": torch.randint(0, V, shape, generator=g), "mask": torch.rand(shape, generator=g) > 0.2}


def all_logits(model, form, tokens):
    """Logits (n, B, T, V) of tokens (B, T), each form written as its formula."""
    trunk, heads = model.trunk, model.heads
    h = trunk.blocks(trunk.embed(tokens))
    block = lambda i, x: trunk.through([heads.blocks[i]], x)
    kind, outputs = form.split(",")[0].split(" ")[0], []
    if kind == "parallel":
        outputs = [trunk.unembed(trunk.norm(block(i, h))) for i in range(model.n)]
    elif kind == "causal":
        for i in range(model.n):
            h = block(i, h)
            outputs.append(trunk.unembed(trunk.norm(h)))
    elif kind == "anticausal":
        for i in reversed(range(model.n)):
            h = block(i, h)
            outputs.insert(0, trunk.unembed(trunk.norm(h)))
    elif kind == "linear":
        outputs = [trunk.unembed(trunk.norm(h) @ heads.blocks[i].weight.t()) for i in range(model.n)]
    else:
        matrices = [trunk.unembedding, *(own.weight for own in heads.unembeddings)]
        outputs = [trunk.norm(h) @ matrix.t() for matrix in matrices]
    assert len(outputs) == model.n
    return torch.stack(outputs)


def naive(model, form, b):
    """Sum or mean over heads of the mean nll: all heads, all logits, one graph."""
    tokens, mask, losses = b["tokens"], b["mask"], []
    for i, logits in enumerate(all_logits(model, form, tokens[:, :T]), 1):
        nll = F.cross_entropy(logits.transpose(1, 2), tokens[:, i : i + T], reduction="none")
        losses.append(nll[mask[:, i : i + T]].mean())
    return torch.stack(losses).sum() / (model.n if model.reduction == "mean" else 1)


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backward, flavour, tied", LAYOUTS)
@pytest.mark.parametrize("dropout, checkpoint, reduction", [(0.0, False, "mean"), (0.2, False, "sum"), (0.2, True, "sum")])
def test_gradients_equal_those_of_one_joint_graph(form, backward, flavour, tied, dropout, checkpoint, reduction):
    model = net(form, flavour, tied=tied, backward=backward, dropout=dropout, checkpoint=checkpoint, reduction=reduction)
    b = batch(model.n)
    torch.manual_seed(3)
    expected = naive(model, form, b)
    wanted = gradients(model, 2 * expected)
    assert all(g.abs().max() > 1e-4 for g in wanted.values())
    torch.manual_seed(3)
    out = model(b)["loss"]
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    for name, g in gradients(model, 2 * out).items():
        torch.testing.assert_close(g, wanted[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_accumulate_and_come_in_one_backward_pass(form):
    """What gradient accumulation and DDP's hooks rely on."""
    model, fired = net(form), {}
    a, b = batch(model.n), batch(model.n, seed=2)
    wanted = gradients(model, naive(model, form, a) + naive(model, form, b))
    model.zero_grad(set_to_none=True)
    model(a)["loss"].backward()
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: fired.update({name: fired.get(name, 0) + 1}))
    loss = model(b)["loss"]
    assert not fired
    loss.backward()
    assert fired == {name: 1 for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("backward", ["head-by-head", "joint"])
@pytest.mark.parametrize(
    "form, frozen",
    [
        *((form, part) for form in FORMS for part in ("trunk.", "trunk.norm", "trunk.output")),
        *((form, "heads.blocks.1.") for form in ("causal", "anticausal", "linear")),
        ("causal", "heads.blocks.3."),
        ("anticausal", "heads."),
        ("replicated", "heads.unembeddings.1."),
        ("replicated", "heads."),
    ],
)
def test_frozen_parts_stay_without_gradient(form, frozen, backward):
    model = net(form, backward=backward)
    b = batch(model.n)
    wanted = gradients(model, naive(model, form, b))
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    found = gradients(model, model(b)["loss"])
    assert any(g is None for g in found.values())
    for name, g in found.items():
        if name.startswith(frozen):
            assert g is None
        else:
            torch.testing.assert_close(g, wanted[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backward", ["head-by-head", "joint"])
def test_under_bf16_autocast_gradients_are_those_of_one_graph_to_bf16(form, backward):
    model = net(form, "gpt2", torch.float32, backward=backward)
    b = batch(model.n)
    exact = gradients(model, naive(model, form, b))
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradients(model, naive(model, form, b))
        ours = gradients(model, model(b)["loss"])
    size = lambda g: sum(x.square().sum() for x in g.values()).sqrt()
    error = lambda g: size({k: g[k] - exact[k] for k in exact}) / size(exact)
    assert all(g.dtype == torch.float32 for g in ours.values())
    assert 0 < error(ours) < 1.5 * error(rough)


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_gives_the_same_terms(form):
    model = net(form)
    b = batch(model.n)
    trained = model(b)
    with torch.no_grad():
        evaluated = model(b)
        logits = all_logits(model, form, b["tokens"][:, :T])
    torch.testing.assert_close(evaluated["loss"], trained["loss"].detach(), atol=1e-12, rtol=0)
    for i, (name, (total, count)) in enumerate(trained["parts"].items(), 1):
        mask, targets = b["mask"][:, i : i + T], b["tokens"][:, i : i + T]
        expected = F.cross_entropy(logits[i - 1][mask], targets[mask], reduction="sum")
        torch.testing.assert_close(total.double(), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(evaluated["parts"][name], (total, count))
    first = F.cross_entropy(logits[0].transpose(1, 2), b["tokens"][:, 1 : T + 1], reduction="none")
    torch.testing.assert_close(model.nll(b).double(), first, atol=1e-5, rtol=0)


def test_stacked_heads_run_backwards_from_the_farthest_to_the_trunk():
    """Fig. S11: the gradient of a head waits for those of the heads on top of it, and every head runs forward once."""
    for form, outwards in (("causal", [0, 1, 2, 3]), ("anticausal", [3, 2, 1, 0])):
        model, seen = net(form), []
        for i, block in enumerate(model.heads.blocks):
            block.register_forward_hook(lambda *_, i=i, seen=seen: seen.append(("forward", i)))
            block.register_full_backward_hook(lambda *_, i=i, seen=seen: seen.append(("backward", i)))
        model(batch(N))["loss"].backward()
        assert seen == [("forward", i) for i in outwards] + [("backward", i) for i in reversed(outwards)]


@pytest.mark.parametrize("form", ["causal", "anticausal"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_stacked_heads_are_recomputed_only_where_the_trunk_is(form, checkpoint):
    model, runs = net(form, checkpoint=checkpoint), []
    for block in model.modules():
        if isinstance(block, Block):
            block.register_forward_pre_hook(lambda *_: runs.append(1))
    model(batch(N))["loss"].backward()
    assert len(runs) == 5 * (2 if checkpoint else 1)


def test_choices():
    with pytest.raises(ValueError, match="'parallel', 'causal' or 'anticausal', not 'serial'"):
        FutureHeads([nn.Identity()], arrangement="serial")
    with pytest.raises(ValueError, match="3 heads need 2 unembeddings beside the first, not 1"):
        FutureHeads([nn.Identity()] * 3, unembeddings=[nn.Embedding(3, 2)])
