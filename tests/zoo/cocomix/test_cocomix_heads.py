"""CoCoMix with future heads on top: its loss beside the plain form, causality, cached decoding, drafts, and what n = 1 is."""

import json

import pytest
import torch
import torch.nn.functional as F

from zoo.cocomix.net import CoCoMix
from zoo.generate import generate
from zoo.medusa import medusa
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.pretrained import from_pretrained, save_pretrained, to_transformers
from zoo.tree import Tree

torch.set_num_threads(1)
V, T, C, N = 29, 12, 50, 3
SIZES = {"dim": 16, "layers": 6, "heads": 2, "insert": 1, "concepts": C, "keep": 5}
FORMS = [{}, {"flavour": "llama"}, {"mixing": "add"}, {"mixing": "none"}, {"inserted": "pause"}]
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


def made(n=N, seed=0, **settings):
    torch.manual_seed(seed)
    net = CoCoMix(V, T, n=n, **{**SIZES, **settings})
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return net.double()


def batch(n=N, rows=3, teacher=False):
    draw = torch.Generator().manual_seed(1)
    shape = rows, T + n
    labels = torch.randint(0, C, (*shape, 4), generator=draw)
    labels[:, 3, 1:], labels[0, 5] = -1, -1
    given = {"tokens": torch.randint(0, V, shape, generator=draw), "mask": torch.rand(shape, generator=draw) < 0.8}
    given["concepts"] = labels
    if teacher:
        given["teacher"] = torch.randn(rows, T, 7, generator=draw).double()
        given["unembedding"] = torch.randn(V, 7, generator=draw).double()
    return given


def plain_logits(net, tokens):
    """Logits (n, B, T, V) of all heads of tokens (B, T), step by step as the papers tell; and the mixer's input (B, T, D)."""
    trunk, mixer, positions = net.trunk, net.mixer, torch.arange(tokens.shape[1])
    below = h = trunk.blocks(trunk.embed(tokens), stop=net.insert)
    vectors = mixer(h).vectors
    if net.mixing == "interleave":
        both = torch.empty(len(h), 2 * len(positions), h.shape[-1], dtype=h.dtype)
        both[:, 0::2], both[:, 1::2] = h, vectors
        h = trunk.blocks(both, net.insert, positions=positions.repeat_interleave(2))[:, 1::2]
    else:
        h = trunk.blocks(h + vectors if net.mixing == "add" else h, net.insert)
    return torch.stack([trunk.unembed(trunk.norm(trunk.through([block], h))) for block in net.heads.blocks]), below


def plain(net, given):
    """The loss, and its parts that count in it."""
    tokens, mask = given["tokens"], given["mask"]
    logits, below = plain_logits(net, tokens[:, :T])
    parts = {}
    for i in range(1, N + 1):
        counted = mask[:, i : i + T]
        parts["next" if i == 1 else f"head{i}"] = F.cross_entropy(logits[i - 1][counted], tokens[:, i : i + T][counted])
    loss, first = sum(parts.values()), mask[:, 1 : T + 1]
    if "teacher" in given and net.kd:
        log_q = (given["teacher"] @ given["unembedding"].T).log_softmax(-1)
        kl = F.kl_div(logits[0].log_softmax(-1), log_q, reduction="none", log_target=True).sum(-1)
        parts["kd"] = kl[first].mean()
        loss = loss + net.kd * parts["kd"]
    if net.guide and net.lam:
        labels = given["concepts"][:, :T]
        known = labels >= 0
        x = (below - below.mean(-1, keepdim=True)) / (below.std(-1, keepdim=True) + 1e-5) - net.mixer.shift
        nll = -F.linear(x, net.mixer.predictor.weight, net.mixer.prior).log_softmax(-1).gather(-1, labels.clamp(min=0))
        terms = (nll * known).sum(-1) / known.sum(-1).clamp(min=1)
        parts["concept"] = terms[first].mean()
        loss = loss + net.lam * parts["concept"]
    return loss, parts


