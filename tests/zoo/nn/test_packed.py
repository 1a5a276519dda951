"""Packed weights against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from zoo.generate import generate
from zoo.mtp import MTP
from zoo.nn.packed import packable, packed
from zoo.ntp import NextToken

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not packable(torch.nn.Linear(1, 1)), reason="this build of torch cannot pack weights")
V = 37


def nets():
    for flavour in ("gpt2", "llama"):
        torch.manual_seed(0)
        yield NextToken(V, 32, 24, 3, 2, flavour=flavour).eval()
        yield MTP(V, 32, n=3, dim=24, layers=5, heads=2, flavour=flavour).eval()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
def test_the_same_outputs_to_rounding(rows):
    for net in nets():
        tokens = torch.randint(0, V, (rows, 5))
        with torch.inference_mode():
            heads = getattr(net, "n", 1)
            plain = net.next(tokens, net.cache(rows), heads=heads)
            step = net.next(tokens[:, :1], net.cache(rows))
            with packed(net):
                torch.testing.assert_close(net.next(tokens, net.cache(rows), heads=heads), plain, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(net.next(tokens[:, :1], net.cache(rows)), step, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not packable(torch.nn.Linear(1, 1).bfloat16()), reason="this machine does not multiply bf16")
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_bf16_is_packed_too(rows, monkeypatch):
    for net in nets():
        tokens, net = torch.randint(0, V, (rows, 5)), net.bfloat16()
        with torch.inference_mode():
            plain = net.next(tokens, net.cache(rows)).float()
            used, product = [], torch.ops.mkldnn._linear_pointwise
            monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a, used=used, p=product: used.append(1) or p(*a))
            with packed(net):
                found = net.next(tokens, net.cache(rows))
            monkeypatch.undo()
        assert used and found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), plain, atol=2e-2, rtol=2e-2)


def test_packed_weights_are_used_and_left_behind(monkeypatch):
    for net in nets():
        used, plain = [], torch.ops.mkldnn._linear_pointwise
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a, plain=plain, used=used: used.append(1) or plain(*a))
        before = [dict(module.__dict__) for module in net.modules()]
        tokens = torch.randint(0, V, (1, 4))
        with torch.inference_mode(), pytest.raises(KeyError), packed(net):
            with packed(net):
                net.next(tokens, net.cache(1))
            net.next(tokens, net.cache(1))  # the inner context leaves the outer one's
            layers = len(net.trunk.layers) + hasattr(net, "n")
            assert len(used) == 2 * (4 * layers + 1)
            raise KeyError
        assert [module.__dict__ for module in net.modules()] == before
        with torch.inference_mode():
            net.next(tokens, net.cache(1))
        assert len(used) == 2 * (4 * layers + 1)
        monkeypatch.undo()


def test_weights_may_change_between_contexts():
    net, tokens = next(nets()), torch.tensor([[1, 2, 3]])
    for _ in range(2):
        with torch.inference_mode():
            plain = net.next(tokens, net.cache(1))
            with packed(net):
                torch.testing.assert_close(net.next(tokens, net.cache(1)), plain, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            net.trunk.layers[0].mlp.up.weight += 0.5


def test_nothing_is_packed_where_it_cannot_be():
    assert not packable(next(nets()).double()) and packable(next(nets()))
    half = next(nets()).bfloat16()
    assert packable(half) == torch.cpu._is_avx512_bf16_supported()
    half.trunk.norm.float()
    assert not packable(half)
    for net, grad in ((next(nets()).double(), False), (next(nets()), True)):
        with torch.set_grad_enabled(grad), packed(net):
            assert "forward" not in net.trunk.layers[0].mlp.up.__dict__


@pytest.mark.parametrize("seed", range(8))
def test_packed_speculation_is_packed_plain_decoding(seed):
    torch.manual_seed(seed)
    net = MTP(V, 48, n=4, dim=32, layers=6, heads=4).eval()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [5]]
    with torch.inference_mode(), packed(net):
        plain = generate(net, prompts, 30).tokens
        assert [generate(net, prompts, 30, heads=heads).tokens for heads in (2, 3, 4)] == [plain] * 3


def test_autocast_still_works():
    net = next(nets())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 24)
        linear = net.trunk.layers[0].mlp.up
        expected = F.linear(x, linear.weight, linear.bias)
        with packed(net):
            torch.testing.assert_close(linear(x).float(), expected.float(), atol=0.05, rtol=0.05)
