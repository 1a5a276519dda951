"""CoCoMix: its loss beside the plain form, causality, cached decoding, and the corners that are other nets."""

import pytest
import torch
import torch.nn.functional as F

from zoo.cocomix.net import CoCoMix
from zoo.generate import generate
from zoo.ntp import NextToken
from zoo.reading import window_start

V, T, C = 29, 12, 50
SIZES = {"dim": 16, "layers": 4, "heads": 2, "insert": 2, "concepts": C, "keep": 5}


def made(seed=0, **settings):
    torch.manual_seed(seed)
    net = CoCoMix(V, T, **{**SIZES, **settings})
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return net.double()


def batch(rows=3, concepts=True):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, V, (rows, T + 1), generator=draw)
    mask = torch.rand(rows, T + 1, generator=draw) < 0.8
    labels = torch.randint(0, C, (rows, T + 1, 4), generator=draw)
    labels[:, 3, 1:], labels[0, 5] = -1, -1
    return {"tokens": tokens, "mask": mask, **({"concepts": labels} if concepts else {})}


def all_logits(net, tokens, head=0):
    """Logits (B, T, V) of a head of tokens (B, T) in one pass without a cache."""
    return net.logits(net._outputs(net._hidden(tokens)[0], head + 1)[head])


FORMS = [{}, {"flavour": "llama"}, {"mixing": "add"}, {"mixing": "none"}]
ARMS = [{"inserted": "pause"}, {"inserted": "copy"}, {"inserted": "states", "teacher_dim": 7}, {"inserted": "nothing"}]


