"""Chains over a codebook: documents keep to the chain, what is best follows by enumeration, and known nets score just that."""

import json
import pickle
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from zoo.data.chunks import PADDING, TARGET
from zoo.lcm.chains import NONE, Chains
from zoo.lcm.testbed import CodebookChains, Known, TestbedScores, contrasted, scored
from zoo.module import LanguageModel

SMALL = {"size": 12, "width": 5, "ways": 3, "contexts": 6, "end": 0.1}


def attach(made, rank=0, world=1, max_steps=10):
    """Stand-in for a Trainer, to see what one of several processes would read."""
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
    made.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": world, "rank": rank} if world > 1 else None, max_steps=max_steps,
        overfit_batches=0, accumulate_grad_batches=1, strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_loop=progress),
    )  # fmt: skip
    return made


@pytest.mark.parametrize("memory", [1, 2])
def test_documents_keep_to_the_chain(memory):
    chains = Chains(**SMALL, memory=memory, hubs=0.25)
    items = chains.documents("train", np.arange(400), 16)
    seen = {}
    for document in items.tolist():
        assert 0 <= document[0] < 9  # of twelve the last three are hubs
        before = NONE
        for last, item in pairwise(document):
            if last in (NONE, chains.size):
                assert item == NONE
                continue
            context = int(chains.context(np.array(last), np.array(before)))
            assert item in chains.allowed[context]
            seen.setdefault(context, []).append(item)
            before = last
    assert all(len(set(row)) == chains.ways and not chains.is_hub(row).any() for row in chains.allowed)
    assert (chains.allowed == chains.size).sum() == round(0.1 * 6 * 3) and (chains.allowed == chains.size).any(1).sum() == 2
    for context, found in seen.items():  # each way equally often: four deviations of a share of a third
        shares = np.bincount(np.searchsorted(np.sort(chains.allowed[context]), found), minlength=3) / len(found)
        assert np.abs(shares - 1 / 3).max() < 4 * (2 / 9 / len(found)) ** 0.5
    if memory == 2:
        assert len({int(chains.context(np.array(3), np.array(before))) for before in range(9)}) > 1


def test_a_document_is_a_pure_function_of_its_number():
    chains = Chains(**SMALL)
    whole = chains.documents("train", np.arange(50), 16)
    again = pickle.loads(pickle.dumps(chains))
    assert (again.documents("train", np.array([7, 3]), 16) == whole[[7, 3]]).all()
    assert (chains.documents("train", np.arange(50), 9) == whole[:, :9]).all()
    assert (chains.documents("test", np.arange(50), 16) != whole).any(1).mean() > 0.9
    other = Chains(**SMALL, seed=1)
    assert (other.allowed != chains.allowed).any() and other.fingerprint != chains.fingerprint == again.fingerprint


@pytest.mark.parametrize("memory", [1, 2])
def test_visits_are_the_shares_of_contexts(memory):
    chains = Chains(**SMALL, memory=memory)
    items = chains.documents("train", np.arange(20000), 9)
    found = np.zeros(chains.contexts)
    before = np.full(len(items), NONE)
    for n in range(1, 9):
        on = items[:, n] != NONE
        found += np.bincount(chains.context(items[:, n - 1], before)[on], minlength=chains.contexts)
        before = items[:, n - 1]
    assert chains.visits(9) == pytest.approx(found / len(items), rel=0.05, abs=0.01)
    assert chains.visits(9).sum() == pytest.approx((items[:, 1:] != NONE).sum() / len(items), rel=0.01)


def test_what_is_best_by_hand():
    """Four vectors at right angles, two ways: the mean lies halfway, √½ from each, the nearest vector is one of the two."""
    chains = Chains(size=4, width=4, ways=2, contexts=4, end=0.0)
    chains.vectors = np.eye(5, 4, dtype=np.float32)
    chains.vectors[4] = -1
    found = chains.optimal(6)
    assert found["mean_l2_squared"] == pytest.approx(0.5) and found["sample_l2_squared"] == pytest.approx(1.0)
    assert found["mean_l2"] == pytest.approx(0.5**0.5) and found["mean_gap"] == pytest.approx(2**0.5 / 2 - 0.5**0.5)
    assert found["sample_l2"] == found["sample_l2_roundtrip"] == pytest.approx(2**0.5 / 2) and found["sample_gap"] == 0
    assert [found[name] for name in ("mean_allowed", "mean_hub", "sample_allowed")] == pytest.approx([100, 0, 100])
    chains.vectors[3], chains.hubs = 0.1, 1  # a short vector near the origin
    chains.allowed = np.array([[0, 1], [1, 2], [0, 2], [2, 1]])
    assert chains.optimal(6)["mean_hub"] == pytest.approx(100) and chains.optimal(6)["mean_allowed"] == 0


def test_batches_are_those_of_a_sentence_view():
    data = attach(CodebookChains(Chains(**SMALL), documents=40, context=8, batch=4), max_steps=-1)
    seen = []
    for batch in data.train_dataloader():
        size = int(batch["length"].max())
        assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
            "vec": ((4, size, 5), torch.float32), "length": ((4,), torch.int64), "role": ((4, size), torch.int64),
            "mask": ((4,), torch.bool), "window": ((4,), torch.int64),
            "tokens": ((1, int(batch["length"].sum())), torch.int64),
        }  # fmt: skip
        items = data.chains.documents("train", batch["window"].numpy(), 8)
        for vec, role, length, row in zip(batch["vec"], batch["role"], batch["length"].tolist(), items):
            assert (vec[:length].numpy() == data.chains.vectors[row[:length]]).all() and not vec[length:].any()
            assert role.tolist() == [TARGET] * length + [PADDING] * (size - length) and (row[length:] == NONE).all()
        seen += batch["window"].tolist()
    assert sorted(seen) == list(range(40)) and data.vocab == 5
    assert data.epochs_seen(data.sentences) == 1
    texts = list(data.documents("train"))
    assert len(texts) == 40 and sum(len(each.text.split()) for each in texts) == data.sentences


