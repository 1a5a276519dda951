"""Fragility on the test bed: what is counted, the weights that batches bring, and their density."""

import json

import numpy as np
import pytest
import torch

from tests.zoo.lcm.test_testbed import SMALL, attach
from zoo.lcm import TwoTower
from zoo.lcm.chains import NONE, Chains
from zoo.lcm.fragile import LEVELS, WeightDensity, item_fragility, mean_of_first
from zoo.lcm.testbed import CodebookChains
from zoo.nn.diffusion import fragility_weights
from zoo.nn.normalizer import Normalizer


def test_fragility_is_that_of_a_loop():
    chains, normalizer = Chains(**SMALL), Normalizer(5)
    normalizer.scale.fill_(0.5)
    normalizer.center.fill_(0.1)
    found = item_fragility(chains, normalizer, draws=2000)
    draw = np.random.default_rng(7)
    for item in (0, 5, chains.size):
        lost = []
        for level in LEVELS:
            x = (chains.vectors[item] - 0.1) / 0.5
            moved = 0.1 + 0.5 * (np.sqrt(1 - level) * x + np.sqrt(level) * draw.standard_normal((2000, 5)))
            distance = ((moved[:, None] - chains.vectors) ** 2).sum(-1)
            lost.append((distance.argmin(1) != item).mean())
        assert float(found[item]) == pytest.approx(np.mean(lost), abs=0.02)  # two counts of 18,000: four deviations


def test_two_vectors_on_a_line_are_lost_as_often_as_the_normal_distribution_says():
    chains = Chains(size=2, width=1, ways=1, contexts=2, end=0.0)
    chains.vectors = np.array([[1.0], [-1.0], [50.0]], dtype=np.float32)  # the end is far away
    found = item_fragility(chains, Normalizer(1), draws=20000, levels=[0.5])
    expected = float(torch.special.ndtr(torch.tensor(-1.0)))  # P(√½ + √½ ε < 0)
    assert found[:2].tolist() == pytest.approx([expected, expected], abs=0.01) and float(found[2]) == 0


def test_vectors_in_clusters_are_more_fragile_and_the_rest_stay_as_they_were():
    plain, near = Chains(size=40, width=12, contexts=8), Chains(size=40, width=12, contexts=8, near=0.5)
    assert (plain.vectors[:20] == near.vectors[:20]).all() and (plain.vectors[40] == near.vectors[40]).all()
    assert (plain.allowed == near.allowed).all() and plain.fingerprint != near.fingerprint
    assert np.linalg.norm(near.vectors[:40], axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    normalizer = Normalizer(12)
    normalizer.scale.fill_(12**-0.5)  # that of the vectors
    even, crowded = (item_fragility(each, normalizer, draws=100)[20:40] for each in (plain, near))
    assert float(crowded.mean()) > 0.1 + float(even.mean()) and float(crowded.max()) > 0.2 + float(even.max())


def test_occurrences_are_counts_of_documents():
    chains = Chains(**SMALL, memory=2, hubs=0.25)
    items = chains.documents("train", np.arange(20000), 9)
    counts = np.bincount(items[items != NONE], minlength=chains.size + 1) / len(items)
    assert chains.occurrences(9) == pytest.approx(counts, rel=0.06, abs=0.01)
    assert chains.occurrences(9).sum() == pytest.approx((items != NONE).sum() / len(items), rel=0.01)


def test_batches_bring_the_weights_of_their_sentences_and_nets_take_them():
    data = attach(CodebookChains(Chains(**SMALL), documents=40, context=8, batch=4, fragility=(-4.0, 3.5)))
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    expected = fragility_weights(item_fragility(data.chains, data.normalizer))
    items = data.chains.documents("train", batch["window"].numpy(), 8)
    for row, weight in zip(items, batch["weight"]):
        real = row[row != NONE]
        assert weight[: len(real)].tolist() == pytest.approx(expected[torch.from_numpy(real)].tolist())
    net = TwoTower(5, 8, 8, 1, 1, 2, 8, dropout=0.0, positions=8)
    torch.manual_seed(0)
    loss = net(batch)["loss"].detach()
    torch.manual_seed(0)
    assert float(net({**batch, "weight": 2 * batch["weight"]})["loss"].detach()) == pytest.approx(2 * float(loss), rel=1e-5)
    without = CodebookChains(Chains(**SMALL), documents=40, context=8, batch=4)
    assert "weight" not in without.on_after_batch_transfer(next(iter(attach(without).train_dataloader())), 0)


def test_density_is_that_of_the_weights_of_all_sentences():
    data = CodebookChains(Chains(size=20, width=4, contexts=8, near=0.5), context=8)
    found = WeightDensity(bins=10, draws=50).measured(data)
    assert sum(found[f"density{n}"] for n in range(1, 11)) / 10 == pytest.approx(1)
    assert [found[f"weight{n}"] for n in (1, 10)] == pytest.approx([0.05, 0.95])
    weights = fragility_weights(item_fragility(data.chains, data.normalizer, 50)).numpy()
    items = data.chains.documents("train", np.arange(5000), 8)
    items = items[items != NONE]
    counts, _ = np.histogram(weights[items], bins=10, range=(0, 1), density=True)
    assert [found[f"density{n}"] for n in range(1, 11)] == pytest.approx(counts.tolist(), abs=0.15)
    ordered = np.sort(weights[items])
    assert found["weight_fragile"] == pytest.approx(ordered[: len(items) // 10].mean(), abs=0.01)
    assert found["weight_robust"] == pytest.approx(ordered[-(len(items) // 10) :].mean(), abs=0.01)
    assert found["weight_mean"] == pytest.approx(weights[items].mean(), abs=0.01)


def test_a_mean_of_the_first_part_cuts_the_last_one():
    values, share = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([0.2, 0.4, 0.4])
    assert mean_of_first(values, share, 0.5) == pytest.approx((0.2 + 0.3 * 3) / 0.5)


@pytest.mark.parametrize(
    "make, said",
    [(lambda: Chains(near=1.0), "close to others, below 1"), (lambda: WeightDensity(bins=0), "at least 1")],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_saved_net_says_of_which_chains_it_is(tmp_path):
    CodebookChains(Chains(**SMALL)).save_tokenizer(tmp_path / "tokenizer")
    settings = json.loads((tmp_path / "tokenizer/chains.json").read_text())
    assert Chains(**settings).fingerprint == Chains(**SMALL).fingerprint
