"""The chunked loss against the plain one."""

import pytest
import torch
import torch.nn.functional as F

from zoo.nn.losses import linear_cross_entropy

torch.set_num_threads(1)
N, D, V = 23, 8, 57


def inputs(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (torch.randn(*s, generator=g, dtype=dtype).requires_grad_() for s in ((N, D), (V, D), (V,)))
    return (
        hidden,
        weight,
        bias,
        torch.randint(0, V, (N,), generator=g),
        torch.rand(N, generator=g) * (torch.rand(N, generator=g) > 0.3),
    )


def plain(hidden, weight, bias, targets, weights):
    nll = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")
    return (nll * weights).sum(), nll


@pytest.mark.parametrize("chunk", [1, 5, 23, 256])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_equal_the_plain_form(chunk, with_bias):
    hidden, weight, bias, targets, weights = inputs()
    leaves = [hidden, weight] + [bias] * with_bias
    expected, nll = plain(hidden, weight, bias if with_bias else None, targets, weights)
    wanted = torch.autograd.grad(3 * expected, leaves)
    loss, terms = linear_cross_entropy(hidden, weight, targets, weights, bias=bias if with_bias else None, chunk=chunk)
    assert not terms.requires_grad
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(terms, nll.detach(), atol=1e-10, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(3 * loss, leaves), wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient_and_the_other_the_same(frozen):
    hidden, weight, _, targets, weights = inputs()
    sides = [hidden, weight]
    wanted = torch.autograd.grad(plain(hidden, weight, None, targets, weights)[0], sides[1 - frozen])[0]
    sides[frozen].requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets, weights, chunk=7)[0].backward()
    assert sides[frozen].grad is None
    torch.testing.assert_close(sides[1 - frozen].grad, wanted, atol=1e-10, rtol=0)


def test_extreme_logits_stay_finite():
    hidden, weight, _, targets, weights = inputs()
    hidden = (hidden.detach() * 1e3).requires_grad_()
    loss, nll = linear_cross_entropy(hidden, weight, targets, weights, chunk=4)
    torch.testing.assert_close(nll, plain(hidden, weight, None, targets, weights)[1].detach(), atol=1e-8, rtol=0)
    loss.backward()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_without_gradients_nothing_of_the_size_of_the_weight_is_made(monkeypatch):
    import zoo.nn.losses as losses

    hidden, weight, _, targets, weights = inputs()
    monkeypatch.setattr(losses, "accumulator", lambda like: pytest.fail("a gradient was prepared under no_grad"))
    expected = plain(hidden, weight, None, targets, weights)
    with torch.no_grad():
        loss, nll = linear_cross_entropy(hidden, weight, targets, weights, chunk=6)
    assert not loss.requires_grad
    torch.testing.assert_close((loss, nll), (expected[0].detach(), expected[1].detach()), atol=1e-10, rtol=0)


def test_bf16_autocast_multiplies_in_bf16_and_sums_in_fp32():
    hidden, weight, _, targets, weights = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, nll = plain(hidden, weight, None, targets, weights)
        wanted = torch.autograd.grad(expected, [hidden, weight])
        loss, terms = linear_cross_entropy(hidden, weight, targets, weights, chunk=8)
    assert loss.dtype == terms.dtype == torch.float32
    torch.testing.assert_close(terms, nll.detach(), atol=1e-5, rtol=1e-5)  # the same bf16 logits
    for ours, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), wanted):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_all_logits_never_exist():
    """The largest tensor made on the way has chunk rows, not N."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    hidden, weight, _, targets, weights = inputs()
    with Largest() as seen:
        linear_cross_entropy(hidden, weight, targets, weights, chunk=4)[0].backward()
    assert V * 4 <= seen.size <= max(V * 4, V * D) < V * N


def test_the_gradient_is_handed_on_without_a_copy(monkeypatch):
    import zoo.nn.losses as losses

    made = []
    accumulator = losses.accumulator
    monkeypatch.setattr(losses, "accumulator", lambda like: made.append(accumulator(like)) or made[-1])
    hidden, weight, _, targets, _ = inputs()
    loss, _ = linear_cross_entropy(hidden, weight, targets)
    pointer = made.pop().data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == pointer


def test_a_second_backward_says_what_is_wrong():
    hidden, weight, _, targets, _ = inputs()
    loss, _ = linear_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward once per forward"):
        loss.backward()
