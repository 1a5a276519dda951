"""Schedules against the values of the sheet (3.2), and the sampler against cases whose answer is known."""

import math

import pytest
import torch
from torch.testing import assert_close

from zoo.nn.diffusion import Sampler, Schedule, fragility_weights, trailing

PLACES = [0, 9, 24, 49, 74, 89, 97, 98]
KNOWN = {  # alpha at these steps, then median and IQR of the log SNR over steps 0 to 98, and alpha² at the end without rescaling
    "cosine": ({}, [0.9997, 0.9859, 0.9203, 0.7026, 0.3795, 0.1548, 0.0307, 0.0151], -0.03, 3.41, 2.4e-7),
    "quadratic-1": (
        {"kind": "quadratic"},
        [0.9995, 0.9140, 0.7690, 0.5208, 0.2644, 0.1067, 0.0214, 0.0107], -0.99, 2.89, 0.896,
    ),
    "quadratic-2": (
        {"kind": "quadratic", "betas": (0.02, 0.022)},
        [0.9899, 0.8570, 0.6586, 0.3842, 0.1684, 0.0623, 0.0120, 0.0060], -1.75, 3.19, 0.120,
    ),
    "sigmoid(1.5,-1)": (
        {"kind": "sigmoid", "delta": -1.0},
        [0.9986, 0.9531, 0.8102, 0.5183, 0.2567, 0.1154, 0.0321, 0.0187], -1.00, 3.22, 3.7e-7,
    ),
    "sigmoid(1.5,-2)": (
        {"kind": "sigmoid", "delta": -2.0},
        [0.9963, 0.8860, 0.6424, 0.3450, 0.1590, 0.0703, 0.0195, 0.0114], -2.00, 3.22, 1.4e-7,
    ),
    "sigmoid(0.8,-1)": (
        {"kind": "sigmoid", "gamma": 0.8, "delta": -1.0},
        [0.9673, 0.8247, 0.6845, 0.5172, 0.3621, 0.2420, 0.1242, 0.0933], -1.01, 1.72, 9.2e-6,
    ),
    "sigmoid(3.5,0)": (
        {"kind": "sigmoid", "gamma": 3.5},
        [1.0000, 0.9998, 0.9895, 0.7071, 0.1447, 0.0214, 0.0011, 0.0003], 0.00, 7.51, 1.0e-10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_schedules_have_the_values_of_the_sheet(name):
    settings, alpha, median, spread, last = KNOWN[name]
    made = Schedule(**settings)
    assert_close(made.alpha[PLACES], torch.tensor(alpha), atol=6e-5, rtol=0)
    low, middle, high = torch.quantile(made.snr[:99], torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert middle == pytest.approx(median, abs=6e-3) and high - low == pytest.approx(spread, abs=6e-3)
    assert made.alpha[-1] == 0 and made.sigma[-1] == 1 and made.snr[-1] == -math.inf  # zero terminal SNR
    assert_close(made.alpha**2 + made.sigma**2, torch.ones(100))
    assert float(Schedule(**settings, rescale=False).alpha[-1]) ** 2 == pytest.approx(last, rel=0.05)
    assert (made.alpha.diff() < 0).all()


@pytest.mark.parametrize("settings, words", [({"kind": "linear"}, "'sigmoid'"), ({"steps": 1}, "2 steps")])
def test_a_schedule_that_cannot_be_is_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**settings)
    with pytest.raises(ValueError, match="rise"):
        Schedule("quadratic", betas=(0.2, 0.1))


def test_steps_are_as_many_as_asked_for_and_reach_the_end():
    """Sheet 4.13b and 3.2: one-based 100, 98, 95, 92, …, 5, 2, round half to even; and 100, 95, …, 5."""
    forty = [t + 1 for t in trailing(100, 40)]
    assert len(forty) == 40 and forty[:7] == [100, 98, 95, 92, 90, 88, 85] and forty[-3:] == [8, 5, 2]
    assert [t + 1 for t in trailing(100, 20)] == list(range(100, 0, -5))
    assert trailing(100, 100) == list(range(99, -1, -1)) and trailing(100, 1) == [99]
    for taken in (0, 101):
        with pytest.raises(ValueError, match="has no"):
            trailing(100, taken)


@pytest.mark.parametrize("predicts", ["x0", "epsilon", "v"])
def test_what_is_predicted_gives_back_the_vector(predicts):
    draw = torch.Generator().manual_seed(0)
    schedule, t = Schedule(), torch.tensor([[0, 30, 60], [80, 97, 98]])
    x0, noise = torch.randn(2, 2, 3, 5, generator=draw)
    x = schedule.noised(x0, t, noise)
    said = schedule.target(predicts, x0, t, noise)
    assert_close(schedule.clean(predicts, said, x, t), x0, atol=1e-3, rtol=1e-3)
    assert_close(schedule.noise(x0, x, t)[1], noise[1], atol=1e-5, rtol=1e-5)
    last = torch.full_like(t, 99)
    assert_close(schedule.noised(x0, last, noise), noise)


@pytest.mark.parametrize("settings", [{}, {"guidance": 1.0}, {"guidance": 1.0, "eta": 1.0}, {"scale": 1.0}, {"taken": 100}])
def test_a_net_that_knows_the_vector_gets_it(settings):
    """With the true x₀ said at every step, whatever the guidance, the sampler ends there."""
    x0 = torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
    fresh = torch.Generator().manual_seed(3)
    calls = []

    def say(x, t):
        calls.append(t)
        return x0, x0

    sampler = Sampler(**{"rescale": 0.0, **settings})
    noise = torch.randn(7, 16, generator=torch.Generator().manual_seed(2))
    found = sampler(Schedule(), say, noise, lambda: torch.randn(7, 16, generator=fresh))
    assert_close(found, x0, atol=2e-3, rtol=2e-3)
    assert calls == trailing(100, sampler.taken)


def gaussian(schedule, mean):
    """The best guess of x₀ ~ N(mean, 1) given x_t: the posterior's mean, which no net can beat."""

    def say(x, t):
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        return mean + alpha * (x - alpha * mean) / (alpha**2 + sigma**2), mean

    return say


def test_ddim_keeps_the_distribution_and_eta_does_not_change_it():
    """With the exact posterior of a unit Gaussian, samples have its mean and deviation."""
    schedule, draw = Schedule(), torch.Generator().manual_seed(0)
    for eta in (0.0, 1.0):
        sampler = Sampler(taken=100, guidance=1.0, sigma=1.0, scale=1.0, eta=eta)
        fresh = lambda: torch.randn(20000, 2, generator=draw)
        found = sampler(schedule, gaussian(schedule, 3.0), fresh(), fresh)
        assert found.mean().item() == pytest.approx(3.0, abs=0.03)
        assert found.std().item() == pytest.approx(1.0, abs=0.04)


def test_guidance_goes_beyond_the_condition_and_one_is_none():
    schedule, noise = Schedule(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    toward = lambda at, without: Sampler(guidance=at, rescale=0.0)(schedule, lambda x, t: (torch.ones(5, 8), without), noise)
    assert_close(toward(1.0, None), torch.ones(5, 8))
    assert_close(toward(3.0, torch.ones(5, 8)), torch.ones(5, 8), atol=2e-3, rtol=0)  # nothing to go beyond
    assert_close(toward(3.0, torch.zeros(5, 8)), torch.full((5, 8), 3.0), atol=2e-3, rtol=0)


def test_the_first_step_of_pure_noise_is_not_guided():
    """Sheet 3.2: the noise cannot be told there, so x̂₀ is the conditional one and ε̂ what was started from."""
    schedule, noise = Schedule(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = Sampler(taken=1)(schedule, lambda x, t: (torch.ones(5, 8), torch.zeros(5, 8)), noise)
    assert_close(found, torch.ones(5, 8))


def test_the_noise_is_divided_and_cut_between_two_steps():
    """By hand: x₄₉ = α min(2, clip) + σ ε / λ_eps behind pure noise, and of the noise told there what the clip leaves."""
    schedule, noise, seen = Schedule(), torch.tensor([[0.4, -1.5]]), []
    alpha, sigma = (float(each[49]) for each in (schedule.alpha, schedule.sigma))

    def say(x, t):
        seen.append(x)
        return torch.full_like(x, 2.0), torch.full_like(x, 2.0)  # guidance changes nothing, but x₀ is made of the cut noise

    for guidance in (1.0, 3.0):
        for scale, clip in ((1.5, 100.0), (1.0, 0.5), (2.0, 0.5)):
            found = Sampler(2, guidance, rescale=0.0, sigma=1.0, scale=scale, clip=clip)(schedule, say, noise)
            assert trailing(100, 2) == [99, 49] and torch.equal(seen[-2], noise)
            x = alpha * min(2.0, clip) + sigma * noise / scale  # what pure noise is known to be is not cut
            assert_close(seen[-1], x)
            told = ((x - alpha * 2) / sigma).clamp(-clip, clip)
            last = torch.full_like(x, 2.0) if guidance == 1 else (x - sigma * told) / alpha
            assert_close(found, last.clamp(-clip, clip))


def test_rescaling_gives_the_guided_noise_the_deviation_of_the_other():
    sampler, draw = Sampler(rescale=1.0), torch.Generator().manual_seed(0)
    with_context, without = torch.randn(2, 6, 32, generator=draw)
    assert_close(sampler._guided(with_context, without).std(-1), with_context.std(-1))
    half = Sampler(rescale=0.7)._guided(with_context, without)
    plain = without + 3 * (with_context - without)
    assert_close(half, plain * (0.7 * with_context.std(-1, keepdim=True) / plain.std(-1, keepdim=True) + 0.3))


def test_weights():
    schedule = Schedule()
    weights = schedule.clamped_snr(torch.arange(99), 0.001, 5.0)
    assert_close(weights, (schedule.alpha[:99] ** 2 / schedule.sigma[:99] ** 2).clamp(0.001, 5.0))
    assert schedule.clamped_snr(torch.tensor([0, 99]), 0.0, 10.0).tolist() == [10.0, 0.0]  # pure noise has no weight
    low, high = fragility_weights(torch.tensor([1.0, 0.0])).tolist()
    assert low == pytest.approx(0.3775, abs=1e-3) and high == pytest.approx(0.9707, abs=1e-3)


@pytest.mark.parametrize("predicts", ["x0", "epsilon", "v"])
def test_a_predictor_that_is_a_little_off_still_makes_the_distribution(predicts):
    """Data N(3, 0.5²): what is said of x is exact but for an error of a hundredth."""
    schedule, sampler = Schedule(), Sampler(guidance=1.0, sigma=1.0, scale=1.0, predicts=predicts)
    noise = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))

    def say(x, t):
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        x0 = 3 + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - 3 * alpha)
        epsilon = (x - alpha * x0) / sigma
        said = {"x0": x0, "epsilon": epsilon, "v": alpha * epsilon - sigma * x0}[predicts]
        return said + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(t + 1)), None

    made = sampler(schedule, say, noise)
    assert abs(made.mean() - 3) < 0.05 and abs(made.std() - 0.5) < 0.05


def test_samplers_that_cannot_be_are_refused():
    for wrong in ({"predicts": "eps"}, {"taken": 0}, {"eta": -1.0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="no sampler has these settings"):
            Sampler(**wrong)
