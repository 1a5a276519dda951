"""Attribution: beside plain autograd, sae-lens' own gradient, and the paper's equation taken position by position."""

import pytest
import torch
import torch.nn.functional as F

from tests.zoo.cocomix.test_sae import saved
from zoo.cocomix.attribution import NONE, ConceptExtractor, nll_gradient
from zoo.cocomix.sae import SparseAutoencoder
from zoo.ntp import NextToken

V, T, D, LAYER = 23, 9, 12, 2


@pytest.fixture(params=["gpt2", "llama"])
def teacher(request):
    torch.manual_seed(3)
    net = NextToken(V, T, dim=D, layers=4, heads=2, hidden=24, flavour=request.param)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return net


@pytest.fixture
def sae(tmp_path):
    saved(tmp_path, normalize_activations="layer_norm")
    return SparseAutoencoder.load(tmp_path)


@pytest.fixture
def tokens():
    return torch.randint(0, V, (3, T + 1), generator=torch.Generator().manual_seed(4))


def nll(teacher, h, tokens):
    """The teacher's loss (B, T) from its states after LAYER blocks, as one writes it first."""
    logits = teacher.trunk.unembed(teacher.trunk.norm(teacher.trunk.blocks(h, start=LAYER)))
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def states(teacher, tokens):
    return teacher.trunk.blocks(teacher.trunk.embed(tokens[:, :-1]), stop=LAYER).detach().requires_grad_()


def chosen(score, ids):
    best, places = score.topk(4)
    return ids.gather(-1, places).masked_fill(best <= 0, NONE)


@pytest.mark.parametrize("score", ["attribution", "-attribution", "|attribution|", "activation"])
def test_labels_are_those_of_plain_autograd(teacher, sae, tokens, score):
    h = states(teacher, tokens)
    (gradient,) = torch.autograd.grad(nll(teacher, h, tokens).mean(), h)
    latents = sae.encode(h)
    dense = torch.zeros(3, T, sae.latents).scatter(-1, latents.ids, latents.values)
    a = gradient @ sae.decoder.T * dense
    wanted = {"attribution": a, "-attribution": -a, "|attribution|": a.abs(), "activation": dense}[score]
    labels = ConceptExtractor(teacher, sae, LAYER, score=score)(tokens)
    assert labels.equal(chosen(wanted, torch.arange(sae.latents).expand(3, T, -1)))
    if score in ("attribution", "-attribution"):
        assert (labels == NONE).any()  # where fewer than four latents have that sign


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_gradient_of_the_loss_is_autograds(chunk):
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(3, T, D).double(), torch.randn(V, D).double(), torch.randint(0, V, (3, T))
    F.cross_entropy((hidden.requires_grad_() @ weight.T).transpose(1, 2), targets, reduction="sum").backward()
    torch.testing.assert_close(nll_gradient(hidden, weight, targets, chunk), hidden.grad)
    with torch.autocast("cpu", torch.bfloat16):
        low = nll_gradient(hidden.float(), weight.float(), targets, chunk)
    assert low.dtype == torch.float32 and not low.requires_grad
    torch.testing.assert_close(low.double(), hidden.grad, atol=0.1, rtol=0.1)


def test_scores_are_the_gradients_of_sae_lens_with_its_error_term(teacher, tokens, tmp_path):
    theirs = saved(tmp_path, normalize_activations="layer_norm")
    theirs.use_error_term = True
    kept = []
    theirs.hook_sae_acts_post.register_forward_hook(lambda module, given, out: (out.retain_grad(), kept.append(out)) and None)
    h = states(teacher, tokens)
    nll(teacher, theirs(h), tokens).sum().backward()
    c = kept[0]
    labels = ConceptExtractor(teacher, SparseAutoencoder.load(tmp_path), LAYER)(tokens)
    assert labels.equal(chosen(c * c.grad, torch.arange(c.shape[-1]).expand(c.shape)))


def test_exact_scores_come_from_the_next_tokens_loss_alone(teacher, sae, tokens):
    extractor = ConceptExtractor(teacher, sae, LAYER)
    h = states(teacher, tokens)
    gradient = torch.stack([torch.autograd.grad(nll(teacher, h, tokens)[:, t].sum(), h)[0][:, t] for t in range(T)], 1)
    latents = sae.encode(h)
    score = latents.values * (sae.decoder[latents.ids] * gradient[:, :, None]).sum(-1)
    assert extractor.exact(tokens).equal(chosen(score, latents.ids))
    last = extractor(tokens)[:, -1]  # the last state serves its own token only: nothing to tell apart
    assert extractor.exact(tokens)[:, -1].equal(last)
    assert not extractor.exact(tokens).equal(extractor(tokens))