def plain(net, given):
    """The loss as the paper writes it, slot by slot."""
    tokens, labels = given["tokens"], given["concepts"][:, :-1]
    trunk, mixer, x = net.trunk, net.mixer, tokens[:, :-1]
    h = trunk.blocks(trunk.embed(x), stop=2)
    mean, std = h.mean(-1, keepdim=True), h.std(-1, keepdim=True)
    z = F.linear((h - mean) / (std + 1e-5) - mixer.shift, mixer.predictor.weight, mixer.prior)
    terms = -z.log_softmax(-1).gather(-1, labels.clamp(min=0))
    known = labels >= 0
    concept = ((terms * known).sum(-1) / known.sum(-1).clamp(min=1))[given["mask"][:, 1:]].mean()  # 0 without labels
    if net.mixing != "none":
        top = torch.zeros_like(z).scatter(-1, z.topk(5).indices, z.topk(5).values)
        vector = (top @ mixer.compressor.weight + mixer.bias + mixer.shift) * std + mean
    positions = torch.arange(T)
    if net.mixing == "interleave":
        both = torch.empty(len(h), 2 * T, h.shape[-1], dtype=h.dtype)
        both[:, 0::2], both[:, 1::2] = h, vector
        h = trunk.blocks(both, 2, positions=positions.repeat_interleave(2))[:, 1::2]
    else:
        h = trunk.blocks(h + vector if net.mixing == "add" else h, 2)
    nll = F.cross_entropy(trunk.unembed(trunk.norm(h)).transpose(1, 2), tokens[:, 1:], reduction="none")
    return nll[given["mask"][:, 1:]].mean() + net.lam * concept


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients_are_those_of_the_plain_form(form):
    net, given = made(**form), batch()
    out = net(given)
    out["loss"].backward()
    ours = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    wanted = plain(net, given)
    wanted.backward()
    torch.testing.assert_close(out["loss"], wanted)
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-8, atol=1e-10)
    total, count = out["parts"]["concept"]
    assert count == given["mask"][:, 1:].sum() > ((given["concepts"][:, :-1] >= 0).any(-1) & given["mask"][:, 1:]).sum()
    next_total, next_count = out["parts"]["next"]
    torch.testing.assert_close((next_total / next_count + 0.1 * total / count).double(), wanted.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("form", FORMS + ARMS)
def test_nothing_looks_ahead(form):
    net, given = made(**form), batch(1)["tokens"]
    before = net.nll({"tokens": given})
    given[0, 7] = (given[0, 7] + 1) % V
    assert net.nll({"tokens": given})[0, :6].equal(before[0, :6]) and not net.nll({"tokens": given})[0, 6:].equal(before[0, 6:])


@pytest.mark.parametrize("form", FORMS + ARMS)
def test_cached_steps_are_the_whole_pass(form):
    net, tokens = made(**form), batch(2)["tokens"]
    x = tokens[:, :T]
    whole = all_logits(net, x)
    cache, found = net.cache(2), []
    for start, stop in [(0, 5), (5, 6), (6, 7), (7, 10), (10, T)]:
        found.append(net.next(x[:, start:stop], cache))
    torch.testing.assert_close(torch.cat(found, 1), whole)
    assert cache.held == [T, T]


@pytest.mark.parametrize("form", FORMS)
def test_ragged_rows_and_draft_trees_see_what_they_should(form):
    net, tokens = made(**form), batch(2)["tokens"]
    cache = net.cache(2)
    net.next(tokens[:, :6], cache)
    cache.truncate([6, 4])
    step = net.next(torch.stack((tokens[0, 6:8], tokens[1, 4:6])), cache)
    alone = [net.next(tokens[:1, :8], net.cache(1))[:, 6:], net.next(tokens[1:, :6], net.cache(1))[:, 4:]]
    torch.testing.assert_close(step, torch.cat(alone))
    cache = net.cache(1)
    net.next(tokens[:1, :4], cache)
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    nodes, positions = tokens[:1, 4:7], torch.tensor([4, 5, 5])
    found = net.next(nodes, cache, positions, tree)
    for path in ([0, 1], [0, 2]):
        text = torch.cat((tokens[:1, :4], nodes[:, path]), 1)
        torch.testing.assert_close(found[:, path], net.next(text, net.cache(1))[:, 4:])
    cache.keep([4], torch.tensor([[0, 2]]))
    text = torch.cat((tokens[:1, :4], nodes[:, [0, 2]], tokens[:1, 7:8]), 1)
    torch.testing.assert_close(net.next(tokens[:1, 7:8], cache), net.next(text, net.cache(1))[:, -1:])


@pytest.mark.parametrize("form", FORMS + ARMS)
def test_generation_is_the_whole_pass_at_every_token_past_the_context_too(form):
    net = made(**form).eval()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    texts = generate(net, prompts, 2 * T).tokens
    for prompt, new in zip(prompts, texts):
        for i in range(len(new)):
            text = prompt + new[:i]
            seen = torch.tensor([text[window_start(len(text), T) :]])
            assert int(all_logits(net, seen)[0, -1].argmax()) == new[i]


def test_the_last_block_computes_what_is_read_alone():
    net, given = made(), batch()
    out = net(given)
    out["loss"].backward()
    ours = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    blocks, net.trunk.blocks = net.trunk.blocks, None
    net.trunk.blocks = lambda *args, read=None, **rest: blocks(*args, **rest)[:, read or slice(None)]
    whole = net(given)
    whole["loss"].backward()
    torch.testing.assert_close(out["loss"], whole["loss"])
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad)


def test_the_loss_of_a_batch_is_the_mean_of_its_rows_losses_however_their_labels_are_spread():
    net, given = made(), batch()
    given["mask"][:] = True
    given["concepts"][0, 2:9], given["concepts"][1, 4] = -1, -1
    rows = [net({name: x[i : i + 1] for name, x in given.items()})["loss"] for i in range(3)]
    torch.testing.assert_close(net(given)["loss"], torch.stack(rows).mean())


def test_predicting_concepts_without_mixing_or_loss_is_the_baseline():
    net, given = made(mixing="none", lam=0.0), batch()
    base = NextToken(V, T, dim=16, layers=4, heads=2, flavour="gpt2").double()
    base.load_state_dict({name: w for name, w in net.state_dict().items() if name.startswith("trunk.")})
    assert net(given)["loss"].equal(base(given)["loss"])
    assert net.nll(given).equal(base.nll(given))


def test_without_loss_concepts_are_learned_through_the_kept_logits_alone():
    net, given = made(lam=0.0), batch()
    net(given)["loss"].backward()
    assert 0 < (net.mixer.predictor.weight.grad.abs().sum(1) > 0).sum() < C
    with torch.no_grad():
        assert net(given)["parts"]["concept"][0] > 0  # still measured in validation
    bare = net(batch(concepts=False))
    assert bare["parts"].keys() == {"next"} and bare["loss"].equal(net(given)["loss"])