def test_processes_share_one_order_and_a_resumed_run_goes_on():
    make = lambda batch, **given: CodebookChains(Chains(**SMALL), documents=30, held_out=10, context=8, batch=batch, **given)
    order = lambda made, **given: [b["window"] for b in attach(made, max_steps=12, **given).train_dataloader()]
    reference = torch.cat(order(make(8)))
    ranks = [order(make(4), rank=rank, world=2) for rank in range(2)]
    assert (torch.cat([numbers for step in zip(*ranks) for numbers in step]) == reference).all()
    assert (torch.cat(order(make(8, seed=1))) != reference).any()
    loader = attach(make(8)).train_dataloader()
    loader.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 5
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = attach(make(4), max_steps=6).train_dataloader()
    resumed.load_state_dict(state)
    assert (torch.cat([b["window"] for b in resumed]) == reference[40:64]).all()
    tested = list(attach(make(4)).test_dataloader())
    assert torch.cat([b["window"][b["mask"]] for b in tested]).tolist() == list(range(10))


def measured(sampled, **chain):
    chains = Chains(width=16, size=64, contexts=32, **chain)
    data = CodebookChains(chains, held_out=800, context=16, batch=64)
    module = LanguageModel(data.vocab, data.context, lambda vocab, context: Known(vocab, context, chains, sampled))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=[TestbedScores()], **quiet)
    trainer.test(module, datamodule=data, verbose=False)
    found = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
    return found, data.optimal()


@pytest.mark.parametrize("chain", [{"hubs": 0.0}, {"hubs": 0.25}, {"memory": 2}], ids=str)
@pytest.mark.parametrize("sampled", [False, True])
def test_nets_that_know_the_chain_score_what_is_best(sampled, chain):
    found, best = measured(sampled, **chain)
    who = "sample" if sampled else "mean"
    for name in ("l2_squared", "l2", "l2_roundtrip"):
        assert found[name] == pytest.approx(best[f"{who}_{name}"], rel=0.03)
    assert found["gap"] == pytest.approx(best[f"{who}_gap"], abs=0.02)
    assert found["allowed"] == pytest.approx(best[f"{who}_allowed"], abs=2) and found["hub"] == pytest.approx(best[f"{who}_hub"])
    assert found["l2_ratio"] == pytest.approx(2 if sampled else 1, rel=0.03)
    assert found["l2_optimum"] == pytest.approx(best["mean_l2_squared"], rel=0.01)
    assert found["mse"] == pytest.approx(found["l2_squared"], rel=1e-4)  # the net's own loss counts the same sentences
    assert found["moved"] == pytest.approx(0, abs=1e-6) if sampled else found["moved"] > 0.3
    assert 0.5 < found["contrastive"] < 1 and found["par_pooled"] == pytest.approx(1, abs=0.2)
    if chain.get("hubs"):
        assert found["allowed"] == (100 if sampled else 0) and found["hub"] == (0 if sampled else 100)


def test_a_sampler_draws_anew_for_another_seed_and_alike_in_any_batch():
    data = CodebookChains(Chains(**SMALL), held_out=8, context=8, batch=8)
    batch = next(iter(attach(data).test_dataloader()))
    net = Known(5, 8, data.chains, sampled=True)
    alone = {name: value[2:3] for name, value in batch.items() if name != "tokens"}
    assert (net.predict(alone) == net.predict(batch)[2:3]).all()
    assert (net.predict(batch, seed=1) != net.predict(batch)).any()


def test_contrast_is_that_of_a_loop():
    draw = torch.Generator().manual_seed(0)
    said, true = torch.randn(3, 6, 4, generator=draw), torch.randn(3, 6, 4, generator=draw)
    true[1, 2] = true[0, 4]  # an equal sentence elsewhere
    real = torch.arange(6) < torch.tensor([[6], [4], [1]])
    counted = real & (torch.arange(6) > 0)
    expected = []
    for b, n in counted.nonzero().tolist():
        own, won, left = (said[b, n] - true[b, n]).norm(), 0.0, 0
        for c, m in real.nonzero().tolist():
            if not (c == b and abs(m - n) <= 1):
                other = (said[b, n] - true[c, m]).norm()
                won, left = won + (0.5 if torch.isclose(other, own, rtol=1e-6) else float(other > own)), left + 1
        expected.append(won / left)
    assert contrasted(said, true, counted, real).tolist() == pytest.approx(expected)
    lone = torch.ones(1, 2, dtype=torch.bool)
    assert not len(contrasted(said[:1, :2], true[:1, :2], lone, lone))  # two neighbours have nothing to be compared with


def test_the_first_sentence_and_rows_that_fill_up_do_not_count():
    role = torch.tensor([[2, 2, 2], [2, 2, 0], [1, 1, 2]])
    found = scored({"role": role, "mask": torch.tensor([True, False, True])})
    assert found.tolist() == [[False, True, True], [False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Chains(ways=200), "no chain has 200 ways"),
        (lambda: Chains(end=0.5), "`end` at most 1 / ways"),
        (lambda: Chains(memory=3), "the last 1 or 2 items, not of 3"),
        (lambda: CodebookChains(context=1), "data.context \\(1\\) 2"),
        (lambda: Known(7, 8), "have 7 numbers, and this net's chains 24"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
