"""Continuous concepts: each clever form beside the plain one."""

import pytest
import torch
import torch.nn.functional as F

from zoo.nn import concepts
from zoo.nn.concepts import EPS, ConceptMixer, normalised, predict

B, T, D, C, K = 2, 5, 8, 40, 6


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    mixer = ConceptMixer(D, C, K, chunk=3).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn_like(p))
    return mixer


def plain(mixer, h, labels, weights):
    """As the paper writes it: dense logits, a cross-entropy per label, a masked vector of all concepts times the whole matrix."""
    mean = h.mean(-1, keepdim=True)
    std = (h - mean).square().sum(-1, keepdim=True).div(D - 1).sqrt()
    x = (h - mean) / (std + EPS) - mixer.shift
    z = x @ mixer.predictor.weight.T + mixer.prior
    nll = torch.zeros(B, T, dtype=h.dtype)
    for b in range(B):
        for t in range(T):
            known = [i for i in labels[b, t].tolist() if i >= 0]
            if known:
                nll[b, t] = sum(F.cross_entropy(z[b, t], torch.tensor(i)) for i in known) / len(known)
    kept = torch.zeros_like(z).scatter(-1, z.topk(K).indices, 1.0) * z
    vectors = (kept @ mixer.compressor.weight + mixer.bias + mixer.shift) * std + mean
    return vectors, (nll * weights).sum(), nll


@pytest.fixture
def text():
    torch.manual_seed(1)
    h = torch.randn(B, T, D, dtype=torch.float64) * 3 + 1
    labels = torch.randint(0, C, (B, T, 4))
    labels[0, 1, 2:] = -1  # fewer labels
    labels[1, 4] = -1  # none, as at the end of a window
    return h, labels, torch.rand(B, T, dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.1, 0.0])
def test_values_and_gradients_are_those_of_the_plain_form(mixer, text, lam):
    h, labels, weights = text
    found = []
    for form in (lambda h: mixer(h, labels, weights)[:3], lambda h: plain(mixer, h, labels, weights)):
        x = h.clone().requires_grad_()
        mixer.zero_grad()
        vectors, loss, nll = form(x)
        (lam * loss + vectors.square().sum()).backward()
        found.append([vectors, loss, nll, x.grad, *(p.grad for p in mixer.parameters())])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_without_gradients_the_same_values_and_none_is_made(mixer, text, monkeypatch):
    trained = mixer(*text)
    monkeypatch.setattr(concepts, "add_outer", lambda *_: pytest.fail("a gradient that nobody asked for"))
    with torch.no_grad():
        quiet = mixer(*text)
    for ours, theirs in zip(quiet, trained):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach())


def test_without_labels_the_predictor_learns_through_the_kept_logits_only(mixer, text):
    mixed = mixer(text[0])
    assert mixed.loss == 0 and not mixed.terms.any()
    mixed.vectors.square().sum().backward()
    touched = mixer.predictor.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == sorted(set(mixed.ids.flatten().tolist()))
    assert (mixer.prior.grad != 0).equal(touched)
    assert (mixer.compressor.weight.grad.abs().sum(1) > 0).equal(touched)


def test_only_one_of_many_inputs_wants_a_gradient(mixer, text):
    h, labels, _ = text
    whole = h.clone().requires_grad_()
    mixer(whole, labels).loss.backward()
    mixer.requires_grad_(False)
    alone = h.clone().requires_grad_()
    mixer(alone, labels).loss.backward()
    torch.testing.assert_close(alone.grad, whole.grad)


def test_kept_logits_are_the_largest_with_their_sign():
    x, weight = torch.eye(3), torch.tensor([[-1.0, -2, 5], [-4, -5, -6], [-2, 3, -9], [-3, -8, 1]])
    _, _, logits, ids = predict(x, weight, torch.zeros(4), keep=2)
    assert ids.tolist() == [[0, 2], [2, 0], [0, 3]]
    assert logits.tolist() == [[-1, -2], [3, -2], [5, 1]]


def test_a_state_comes_back_on_its_own_scale():
    h = torch.randn(4, 16) * 7 - 30
    x, mean, std = normalised(h)
    torch.testing.assert_close(x * (std + EPS) + mean, h, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(x.std(-1), torch.ones(4), rtol=1e-4, atol=0)
    moved = ConceptMixer(16, 20, 4)
    torch.testing.assert_close(moved(2 * h[None] + 5).vectors, 2 * moved(h[None]).vectors + 5, rtol=1e-3, atol=1e-2)


def test_bf16_products_keep_their_sums_in_fp32(mixer, text):
    h, labels, weights = text
    mixer.float()
    exact = mixer(h.float(), labels, weights.float())
    exact.loss.backward()
    whole = mixer.predictor.weight.grad.clone()
    mixer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mixer(h.float(), labels, weights.float())
    mixed.loss.backward()
    assert mixed.loss.dtype == mixed.logits.dtype == mixer.predictor.weight.grad.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, exact.loss, rtol=0.02, atol=0)
    assert F.cosine_similarity(mixer.predictor.weight.grad.flatten(), whole.flatten(), 0) > 0.99


def test_small_weights_survive_products_in_fp16():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(64, 16), torch.randn(4096, 16) * 0.02, torch.zeros(4096)
    labels, weights = torch.randint(0, 50, (64, 2)), torch.full((64,), 1 / 8192)
    norms = []
    for mixed in (False, True):
        table = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=mixed):
            loss, *_ = predict(x, table, bias, labels, weights, 4)
        (65536 * loss).backward()
        norms.append(table.grad[50:].norm())  # of concepts that are never a label: pushed down a little each
    torch.testing.assert_close(norms[1], norms[0], rtol=0.01, atol=0)


def test_starts_as_the_paper_says_also_after_the_meta_device():
    with torch.device("meta"):
        mixer = ConceptMixer(64, 500, 8)
    mixer.to_empty(device="cpu")
    for module in mixer.modules():
        module.reset_parameters()
    assert not mixer.shift.any() and not mixer.bias.any() and not mixer.prior.any()
    for weight in (mixer.predictor.weight, mixer.compressor.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_refuses_to_keep_more_than_there_are():
    with pytest.raises(ValueError, match="choose 1 to 40"):
        ConceptMixer(D, C, C + 1)