@pytest.mark.parametrize("inserted", ["pause", "copy"])
def test_a_pause_is_one_vector_after_every_token_and_a_copy_has_it_on_top_of_the_state(inserted):
    net, given = made(inserted=inserted), batch()
    h = net.trunk.blocks(net.trunk.embed(given["tokens"][:, :-1]), stop=2)
    slot = net.mixer.vector.expand_as(h)
    both = torch.stack((h, h + slot if inserted == "copy" else slot), 2).flatten(1, 2)
    top = net.trunk.norm(net.trunk.blocks(both, 2, positions=torch.arange(T).repeat_interleave(2)))[:, 1::2]
    wanted = F.cross_entropy(net.trunk.unembed(top).transpose(1, 2), given["tokens"][:, 1:], reduction="none")
    torch.testing.assert_close(net(given)["loss"], wanted[given["mask"][:, 1:]].mean())
    assert net(given)["parts"].keys() == {"next"}


@pytest.mark.parametrize("regression", ["l1", "l2", "cosine"])
def test_states_may_be_predicted_instead_of_concepts(regression):
    net, given = made(inserted="states", teacher_dim=7, regression=regression), batch()
    with torch.no_grad():
        bare = net(given)["loss"]
    given["states"] = torch.randn(3, T, 7, dtype=torch.float64)
    guess = net.mixer.down(
        F.gelu(net.mixer.up(net.trunk.blocks(net.trunk.embed(given["tokens"][:, :-1]), stop=2)), approximate="tanh")
    )
    wanted = {"l1": F.l1_loss, "l2": F.mse_loss, "cosine": lambda a, b: (1 - F.cosine_similarity(a, b, -1)).mean()}[regression]
    out = net(given)
    counted = given["mask"][:, 1:]
    torch.testing.assert_close(out["loss"], bare + 0.1 * wanted(guess[counted], given["states"][counted]))
    assert out["parts"]["state"][1] == counted.sum()
    out["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("inserted", ["nothing", "pause", "concepts"])
def test_distillation_adds_the_divergence_from_the_teacher(inserted):
    net, given = made(inserted=inserted, kd=0.5), batch()
    with torch.no_grad():
        bare = net(given)["loss"]
    given |= {"teacher": torch.randn(3, T, 5).double(), "unembedding": torch.randn(V, 5).double()}
    log_p = all_logits(net, given["tokens"][:, :-1]).log_softmax(-1)
    log_q = (given["teacher"] @ given["unembedding"].T).log_softmax(-1)
    kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)[given["mask"][:, 1:]].mean()
    out = net(given)
    torch.testing.assert_close(out["loss"], bare + 0.5 * kl)
    torch.testing.assert_close((out["parts"]["kd"][0] / out["parts"]["kd"][1]).double(), kl, rtol=1e-5, atol=0)
    assert ("concept" in out["parts"]) == (inserted == "concepts")


def test_training_without_the_teacher_it_needs_is_refused():
    for settings, words in [({}, "no 'concepts'.* set lam to 0"), ({"lam": 0.0, "kd": 0.1}, "no 'teacher'.* set kd to 0")]:
        net = made(**settings)
        with pytest.raises(ValueError, match=words):
            net(batch(concepts=False))
        with torch.no_grad():
            assert net(batch(concepts=False))["parts"].keys() == {"next"}


def test_sizes_of_the_paper():
    with torch.device("meta"):
        net = CoCoMix(50257, 1024)
    trunk = sum(p.numel() for p in net.trunk.parameters())
    predictor = net.mixer.predictor.weight.numel() + net.mixer.prior.numel()
    assert (round(trunk / 1e6, 2), round((trunk + predictor) / 1e6, 2)) == (51.48, 68.29)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 85.06


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"insert": 4}, "choose 0 to 3"),
        ({"mixing": "sum"}, "'interleave', 'add'"),
        ({"lam": -1.0}, "lam"),
        ({"inserted": "x"}, "'pause'"),
        ({"inserted": "states", "regression": "l3"}, "'cosine'"),
    ],
)
def test_sizes_that_cannot_work_are_said(settings, said):
    with pytest.raises(ValueError, match=said):
        made(**settings)