@pytest.mark.parametrize("form", [*FORMS, {"lam": 0.0}, {"kd": 0.5}, {"kd": 0.5, "inserted": "pause"}, {"chunk": 4}])
def test_loss_and_gradients_are_those_of_the_plain_form(form):
    net, given = made(**form), batch(teacher="kd" in form)
    out = net(given)
    out["loss"].backward()
    ours = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    wanted, parts = plain(net, given)
    wanted.backward()
    torch.testing.assert_close(out["loss"], wanted)
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-8, atol=1e-10)
    assert out["parts"].keys() == parts.keys()
    for name, (total, count) in out["parts"].items():
        torch.testing.assert_close((total / count).double(), parts[name].detach(), rtol=1e-5, atol=0)
    with torch.no_grad():  # in validation: the same numbers, and the parts add up to the loss
        measured = net(given)["parts"]
    assert measured.keys() == out["parts"].keys() | ({"concept"} if net.guide else set())
    for name, (total, count) in out["parts"].items():
        torch.testing.assert_close(torch.stack(measured[name]), torch.stack((total, count)))
    summed = sum(net.part_weights.get(name, 1.0) * total / count for name, (total, count) in measured.items())
    torch.testing.assert_close(summed.double(), wanted.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_no_head_looks_ahead(form):
    net, tokens = made(**form), batch(rows=1)["tokens"][:, :T]
    before, _ = plain_logits(net, tokens)
    assert net.next(tokens, net.cache(1), heads=N).movedim(2, 0).allclose(before)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        moved = (net.next(changed, net.cache(1), heads=N).movedim(2, 0) - before).abs().amax((1, 3)) > 1e-9  # (n, T)
        assert not moved[:, :place].any() and moved[:, place:].all()


def test_nll_is_that_of_head_1():
    net, given = made(), batch()
    terms = F.cross_entropy(plain_logits(net, given["tokens"][:, :T])[0][0].transpose(1, 2), given["tokens"][:, 1 : T + 1],
                            reduction="none")  # fmt: skip
    torch.testing.assert_close(net.nll(given), terms.float())


@pytest.mark.parametrize("form", FORMS)
def test_cached_steps_are_the_whole_pass_for_every_head(form):
    net, tokens = made(**form), batch(rows=2)["tokens"][:, :T]
    whole, _ = plain_logits(net, tokens)
    for heads in range(1, N + 1):
        cache, found = net.cache(2), []
        for start, stop in [(0, 5), (5, 6), (6, 7), (7, 10), (10, T)]:
            found.append(net.next(tokens[:, start:stop], cache, heads=heads))
        found = torch.cat(found, 1)
        torch.testing.assert_close(found if heads > 1 else found[:, :, None], whole[:heads].movedim(0, 2))
        assert cache.held == [T, T]
    with pytest.raises(ValueError, match="sat out earlier steps"):
        cache = net.cache(2)
        net.next(tokens[:, :5], cache, heads=2)
        net.next(tokens[:, 5:6], cache, heads=3)


@pytest.mark.parametrize("form", FORMS)
def test_ragged_rows_and_draft_trees_see_what_they_should(form):
    net, tokens = made(**form), batch(rows=2)["tokens"]
    alone = lambda text: net.next(text, net.cache(1), heads=N)
    cache = net.cache(2)
    net.next(tokens[:, :6], cache, heads=N)
    cache.truncate([6, 4])
    step = net.next(torch.stack((tokens[0, 6:8], tokens[1, 4:6])), cache, heads=N)
    torch.testing.assert_close(step, torch.cat((alone(tokens[:1, :8])[:, 6:], alone(tokens[1:, :6])[:, 4:])))
    cache = net.cache(1)
    net.next(tokens[:1, :4], cache, heads=N)
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    nodes = tokens[:1, 4:7]
    found = net.next(nodes, cache, torch.tensor([4, 5, 5]), tree, heads=N)
    for path in ([0, 1], [0, 2]):
        torch.testing.assert_close(found[:, path], alone(torch.cat((tokens[:1, :4], nodes[:, path]), 1))[:, 4:])
    cache.keep([4], torch.tensor([[0, 2]]))
    text = torch.cat((tokens[:1, :4], nodes[:, [0, 2]], tokens[:1, 7:8]), 1)
    torch.testing.assert_close(net.next(tokens[:1, 7:8], cache, heads=N), alone(text)[:, -1:])


@pytest.mark.parametrize("form", FORMS)
def test_drafts_of_the_heads_change_no_text(form):
    """Greedy, fp32, texts of several lengths that outgrow the context; the net repeats itself, so that drafts are accepted."""
    torch.manual_seed(4)
    net = CoCoMix(V, T, n=N, **{**SIZES, "tied": True, **form}).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim == 2 and "layers" in name:
                weight *= 4
    plain = generate(net, PROMPTS, 2 * T)
    for heads in range(2, N + 1):
        out = generate(net, PROMPTS, 2 * T, heads=heads)
        assert out.tokens == plain.tokens and out.accepted[0] > 0 and out.forwards < plain.forwards
    assert medusa(net, PROMPTS, 2 * T, tree=Tree.default(N, 6)).tokens == plain.tokens


def test_without_concepts_it_is_multi_token_prediction():
    net, given = made(mixing="none", lam=0.0), batch()
    theirs = MTP(V, T, N, 16, 6, 2, flavour="gpt2").double()
    theirs.load_state_dict({name: w for name, w in net.state_dict().items() if not name.startswith("mixer.")})
    assert net(given)["loss"].equal(theirs(given)["loss"]) and net.nll(given).equal(theirs.nll(given))


def test_one_head_is_the_net_without_heads():
    """Heads replace the topmost blocks: the same random numbers, the same parameters, and with n = 1 the same names."""
    nets = {}
    for n in (1, N):
        torch.manual_seed(0)
        nets[n] = CoCoMix(V, T, n=n, **SIZES)
    torch.manual_seed(0)
    assert CoCoMix(V, T, **SIZES).state_dict().keys() == nets[1].state_dict().keys() and nets[1].ahead == 1
    assert not any(name.startswith("heads") for name in nets[1].state_dict())
    with_heads = nets[N].state_dict()
    for name, weight in nets[1].state_dict().items():
        if name.startswith("trunk.layers.") and int(name.split(".")[2]) >= 6 - N:
            _, _, layer, rest = name.split(".", 3)
            name = f"heads.blocks.{int(layer) - (6 - N)}.{rest}"
        assert with_heads.pop(name).equal(weight), name
    assert not with_heads


def test_heads_are_saved_and_older_folders_are_read(tmp_path):
    net, given = made().float(), batch()
    save_pretrained(net, tmp_path / "three")
    back = from_pretrained(tmp_path / "three")
    assert back.n == back.ahead == N and back.nll(given).equal(net.nll(given))
    old = made(n=1).float()
    del old.config["n"]  # as they were saved before there were heads
    save_pretrained(old, tmp_path / "old")
    assert "n" not in json.loads((tmp_path / "old" / "config.json").read_text())["config"]
    assert from_pretrained(tmp_path / "old").nll(batch(1)).equal(old.nll(batch(1)))


@pytest.mark.parametrize("form", [{"inserted": "nothing"}, {"mixing": "none", "flavour": "llama", "hidden": 24}])
@pytest.mark.parametrize("n", [1, N])
def test_what_mixes_nothing_goes_to_transformers(n, form, tmp_path):
    net, tokens = made(n, **form).float(), batch()["tokens"][:, :T]
    alone = NextToken(V, T, 16, 6 if n == 1 else 6 - N + 1, 2, flavour=form.get("flavour", "gpt2"), hidden=form.get("hidden"))
    alone.load_state_dict(net.next_token_weights())
    torch.testing.assert_close(alone.next(tokens, alone.cache(3)), net.next(tokens, net.cache(3)))
    to_transformers(net, tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("form", [{}, {"mixing": "add"}, {"inserted": "pause"}, {"inserted": "states", "n": 1}])
def test_what_mixes_something_in_does_not(form, tmp_path):
    with pytest.raises(ValueError, match="cannot be written for transformers: keep it with"):
        to_transformers(made(**form), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "n = 0 heads cannot be: choose n = 1"),
        ({"n": 6}, "n = 6 heads of 6 layers leave no trunk: choose n between 1 and 5"),
        ({"n": 3, "insert": 3}, "insert = 3 of 3 layers below n = 3 heads leaves none above the concepts: choose 0 to 2"),
    ],
)
def test_sizes_that_cannot_work_are_said(settings, said):
    with pytest.raises(ValueError, match=said):
        made(**settings)


def test_more_heads_than_there_are_cannot_be_asked_for():
    for n in (1, N):
        net = made(n)
        with pytest.raises(ValueError, match=f"This net has n = {n} heads, {n + 1} were asked for"):
            net.next(torch.zeros(1, 2, dtype=torch.int64), net.cache(1), heads=n + 1)
