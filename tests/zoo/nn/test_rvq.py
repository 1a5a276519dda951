"""Residual quantization: codes against a naive search, prefix sums, k-means that uses every unit, and what is refused."""

import pytest
import torch

from zoo.nn.rvq import ResidualQuantizer, kmeans


@pytest.fixture(scope="module")
def vectors():
    draw = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(12, 6, generator=draw)
    return centres[torch.randint(12, (1500,), generator=draw)] + torch.randn(1500, 6, generator=draw)


@pytest.fixture(scope="module")
def fitted(vectors):
    made = ResidualQuantizer(6, 4, 16)
    return made, made.fit(vectors, steps=8)


def naive(made, vectors):
    left, codes = vectors.clone(), []
    for book in made.centroids:
        codes.append(torch.cdist(left, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1))
        left = left - book[codes[-1]]
    return torch.stack(codes, 1)


def test_codes_are_those_of_a_naive_search(fitted, vectors, monkeypatch):
    made, _ = fitted
    expected = naive(made, vectors)
    assert torch.equal(made.encode(vectors), expected)
    monkeypatch.setattr("zoo.nn.rvq.ROWS", {"cpu": 7})
    assert torch.equal(made.encode(vectors), expected) and torch.equal(made.encode(vectors, 2), expected[:, :2])


def test_it_codes_as_before_when_a_net_that_holds_it_is_loaded(fitted, vectors):
    made, _ = fitted
    net = torch.nn.ModuleDict({"quantizer": ResidualQuantizer(6, 4, 16)})
    net.load_state_dict(torch.nn.ModuleDict({"quantizer": made}).state_dict())
    assert torch.equal(net["quantizer"].encode(vectors), made.encode(vectors))


def test_a_sum_of_centroids_is_coded_by_its_own(fitted):
    made = ResidualQuantizer(6, 3, 8)
    draw = torch.Generator().manual_seed(1)
    scale = torch.tensor([100.0, 10.0, 1.0])[:, None, None]  # far enough apart for greedy search to be exact
    grid = torch.eye(6).repeat(2, 1)[:8] * torch.tensor([1.0] * 6 + [-1.0] * 2)[:, None]
    made.load_state_dict({"centroids": scale * grid})
    codes = torch.randint(8, (50, 3), generator=draw)
    assert torch.equal(made.encode(made.decode(codes)), codes)


def test_prefixes_are_partial_sums_and_each_book_leaves_less(fitted, vectors):
    made, shares = fitted
    codes = made.encode(vectors)
    for count, prefix in zip([1, 2, 4], made.prefixes(codes, [1, 2, 4])):
        torch.testing.assert_close(prefix, made.decode(codes[:, :count]))
        left = (vectors - prefix).square().sum() / (vectors - vectors.mean(0)).square().sum()
        assert left.item() == pytest.approx(shares[count - 1], rel=1e-4)
    assert shares == sorted(shares, reverse=True) and shares[0] < 0.3 and shares[-1] < 0.6 * shares[0]


def test_kmeans_uses_every_unit_and_lowers_the_error(vectors):
    draw = lambda: torch.Generator().manual_seed(2)
    error = lambda centroids: torch.cdist(vectors, centroids).amin(1).square().mean().item()
    rounds = [error(kmeans(vectors, 32, steps, draw())) for steps in (0, 1, 4, 16)]
    assert rounds == sorted(rounds, reverse=True)
    few = torch.eye(6).repeat(50, 1)  # six different vectors: random starts meet some of them twice
    assert error_of(few, kmeans(few, 6, 12, draw())) == pytest.approx(0, abs=1e-9)


def error_of(vectors, centroids):
    return torch.cdist(vectors, centroids).amin(1).square().mean().item()


def test_vectors_in_half_precision_are_used_up_and_give_nearly_the_same(fitted, vectors):
    (_, shares), before, again = fitted, vectors.clone(), ResidualQuantizer(6, 4, 16)
    assert again.fit(vectors, steps=8, in_place=False) == shares and vectors.equal(before)
    half, other = vectors.half(), ResidualQuantizer(6, 4, 16)
    left = other.fit(half, steps=8, in_place=True)
    assert left == pytest.approx(shares, rel=0.1) and half.dtype == torch.float16 and other.centroids.dtype == torch.float32
    total = (before - before.mean(0)).square().sum()
    assert half.float().square().sum() / total == pytest.approx(left[-1], rel=1e-3)  # what is left lies where the vectors were


def test_what_cannot_be_is_refused(fitted, vectors):
    made, _ = fitted
    with pytest.raises(ValueError, match="too few for 16 units"):
        ResidualQuantizer(6, 1, 16).fit(vectors[:10])
    with pytest.raises(ValueError, match="4 codebooks"):
        made.decode(torch.zeros(3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="rise"):
        made.prefixes(torch.zeros(3, 4, dtype=torch.int64), [2, 1])
