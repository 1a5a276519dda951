"""Operations of inference: sums over layers counted one by one, and the figures that the project's notes on the paper state."""

import math

import pytest

from zoo.lcm import cost
from zoo.lcm.cost import GUIDED, LARGE, OURS, PAPER, RELEASED, RELEASED_40, SMALL, ConceptModel, SentenceSpace, TokenModel

LENGTHS, SIZES = (1e3, 3e3, 1e4, 6e4), {"1.6B": SMALL, "7B": LARGE}


def even(shape, sampling, tokens=(1e3, 1e4, 6e4), first=0):
    return [ConceptModel(shape, sampling).break_even(n, first=first) for n in tokens]


def test_a_token_model_is_the_sum_over_its_tokens():
    net = TokenModel(layers=3, dim=8, hidden=20, vocab=50)
    products = 3 * (4 * 8 * 8 + 3 * 8 * 20) + 50 * 8
    naive = sum(2 * products + 3 * 2 * (2 * 8 * (n + 0.5)) for n in range(40))  # half of its own place
    assert net.document(40) == pytest.approx(naive)


def test_llama2_7b():
    net = TokenModel()
    assert [net.document(n) for n in (1e3, 3e3, 1e4, 6e4)] == pytest.approx([1.35e13, 4.2e13, 1.58e14, 1.74e15], rel=0.005)
    per_token = (net.document(2e3) / 2e3 - net.document(1e3) / 1e3) / 1e3
    assert per_token == pytest.approx(262_144) and net.document(1) == pytest.approx(13.2e9, rel=0.005)


def test_sonar():
    space = SentenceSpace()
    assert space.encode(20) + space.decode(20) == pytest.approx(5.3e10, rel=0.01)
    assert SentenceSpace(beam=5).decode(20) == 5 * space.decode(20)
    folded = SentenceSpace(folded=True)
    cross = 2 * 24 * 2 * 1024**2
    assert space.decode(20) - folded.decode(20) == pytest.approx(19 * cross) and folded.encode(20) == space.encode(20)
    assert folded.decode(1) == space.decode(1)


def test_a_step():
    """GFLOP of a step, and of the keys and values of a context vector, which the released code computes at every step."""
    for name, step, keys in (("1.6B", 2.55, 0.218), ("7B", 10.89, 0.940)):
        shape = SIZES[name]
        assert shape.step(0, PAPER) / 1e9 == pytest.approx(step, abs=0.005)
        assert shape.keys(1) / 1e9 == pytest.approx(keys, abs=0.0005)
        attention = 2 * shape.denoiser_layers * 2 * shape.dim
        grown = shape.step(9, RELEASED_40) - shape.step(8, RELEASED_40)
        assert grown == pytest.approx(2 * (shape.keys(1) + attention))  # for both halves
        assert shape.step(9, PAPER) - shape.step(8, PAPER) == pytest.approx(attention)
        assert shape.step(7, GUIDED) == 2 * shape.step(7, PAPER)


def test_the_formula_of_a_sentence():
    """As stated, with the embedding of the step put in: 256 d + d² at each."""
    for shape in SIZES.values():
        d, h, n = shape.dim, shape.hidden, 100
        for factor, sampling in ((1, PAPER), (2, GUIDED)):
            deep = shape.denoiser_layers
            each = deep * (15 * d * d + 3 * d * h + 2 * d * (n + 1)) + 2 * 1024 * d + 256 * d + d * d
            stated = 2 * (factor * 40 * each + deep * 2 * d * d + 5 * (4 * d * d + 3 * d * h + 2 * d * n))
            assert shape.sentence(n, sampling) == pytest.approx(stated)


def test_what_lean_sampling_leaves_out():
    """Modulation and its embedding, half of the self-attention, and, without context, all of the cross-attention."""
    shape, n = cost.TwoTowerShape(dim=8, hidden=24, layers=2, denoiser_layers=3, width=5, frequencies=4), 6
    d = 8
    left_out = 2 * (3 * 9 * d * d + (4 + d) * d) + 2 * 3 * 2 * d * d + 3 * (2 * d * d + 2 * d * (n + 1))
    assert shape.step(n, GUIDED) - shape.step(n, OURS) == 2 * left_out
    alone = cost.Sampling(lean=True)
    assert shape.step(n, PAPER) - shape.step(n, alone) == 2 * (3 * 9 * d * d + (4 + d) * d + 3 * 2 * d * d)