def test_gradients_are_taken_above_the_autoencoder_alone(teacher, sae, tokens, monkeypatch):
    """Blocks below the states, and the embedding, run without a graph; those above with one."""
    trunk, graphs = teacher.trunk, {}
    for index, block in enumerate(trunk.layers):
        block.register_forward_hook(lambda m, i, out, index=index: graphs.setdefault(index, []).append(out.requires_grad))
    ConceptExtractor(teacher, sae, LAYER)(tokens)
    assert not any(graph for index in range(LAYER) for graph in graphs[index])
    assert all(graph for index in range(LAYER, len(trunk.layers)) for graph in graphs[index])


def test_labels_of_a_text_do_not_hang_on_its_batch_and_nothing_learns(teacher, sae, tokens):
    for score in ("attribution", "random"):
        extractor = ConceptExtractor(teacher, sae, LAYER, score=score).train()
        whole = extractor(tokens)
        assert whole.equal(torch.cat([extractor(row[None]) for row in tokens]))
        assert not extractor.teacher.training and all(p.grad is None for p in extractor.parameters())
    assert whole.unique(return_counts=True)[1].max() < whole.numel() / 4  # random does not always take the same


def test_every_random_label_is_active_and_all_are_drawn_alike(teacher, sae):
    tokens = torch.randint(0, V, (200, T + 1))
    extractor = ConceptExtractor(teacher, sae, LAYER, labels=1, score="random")
    latents = sae.encode(states(teacher, tokens))
    rank = (latents.ids == extractor(tokens)).int().argmax(-1)
    assert (latents.ids == extractor(tokens)).any(-1).logical_or(latents.values[..., 0] == 0).all()
    full = (latents.values > 0).all(-1)
    counts = rank[full].bincount(minlength=sae.keep).double()
    assert ((counts / counts.sum() - 1 / sae.keep).abs() < 0.05).all()


def test_targets_that_do_not_count_leave_no_trace(teacher, sae, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, -3:] = False
    other = tokens.clone()
    other[:, -3:] = (other[:, -3:] + 1) % V
    extractor = ConceptExtractor(teacher, sae, LAYER)
    labels = extractor(tokens, mask)
    assert labels[:, : T - 3].equal(extractor(other, mask)[:, : T - 3])
    assert (labels[:, T - 3 :] == NONE).all()  # no loss, no gradient: such scores are all 0 and no labels


def test_all_latents_may_be_candidates_by_their_pre_activation(teacher, sae, tokens):
    h = states(teacher, tokens)
    (gradient,) = torch.autograd.grad(nll(teacher, h, tokens).sum(), h)
    score = gradient @ sae.decoder.T * sae.pre(h)[0]
    labels = ConceptExtractor(teacher, sae, LAYER, candidates="all")(tokens)
    assert labels.equal(chosen(score, torch.arange(sae.latents).expand(3, T, -1)))


def test_what_is_not_a_number_is_no_label(teacher, sae, tokens):
    with torch.no_grad():
        teacher.trunk.norm.weight.fill_(torch.nan)  # above the states, which stay what they are
    assert (ConceptExtractor(teacher, sae, LAYER)(tokens) == NONE).all()
    assert (ConceptExtractor(teacher, sae, LAYER, candidates="all")(tokens) == NONE).all()
    assert (ConceptExtractor(teacher, sae, LAYER, score="activation")(tokens) != NONE).any()


def test_what_does_not_fit_is_said(teacher, sae):
    for wrong, sentence in [
        ({"layer": 5}, "choose 0 to 4"),
        ({"score": "best"}, "score is one of"),
        ({"labels": 6}, "labels = 6 of 5 active"),
        ({"candidates": "some"}, "'active' or 'all'"),
        ({"candidates": "all", "score": "activation"}, "of active latents"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            ConceptExtractor(teacher, sae, **{"layer": LAYER} | wrong)
    with pytest.raises(ValueError, match="width 8 and the teacher's have 12"):
        ConceptExtractor(teacher, SparseAutoencoder(8, 30, 5), LAYER)
