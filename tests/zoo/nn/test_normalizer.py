"""The robust scaler: its inverse, its values against numpy's percentiles, and the released variant."""

import numpy as np
import pytest
import torch

from zoo.nn.normalizer import Normalizer


@pytest.fixture
def vectors():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4000, 5, generator=draw) * torch.tensor([1.0, 2, 3, 0.1, 0]) + torch.arange(5.0)


def test_percentiles_are_in_percent(vectors):
    low, middle, high = np.percentile(vectors.numpy(), [25, 50, 75], axis=0)
    plain = Normalizer.fitted(vectors, unit="iqr")
    np.testing.assert_allclose(plain.center, middle, rtol=1e-5)
    np.testing.assert_allclose(plain.scale[:4], (high - low)[:4], rtol=1e-4)
    gaussian = Normalizer.fitted(vectors)
    np.testing.assert_allclose(gaussian.scale[:4], [1, 2, 3, 0.1], rtol=0.06)
    assert gaussian.scale[4] == 1  # a dimension without any spread is only shifted


def test_denormalize_undoes_normalize(vectors):
    for made in (Normalizer.fitted(vectors), Normalizer.as_released(vectors)):
        torch.testing.assert_close(made.denormalize(made.normalize(vectors)), vectors)
    clipped = Normalizer.fitted(vectors, clip=1.5)
    assert clipped.normalize(vectors).abs().max() == 1.5
    assert (clipped.denormalize(100 * torch.ones(5)) == clipped.center + 1.5 * clipped.scale).all()


def test_the_released_scale_comes_from_the_lowest_hundredth(vectors):
    tail = torch.distributions.Laplace(0.0, 0.5**0.5).sample((200_000, 1))  # standard deviation 1
    assert Normalizer.fitted(tail).scale.item() == pytest.approx(0.73, abs=0.02)  # sheet 1.12
    assert Normalizer.as_released(tail).scale.item() == pytest.approx(2.05, abs=0.2)


def test_columns_do_not_depend_on_how_many_are_sorted_at_a_time(vectors, monkeypatch):
    whole = Normalizer.fitted(vectors)
    monkeypatch.setattr("zoo.nn.normalizer.BLOCK", 9000)
    parts = Normalizer.fitted(vectors)
    assert torch.equal(whole.scale, parts.scale) and torch.equal(whole.center, parts.center)


@pytest.mark.parametrize(("change", "said"), [({"low": 0.75, "high": 0.25}, "in percent"), ({"low": -1}, "in percent")])
def test_wrong_percentiles_are_refused(vectors, change, said):
    with pytest.raises(ValueError, match=said):
        Normalizer.fitted(vectors, **change)


def test_wrong_vectors_are_refused(vectors):
    with pytest.raises(ValueError, match="NaN"):
        Normalizer.fitted(vectors.index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(ValueError, match="at least two"):
        Normalizer.fitted(vectors[:1])


def test_of_very_many_vectors_some_are_looked_at(monkeypatch):
    vectors = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    every = Normalizer.fitted(vectors[::4])
    monkeypatch.setattr("zoo.nn.normalizer.ROWS", 300)
    some = Normalizer.fitted(vectors)
    assert torch.equal(some.center, every.center) and torch.equal(some.scale, every.scale)
