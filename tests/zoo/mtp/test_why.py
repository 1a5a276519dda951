"""The counts of Figure 9 and the identities of App. L.2, against their closed forms."""

import itertools
import math

import pytest
import torch

from zoo.mtp import why

NATS = math.log(3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_a_choice_has_as_many_terms_as_the_paper_counts(n):
    world, same = (why.fork(2 * n + 3, n + 1, ways=3, consequential=c) for c in (True, False))
    assert len(why.hinging(world, n, n + 1)) == n * (n + 1) // 2
    assert len(why.hinging(same, n, n + 1)) == n
    assert why.emphasis(world, n, n + 1) == pytest.approx(n * (n + 1) / 2 * NATS, rel=1e-12)
    assert why.emphasis(same, n, n + 1) == pytest.approx(n * NATS, rel=1e-12)


def test_the_drawn_example():
    """Figure 9: 1 2 3 4 5 A B C with three heads: 3->A, 4->A, 4->B, 5->A, 5->B, 5->C hinge on 5 -> A."""
    world = why.fork(9, 5)
    assert why.hinging(world, 3, 5) == [(2, 3), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3)]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_counts_are_those_of_the_loss(n):
    """With one fork, the least n-token loss is what hinges on it: nothing else costs anything."""
    for consequential in (True, False):
        world = why.fork(2 * n + 4, n + 2, consequential=consequential)
        costs = why.terms(world, n)
        assert sum(costs.values()) == pytest.approx(why.emphasis(world, n, n + 2), abs=1e-12)
        assert {place for place, cost in costs.items() if cost > why.SURE} == set(why.hinging(world, n, n + 2))


def test_two_forks_in_one_text_do_not_disturb_each_other():
    n = 2
    world = why.joined(why.fork(6, 3, ways=3), why.fork(7, 3, consequential=False))
    assert why.emphasis(world, n, 3) == pytest.approx(3 * NATS, abs=1e-12)
    assert why.emphasis(world, n, 9) == pytest.approx(2 * math.log(2), abs=1e-12)


def test_partial_consequences_lie_between():
    """A way is taken at token 4; what comes next follows it with probability 0.9 only."""
    texts, chances = [], []
    for way, follows in itertools.product((0, 1), (True, False)):
        texts.append([0, 1, 2, 3, 4 + way, 6 + (way if follows else 1 - way), 8, 9])
        chances.append(0.5 * (0.9 if follows else 0.1))
    world = why.World(torch.tensor(texts), torch.tensor(chances, dtype=torch.float64))
    assert 2 * math.log(2) < why.emphasis(world, 2, 4) < 3 * math.log(2)
    told = math.log(2) - (-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert why.emphasis(world, 2, 4) == pytest.approx(2 * math.log(2) + told, abs=1e-12)


def test_a_choice_point_is_where_the_value_hangs_on_the_token():
    world = why.joined(why.fork(3, 1), why.fork(4, 2, consequential=False))
    values = (world.tokens[:, 1] > 2).double()  # which of the two ways was taken first
    first = world.tokens[0].tolist()
    assert why.choice(world, values, first[:1]) == pytest.approx(0.5)
    assert why.choice(world, values, first[:5]) == 0.0
    with pytest.raises(ValueError, match="begins with"):
        why.choice(world, values, [77])


def test_sigma_weighs_ways_by_their_chance():
    world = why.World(torch.tensor([[0, 1], [0, 2]]), torch.tensor([0.8, 0.2], dtype=torch.float64))
    assert why.choice(world, torch.tensor([0.0, 10.0]).double(), [0]) == pytest.approx(4.0)


def test_ends_of_a_text_are_refused():
    with pytest.raises(ValueError, match="within 4 tokens"):
        why.hinging(why.fork(6, 3), 4, 3)
    with pytest.raises(ValueError, match="add up to 1"):
        why.World(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, dtype=torch.float64))


def joints(count: int = 40):
    """Random joint distributions of several shapes, some with zeros."""
    draw = torch.Generator().manual_seed(0)
    for i in range(count):
        shape = (2 + i % 4, 2 + i % 5)
        p = torch.rand(shape, generator=draw, dtype=torch.float64) ** (1 + i % 7)
        if i % 3 == 0:
            p[torch.rand(shape, generator=draw) < 0.3] = 0.0
            p[0, 0] = 1.0
        q = torch.rand(shape, generator=draw, dtype=torch.float64) + 1e-3
        yield p / p.sum(), q / q.sum()


def test_entropies_of_two_tokens_split_into_three_parts():
    for p, _ in joints():
        parts = why.two_tokens(p)
        hx, hy = (float(why.entropy(p.sum(axis))) for axis in (1, 0))
        assert parts.total == pytest.approx(hx + hy, abs=1e-12)
        assert parts.x_given_y + parts.shared == pytest.approx(hx, abs=1e-12)
        assert parts.y_given_x + parts.shared == pytest.approx(hy, abs=1e-12)


def test_the_lemma_holds_relative_to_any_model():
    signs = set()
    for p, q in joints():
        parts = why.relative_parts(p, q)
        hx, hy = (float(why.cross_entropy(p.sum(axis), q.sum(axis))) for axis in (1, 0))
        assert parts.x_given_y + parts.shared == pytest.approx(hx, abs=1e-12)
        assert parts.total == pytest.approx(hx + hy, abs=1e-12)
        assert parts.shared == pytest.approx(hx + hy - float(why.cross_entropy(p, q)), abs=1e-12)
        turned = why.relative_parts(p.t(), q.t())
        assert (turned.shared, turned.x_given_y) == pytest.approx((parts.shared, parts.y_given_x), abs=1e-12)
        signs.add(parts.shared > 0)
    assert signs == {True, False}  # relative to a model it may be negative


def test_relative_to_itself_it_is_the_plain_one():
    for _, q in joints(10):
        plain, relative = why.two_tokens(q), why.relative_parts(q, q)
        assert (plain.x_given_y, plain.shared, plain.y_given_x) == pytest.approx(
            (relative.x_given_y, relative.shared, relative.y_given_x), abs=1e-12
        )
        assert plain.shared >= 0


def test_what_a_model_rules_out_costs_infinitely_much():
    p = torch.full((2, 2), 0.25, dtype=torch.float64)
    q = torch.tensor([[0.5, 0.0], [0.25, 0.25]], dtype=torch.float64)
    assert float(why.cross_entropy(p, q)) == math.inf


def test_a_model_whose_marginal_rules_out_the_data_is_refused():
    p, q = (
        torch.tensor([[0.5, 0.0], [0.25, 0.25]], dtype=torch.float64),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="A marginal of q is 0"):
        why.relative_parts(p, q)
