"""Distillation beside torch's own losses."""

import pytest
import torch
import torch.nn.functional as F

from zoo.meter import training_flops
from zoo.nn import distill
from zoo.nn.distill import linear_distillation
from zoo.nn.losses import linear_cross_entropy

V, D, E = 31, 6, 9


@pytest.fixture
def given():
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    hidden, weight = torch.randn(2, 7, D, **double), torch.randn(V, D, **double)
    teacher = torch.randn(2, 7, E, **double), torch.randn(V, E, **double)
    return hidden, weight, torch.randint(0, V, (2, 7)), torch.rand(2, 7, **double), *teacher


@pytest.mark.parametrize("lam", [0.0, 0.1, 2.0])
def test_value_and_gradients_are_those_of_the_plain_form(given, lam):
    hidden, weight, targets, weights, teacher_hidden, teacher_weight = given
    hidden.requires_grad_(), weight.requires_grad_()
    loss, nll, kl = linear_distillation(*given, lam, chunk=4)
    (3 * loss).backward()
    ours = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    log_p, log_q = (hidden @ weight.T).log_softmax(-1), (teacher_hidden @ teacher_weight.T).log_softmax(-1)
    plain_nll = F.cross_entropy(log_p.transpose(1, 2), targets, reduction="none")
    plain_kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    wanted = ((plain_nll + lam * plain_kl) * weights).sum()
    (3 * wanted).backward()
    for a, b in [(loss, wanted), (nll, plain_nll), (kl, plain_kl), (ours[0], hidden.grad), (ours[1], weight.grad)]:
        torch.testing.assert_close(a, b.detach() if not a.requires_grad else b, rtol=1e-10, atol=1e-12)


def test_a_teacher_like_the_student_adds_nothing(given):
    hidden, weight, targets, weights, *_ = given
    loss, nll, kl = linear_distillation(hidden, weight, targets, weights, hidden, weight, 5.0)
    torch.testing.assert_close(loss, (nll * weights).sum())
    assert kl.abs().max() < 1e-12 and not loss.requires_grad


def test_where_nobody_asks_for_gradients_none_is_made(given, monkeypatch):
    wanted = linear_distillation(*given, 0.1)
    for x in given[:2]:
        x.requires_grad_()
    monkeypatch.setattr(distill, "add_outer", lambda *_: pytest.fail("a gradient that nobody asked for"))
    with torch.no_grad():
        assert all(a.equal(b) for a, b in zip(linear_distillation(*given, 0.1), wanted))


def test_small_weights_survive_products_in_fp16():
    torch.manual_seed(0)
    weight, teacher = torch.randn(4096, 16) * 0.02, torch.randn(4096, 16) * 0.02
    given = torch.randint(0, 50, (64,)), torch.full((64,), 1 / 8192), torch.randn(64, 16), teacher, 0.1
    norms = []
    for mixed in (False, True):
        table = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=mixed):
            loss, *_ = linear_distillation(torch.ones(64, 16), table, *given)
        (65536 * loss).backward()
        norms.append(table.grad[50:].norm())
    torch.testing.assert_close(norms[1], norms[0], rtol=0.01, atol=0)


def test_products_in_bf16_under_autocast(given):
    given = [x.float() if x.is_floating_point() else x for x in given]
    given[0].requires_grad_()
    exact = linear_distillation(*given, 0.1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll, _ = linear_distillation(*given, 0.1)
    loss.backward()
    assert nll.dtype == given[0].grad.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)


def test_what_the_teacher_computes_is_no_operation_of_the_students():
    def count(product) -> int:
        class Net(torch.nn.Linear):
            def forward(self, batch):
                hidden = batch["hidden"] @ torch.eye(D)
                return {"loss": product(hidden, self.weight, batch)}

        given = {"hidden": torch.empty(8, D), "targets": torch.empty(8, dtype=torch.int64), "weights": torch.empty(8)}
        given |= {"states": torch.empty(8, E), "unembedding": torch.empty(V, E)}
        return training_flops(lambda: Net(D, V, bias=False), given)

    both = lambda h, w, b: linear_distillation(h, w, b["targets"], b["weights"], b["states"], b["unembedding"], 0.1)[0]
    plain = lambda h, w, b: linear_cross_entropy(h, w, b["targets"], b["weights"])[0]
    assert count(both) == count(plain) >= 2 * 2 * 8 * D * V
