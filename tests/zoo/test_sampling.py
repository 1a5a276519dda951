import pytest
import torch

from zoo.sampling import GREEDY, Sampling, draw

LOGITS = torch.tensor([[0.1, 2.0, -1.0, 0.7, 1.4]])


def test_greedy_is_a_point_mass():
    assert GREEDY.probabilities(LOGITS).tolist() == [[0, 1, 0, 0, 0]] and GREEDY.choose(LOGITS).tolist() == [1]


def test_temperature_divides_the_logits():
    torch.testing.assert_close(Sampling(0.7).probabilities(LOGITS), (LOGITS / 0.7).softmax(-1))
    assert Sampling(0.7).probabilities(LOGITS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("k, kept", [(1, [1]), (3, [1, 4, 3]), (5, range(5)), (99, range(5))])
def test_top_k_keeps_the_k_most_likely(k, kept):
    p = Sampling(1.0, top_k=k).probabilities(LOGITS)[0]
    assert set(p.nonzero()[:, 0].tolist()) == set(kept) and float(p.sum()) == pytest.approx(1)
    ratio = p[list(kept)] / LOGITS.softmax(-1)[0, list(kept)]
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)))


def naive_top_p(p: torch.Tensor, top_p: float) -> torch.Tensor:
    order, total, kept = p.argsort(descending=True).tolist(), 0.0, []
    for token in order:
        if total < top_p:
            kept.append(token)
        total += float(p[token])
    out = torch.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_top_p_keeps_the_fewest_that_reach_p(top_p):
    torch.manual_seed(0)
    logits = torch.randn(50, 9) * 2
    p = Sampling(1.3, top_k=6, top_p=top_p).probabilities(logits)
    before = Sampling(1.3, top_k=6).probabilities(logits)
    torch.testing.assert_close(p, torch.stack([naive_top_p(row, top_p) for row in before]))


def test_draws_follow_the_distribution():
    p = Sampling(0.8, top_k=4).probabilities(LOGITS)[0]
    drawn = draw(p.expand(40000, 5), torch.Generator().manual_seed(0)).bincount(minlength=5) / 40000
    assert (drawn - p).abs().max() < 0.01 and drawn[p == 0].sum() == 0


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_a_setting_out_of_range_is_one_sentence(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**{"temperature": 1.0, **wrong})
