"""Laws of the other forms of the heads (MTP, App. B; papers/mtp, section 1.4)."""

import pytest
import torch
import torch.nn.functional as F

from zoo.mtp import MTP
from zoo.ntp import NextToken

torch.set_num_threads(1)
V, T, N = 29, 12, 3
FORMS = {
    "parallel": {},
    "parallel + 2": {"extra": 2},
    "causal": {"arrangement": "causal"},
    "anticausal": {"arrangement": "anticausal"},
    "linear": {"head": "linear"},
    "replicated": {"unembeddings": "replicated"},
}
LAYERED = ("parallel", "parallel + 2", "causal", "anticausal")


def net(form, flavour="llama", n=N, **kw):
    torch.manual_seed(0)
    return MTP(**{"vocab": V, "context": T, "n": n, "dim": 24, "layers": 5, "heads": 3, "flavour": flavour, **FORMS[form], **kw})


def stirred(form, flavour="llama", **kw):
    model = net(form, flavour, **kw).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def parameters(**kw):
    with torch.device("meta"):
        return sum(p.numel() for p in MTP(**kw).parameters())


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("form", ["causal", "anticausal", "replicated"])
def test_one_head_is_next_token_prediction(form, flavour):
    """Same seed: same weights, same loss, same gradients, same nll, to the last digit."""
    one = net(form, flavour, n=1, dropout=0.1)
    torch.manual_seed(0)
    base = NextToken(V, T, 24, 5, 3, flavour=flavour, dropout=0.1)
    pairs = list(zip(one.parameters(), base.parameters()))
    assert len(pairs) == len(list(base.parameters())) and all(torch.equal(a, b) for a, b in pairs)
    b, outs = {"tokens": torch.randint(0, V, (3, T + 1)), "mask": torch.ones(3, T + 1, dtype=torch.bool)}, []
    for model in (one, base):
        torch.manual_seed(4)
        outs.append(model(b))
        outs[-1]["loss"].backward()
    assert torch.equal(outs[0]["loss"], outs[1]["loss"]) and outs[0]["parts"] == outs[1]["parts"]
    for p, q in pairs:
        torch.testing.assert_close(p.grad, q.grad, atol=1e-7, rtol=1e-6)
    assert torch.equal(one.eval().nll(b), base.eval().nll(b))


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_forms_start_from_the_same_random_numbers(flavour):
    """Arms of a comparison: tables, trunk and heads' blocks are those of next-token prediction."""
    torch.manual_seed(0)
    base = list(NextToken(V, T, 24, 5, 3, flavour=flavour).parameters())
    for form in ("parallel", "causal", "anticausal"):
        model = list(net(form, flavour).parameters())
        assert len(model) == len(base) and all(torch.equal(a, b) for a, b in zip(model, base))
    for form in ("linear", "replicated"):
        assert all(torch.equal(a, b) for a, b in zip(net(form, flavour).trunk.parameters(), base, strict=True))


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("form", FORMS)
def test_no_head_looks_ahead_and_all_see_the_last_token(form, flavour):
    model, tokens = stirred(form, flavour), torch.randint(0, V, (1, T))
    before = model.next(tokens, model.cache(1), heads=N)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        moved = (model.next(changed, model.cache(1), heads=N) - before).abs().amax((0, 3)) > 0  # (T, n)
        assert not moved[:place].any() and moved[place:].all()


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("form", FORMS)
def test_cached_decoding_gives_the_logits_of_one_pass(form, flavour):
    """In pieces, with rejected drafts in between, for every number of heads; head 1 scores what `nll` says."""
    model, tokens = stirred(form, flavour), torch.randint(0, V, (2, T))
    whole = model.next(tokens, model.cache(2), heads=N)  # (B, T, n, V)
    wrong = torch.randint(0, V, (2, 3))
    for k in range(1, N + 1):
        cache, done, found = model.cache(2), 0, []
        for size in (5, 1, 2, 4):
            found.append(model.states(tokens[:, done : done + size], cache, heads=k))
            done += size
            if done + 3 <= T:
                model.states(wrong, cache, heads=k)
                cache.truncate(done)
        states = torch.cat(found, 1)  # (B, T, k, D)
        for i in range(k):
            torch.testing.assert_close(model.logits(states[:, :, i], i), whole[:, :, i], atol=1e-10, rtol=0)
    nll = -whole[:, :-1, 0].log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    padded = torch.cat((tokens, tokens[:, : N - 1]), 1)  # as long as a batch is, n - 1 more than needed
    torch.testing.assert_close(model.nll({"tokens": padded}), nll.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("form", FORMS)
def test_decoding_gives_what_was_trained(form, flavour):
    """Every head's logits have the nll that the loss has."""
    model = stirred(form, flavour)
    b = {"tokens": torch.randint(0, V, (2, T + N)), "mask": torch.ones(2, T + N, dtype=torch.bool)}
    logits = model.next(b["tokens"][:, :T], model.cache(2), heads=N)
    for i, (total, _) in enumerate(model(b)["parts"].values()):
        nll = F.cross_entropy(logits[:, :, i].flatten(0, 1), b["tokens"][:, i + 1 : i + 1 + T].flatten(), reduction="sum")
        torch.testing.assert_close(total.double(), nll, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_ragged_rows_decode_as_they_would_alone(form):
    model, tokens, lengths = stirred(form), torch.randint(0, V, (3, 7)), [7, 2, 5]
    cache = model.cache(3)
    model.next(tokens, cache, heads=N)
    cache.truncate(torch.tensor(lengths))
    more = torch.randint(0, V, (3, 2))
    together = model.next(more, cache, heads=N)
    for row, length in enumerate(lengths):
        alone = model.cache(1)
        model.next(tokens[row : row + 1, :length], alone, heads=N)
        torch.testing.assert_close(together[row], model.next(more[row : row + 1], alone, heads=N)[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("form, late", [(form, form not in ("parallel", "parallel + 2", "causal")) for form in FORMS])
def test_which_heads_may_join_late(form, late):
    """Heads without layers of their own, and anticausal ones, which all run for head 1, miss nothing; the others would."""
    model, tokens = stirred(form), torch.randint(0, V, (1, T))
    cache = model.cache(1)
    assert len(cache.keys) == len(model.trunk.layers) + (N if form in LAYERED else 0)
    model.next(tokens[:, :5], cache)
    if late:
        whole = model.next(tokens, model.cache(1), heads=N)
        torch.testing.assert_close(model.next(tokens[:, 5:], cache, heads=N), whole[:, 5:], atol=1e-10, rtol=0)
    else:
        with pytest.raises(ValueError, match="same number of heads"):
            model.next(tokens[:, 5:], cache, heads=N)


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_one_batch_by_heart(form):
    model = net(form, n=2, dim=32, heads=4, layers=4, **({"extra": 1} if "+" in form else {}))
    b = {"tokens": torch.randint(0, V, (1, T + 2)), "mask": torch.ones(1, T + 2, dtype=torch.bool)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        out = model(b)
        out["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(total / count < 0.1 for total, count in out["parts"].values())


def test_parameters_of_the_7b_forms():
    """12 L d^2 + 2 V d (papers/mtp, 1.2) at the 7B of Table S14, and what each form adds to it."""
    dim, layers, block = 4096, 32, 12 * 4096**2
    sizes = {"vocab": 32000, "context": 4096, "n": 4, "dim": dim, "layers": layers, "heads": 32, "hidden": round(8 * dim / 3)}
    base = parameters(**sizes)
    assert base == pytest.approx(layers * block + 2 * 32000 * dim, rel=1e-4)
    assert parameters(**sizes, arrangement="causal") == parameters(**sizes, arrangement="anticausal") == base
    assert parameters(**sizes, extra=3) - base == pytest.approx(3 * block, rel=1e-4)
    assert parameters(**sizes, extra=3, arrangement="causal") == parameters(**sizes, extra=3)
    assert parameters(**sizes, head="linear") - base == 4 * dim**2  # a third of a block
    for n in (1, 8, 16, 32):  # the byte models: a full trunk, and per head V d more
        found = parameters(**{**sizes, "vocab": 257, "context": 8192, "n": n}, unembeddings="replicated")
        assert found == pytest.approx(layers * block + (1 + n) * 257 * dim, rel=1e-4)
        assert found - parameters(**{**sizes, "vocab": 257, "context": 8192, "n": 1}) == (n - 1) * 257 * dim


def test_the_trunk_keeps_its_layers():
    for form, layers in (
        ("parallel", 2),
        ("parallel + 2", 4),
        ("causal", 2),
        ("anticausal", 2),
        ("linear", 5),
        ("replicated", 5),
    ):
        assert len(net(form).trunk.layers) == layers
    assert len(net("replicated", n=8).trunk.layers) == len(net("linear", n=8).trunk.layers) == 5


def test_muon_does_not_take_an_unembedding_for_a_hidden_matrix():
    from zoo.optim import Muon

    for form, matrices in (("replicated", 5 * 4), ("linear", 5 * 4 + N)):
        model = net(form)
        muon = Muon(model)._parts[0]
        taken = {id(p) for group in muon.param_groups for p in group["params"]}
        assert len(taken) == matrices and not any(id(own.weight) in taken for own in model.heads.unembeddings)


@pytest.mark.parametrize("form", FORMS)
def test_the_config_builds_the_same_net(form):
    model = net(form)
    again = MTP(**model.config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert again.config == model.config and again.heads.arrangement == model.heads.arrangement


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"head": "mlp"}, "head is 'transformer' or 'linear', not 'mlp'"),
        ({"arrangement": "serial"}, "arrangement is 'parallel', 'causal' or 'anticausal', not 'serial'"),
        ({"unembeddings": "own"}, "unembeddings is 'shared' or 'replicated', not 'own'"),
        ({"head": "linear", "arrangement": "anticausal"}, "can be stacked: leave out head='linear' or arrangement='anticausal'"),
        ({"unembeddings": "replicated", "arrangement": "causal"}, "leave out unembeddings='replicated' or arrangement='causal'"),
        ({"unembeddings": "replicated", "head": "linear"}, "is a linear map already: leave head='linear' out"),
        ({"extra": 3}, "choose extra between 0 and 2"),
        ({"extra": -1}, "choose extra between 0 and 2"),
        ({"extra": 1, "head": "linear"}, "extra = 1 counts transformer heads, and there are none"),
        ({"extra": 1, "unembeddings": "replicated"}, "there are none"),
        ({"n": 8, "extra": 2}, "leave no trunk: choose n between 1 and 6, or unembeddings='replicated'"),
        ({"n": 0, "head": "linear"}, "at least 1, not 0 and 5"),
        ({"layers": 0, "unembeddings": "replicated"}, "at least 1, not 3 and 0"),
    ],
)
def test_forms_that_do_not_exist(wrong, message):
    with pytest.raises(ValueError, match=message):
        net("parallel", **wrong)