@pytest.mark.parametrize(
    "context, released_40, released, ours",
    [(8, 0.36, 0.45, 0.10), (32, 0.78, 0.98, 0.10), (128, 2.46, 3.07, 0.10), (2048, 36, 45, 0.11)],
)
def test_sentences_of_the_1_6b(context, released_40, released, ours):
    found = [SMALL.sentence(context, sampling) / 1e12 for sampling in (RELEASED_40, RELEASED, OURS)]
    assert found == pytest.approx([released_40, released, ours], rel=0.005, abs=0.005)


def test_sentences_behind_128():
    found = [LARGE.sentence(128, sampling) / 1e12 for sampling in (RELEASED_40, RELEASED, OURS)]
    assert found == pytest.approx([10.6, 13.2, 0.42], abs=0.05)
    ratios = [SMALL.sentence(128, sampling) / SMALL.sentence(128, OURS) for sampling in (RELEASED_40, RELEASED)]
    assert ratios == pytest.approx([24.5, 30.7], abs=0.05)


@pytest.mark.parametrize(
    "shape, length, stated",
    [
        (SMALL, 10, "1.3e+13 3.9e+13 1.3e+14 8.5e+14"),
        (SMALL, 20, "7.8e+12 2.3e+13 7.8e+13 4.9e+14"),
        (SMALL, 40, "5.2e+12 1.6e+13 5.2e+13 3.2e+14"),
        (LARGE, 20, "2.5e+13 7.4e+13 2.5e+14 1.5e+15"),
        (LARGE, 40, "1.4e+13 4.1e+13 1.4e+14 8.3e+14"),
    ],
)
def test_totals_without_guidance(shape, length, stated):
    assert " ".join(f"{ConceptModel(shape).document(tokens, length):.1e}" for tokens in LENGTHS) == stated


def test_break_even():
    """Above 9.5 tokens a sentence the 1.6B without guidance costs less than Llama2-7B at a thousand tokens, as the paper says."""
    ends = (1e3, 6e4)
    assert even(SMALL, PAPER, ends) == pytest.approx([9.5, 4.9], abs=0.05)
    assert even(SMALL, GUIDED, ends) == pytest.approx([19, 8.9], abs=0.1)
    assert even(LARGE, PAPER, ends) == pytest.approx([40, 17], abs=0.5)
    assert even(LARGE, GUIDED, ends) == pytest.approx([81, 34], abs=0.5)
    assert even(SMALL, OURS) == pytest.approx([9.2, 7.8, 4.8], abs=0.05)
    assert even(LARGE, OURS) == pytest.approx([39, 32, 17], abs=0.5)


def test_break_even_of_the_released_code():
    """The notes count a sentence among its own context, from 1 on: 41, 91 and 146. From 0 on it is a token less."""
    assert even(SMALL, RELEASED_40, first=1) == pytest.approx([41, 91, 146], abs=0.5)
    assert even(SMALL, RELEASED_40) == pytest.approx([39.9, 89.9, 145.3], abs=0.1)
    assert all(a > b for a, b in zip(even(SMALL, RELEASED), even(SMALL, RELEASED_40)))


@pytest.mark.parametrize("sampling", [PAPER, RELEASED, OURS])
def test_a_document_is_the_sum_of_its_sentences(sampling):
    model = ConceptModel(SMALL, sampling)
    sentence = model.space.encode(20) + model.space.decode(20)
    assert model.document(600, 20) == pytest.approx(sum(sentence + SMALL.sentence(n, sampling) for n in range(30)))


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("sampling", [PAPER, GUIDED, RELEASED, OURS], ids=["paper", "guided", "released", "ours"])
def test_at_break_even_both_cost_the_same(shape, sampling):
    model = ConceptModel(shape, sampling)
    for tokens in (1e3, 1e4, 6e4):
        length = model.break_even(tokens)
        assert model.document(tokens, length) == pytest.approx(TokenModel().document(tokens))
        assert model.document(tokens, 1.05 * length) < TokenModel().document(tokens) < model.document(tokens, 0.95 * length)


def test_break_even_at_the_edges():
    assert ConceptModel(LARGE).break_even(10) == math.inf  # forty steps for ten tokens
    assert ConceptModel().break_even(1e3, TokenModel(dim=10**9)) == 1e-3  # worse than any sentence's length
    assert cost.crossing(lambda x: 5 - x, 100) == pytest.approx(5)
