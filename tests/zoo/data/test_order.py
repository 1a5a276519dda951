import numpy as np
import pytest

from zoo.data.order import permute


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 64, 97, 255, 256, 257, 4096, 9973])
@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_every_epoch_is_a_bijection(n, epoch):
    windows = permute(np.arange(n) + epoch * n, n, seed=3)
    assert windows.dtype == np.int64 and sorted(windows) == list(range(n))


def test_large_stores():
    n = 3 * 10**11 + 1
    windows = permute(np.arange(50_000), n, seed=0)
    assert len(set(windows.tolist())) == 50_000 and windows.min() >= 0 and n * 0.99 < windows.max() < n


def test_a_position_does_not_depend_on_its_company():
    position = np.random.default_rng(0).integers(0, 5000, 300)
    together = permute(position, 1237, seed=5)
    assert together.tolist() == [int(permute(np.array([p]), 1237, seed=5)[0]) for p in position]


def test_seeds_and_epochs_differ():
    n = 1000
    orders = [permute(np.arange(n) + epoch * n, n, seed) for seed in (0, 1, 2**40, -1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.02  # two random orders agree in one place of n


def test_the_same_answer_as_ever():
    """A store is read in the same order by every later version: resumed runs depend on it."""
    assert permute(np.arange(8), 8, seed=0).tolist() == [6, 5, 4, 0, 2, 7, 1, 3]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("place", [0, -1])
def test_first_and_last_windows_are_uniform_over_epochs(n, place):
    epochs = 20_000
    counts = np.bincount(permute(np.arange(epochs) * n + place % n, n, seed=0), minlength=n)
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < (n - 1) + 5 * np.sqrt(2 * (n - 1))  # mean and deviation of chi-square


def test_small_orders_all_occur_equally_often():
    orders = permute(np.arange(4 * 2400), 4, seed=1).reshape(-1, 4) @ [64, 16, 4, 1]
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 24 and ((counts - 100) ** 2 / 100).sum() < 23 + 5 * np.sqrt(46)


def test_neighbours_are_not_kept_together():
    n = 10_000
    windows = permute(np.arange(n), n, seed=0)
    assert abs(np.corrcoef(windows[:-1], windows[1:])[0, 1]) < 0.05 and abs(np.corrcoef(np.arange(n), windows)[0, 1]) < 0.05


def test_an_empty_store_has_no_order():
    with pytest.raises(ValueError, match="at least one"):
        permute(np.arange(3), 0, seed=0)
