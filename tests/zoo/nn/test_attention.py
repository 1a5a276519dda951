"""Attention's two forms against fp64, and when which is taken."""

import pytest
import torch
import torch.nn.functional as F

from zoo.nn import attention as module
from zoo.nn.attention import FEW, SHORT, attention


def given(length=20, dtype=torch.bfloat16, learnt=True, seed=0):
    made = torch.randn(3, 2, length, 4, 16, generator=torch.Generator().manual_seed(seed))
    return [each.to(dtype).transpose(1, 2).requires_grad_(learnt) for each in made]


def gradients(attend, parts, **kwargs):
    """Output and gradients of all parts, fp64."""
    parts = [each.detach().requires_grad_() for each in parts]
    y = attend(*parts, **kwargs)
    y.backward(torch.cos(torch.arange(y.numel())).view(y.shape).to(y.dtype))
    return [each.double() for each in (y, *(part.grad for part in parts))]


@pytest.fixture
def fused(monkeypatch):
    """How often torch's own form was called."""
    calls, own = [], F.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(args)
        return own(*args, **kwargs)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", counted)
    return calls


MASK = torch.arange(20)[None, None, None] < torch.tensor([20, 7])[:, None, None, None]


@pytest.mark.parametrize("kwargs", [{}, {"causal": True}, {"mask": MASK}])
def test_short_texts_are_learnt_in_the_plain_form_to_the_precision_of_bfloat16(fused, kwargs):
    parts = given()
    found = gradients(attention, parts, **kwargs)
    assert not fused
    mask, causal = kwargs.get("mask"), kwargs.get("causal", False)
    exact = gradients(F.scaled_dot_product_attention, [p.double() for p in parts], attn_mask=mask, is_causal=causal)
    torches = gradients(F.scaled_dot_product_attention, parts, attn_mask=mask, is_causal=causal)
    for mine, theirs, true in zip(found, torches, exact, strict=True):
        error, other = ((each - true).norm() / true.norm() for each in (mine, theirs))
        assert error < 2.0**-7 and error < 4 * other


@pytest.mark.parametrize("parts", [given(dtype=torch.float32), given(learnt=False), given(SHORT + 1)])
def test_else_it_is_torchs(fused, parts):
    y = attention(*parts, causal=True)
    assert len(fused) == 1 and torch.equal(y, F.scaled_dot_product_attention(*parts, is_causal=True))
    with torch.no_grad():
        attention(*given())
    assert len(fused) == 3  # the comparison's, and this one's


def test_dropout_drops_looks():
    torch.manual_seed(0)
    q, k, v = given()
    kept = attention(q, k, torch.ones_like(v), dropout=0.5).float()
    assert 0.9 < kept.mean() < 1.1 and kept.std() > 0.1


@pytest.mark.parametrize("mask", [None, MASK])
def test_a_single_query_in_bfloat16_goes_in_as_a_few(fused, mask):
    q, k, v = (part.detach() for part in given())
    with torch.no_grad():
        found = attention(q[:, :, -1:], k, v, mask)
    assert fused[0][0].shape[2] == FEW and found.shape == (2, 4, 1, 16)
    exact = F.scaled_dot_product_attention(q[:, :, -1:].double(), k.double(), v.double(), attn_mask=mask)
    assert (found.double() - exact).norm() < 2.0**-7 * exact.norm()
    with torch.no_grad():
        attention(q[:, :, -1:].float(), k.float(), v.float(), mask)
    assert fused[2][0].shape[2] == 1  # nothing to gain in fp32
