"""The callback that races ways of decoding: what it counts, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo.data.tokenizer import Bytes, train_bpe
from zoo.evals.decoding import Decoding, race
from zoo.generate import Generation, generate
from zoo.medusa import medusa
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained
from zoo.tree import Tree, acceptance


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MTP(17, 32, n=3, dim=16, layers=5, heads=2, hidden=32).eval()


def logged_by(callback: Decoding, net, world_size: int = 1) -> dict[str, float]:
    """What the callback logs when this net is tested on made text."""
    logged = {}
    text = np.random.default_rng(0).integers(0, 17, 2000)
    store = SimpleNamespace(windows=lambda starts, length: np.stack([text[s : s + length] for s in starts]))
    held = SimpleNamespace(windows=lambda starts, length: np.stack([text[::-1][s : s + length] for s in starts]))
    data = SimpleNamespace(stores={"test": store, "validation": held}, windows=lambda split: 60, context=32, tokenizer=Bytes())
    module = SimpleNamespace(net=net, device=torch.device("cpu"), log=logged.__setitem__)
    callback.on_test_epoch_end(SimpleNamespace(world_size=world_size, datamodule=data), module)
    assert module.measured["crowd"] is None or module.measured["crowd"] >= 0
    return logged


def test_every_number_of_heads_is_raced_and_gives_the_text_of_plain_decoding(net):
    logged = logged_by(Decoding(prompts=5, batch=2, rounds=1), net)
    for k in (2, 3):
        assert logged[f"test/identical@{k}"] == 100.0
        assert logged[f"test/speedup@{k}"] > 0 and logged[f"test/decoded_per_second@{k}"] > 0
        shares = [logged[f"test/accepted{j}@{k}"] for j in range(1, k)]
        assert shares == sorted(shares, reverse=True)
        assert logged[f"test/tokens_per_forward@{k}"] == pytest.approx(1 + sum(shares) / 100)
    assert "test/decoded_per_second@1" in logged and "test/speedup@1" not in logged


def test_counts_are_those_of_generate(net):
    net.heads.blocks[1].load_state_dict(net.heads.blocks[0].state_dict())  # drafts that are sometimes right
    logged = logged_by(Decoding(heads=[2], prompts=4, batch=4, rounds=1, prompt_tokens=8, tokens=20), net)
    text = np.random.default_rng(0).integers(0, 17, 2000)
    made = generate(net, [text[s * 32 : s * 32 + 8].tolist() for s in (0, 15, 30, 45)], 20, heads=2)
    assert logged["test/tokens_per_forward@2"] == pytest.approx(made.tokens_per_forward)
    assert logged["test/accepted1@2"] == pytest.approx(100 * made.accepted[0] / sum(made.steps))


def test_trees_draft_nets_and_judges(net, tmp_path):
    torch.manual_seed(1)
    save_pretrained(NextToken(17, 32, dim=8, layers=1, heads=1, hidden=16), tmp_path)
    Bytes().save(tmp_path / "tokenizer")
    few = {"heads": [3], "prompts": 2, "rounds": 1}
    assert logged_by(Decoding(tree=6, **few), net)["test/identical@3"] == 100.0
    assert logged_by(Decoding(draft=str(tmp_path), **few), net)["test/identical@3"] == 100.0
    assert 0 <= logged_by(Decoding(tree=6, judge=str(tmp_path), **few), net)["test/identical@3"] <= 100.0
    assert logged_by(Decoding(tree=6, accept="typical", temperature=0.7, **few), net)["test/tokens_per_forward@3"] >= 1


def test_a_tree_by_what_the_heads_got_right_on_other_text(net, monkeypatch):
    net.heads.blocks[1].load_state_dict(net.heads.blocks[0].state_dict())  # drafts that are sometimes right
    seen = []
    monkeypatch.setattr("zoo.medusa.medusa", lambda *args, tree, **rest: seen.append(tree) or medusa(*args, tree=tree, **rest))
    few = {"heads": [2, 3], "tree": 5, "prompts": 3, "rounds": 1, "prompt_tokens": 8, "tokens": 12}
    logged = logged_by(Decoding(measured=True, **few), net)
    text = np.random.default_rng(0).integers(0, 17, 2000)[::-1]
    prompts = [text[s * 32 : s * 32 + 8].tolist() for s in (0, 20, 40)]
    assert {tree.paths for tree in seen} == {Tree.likeliest(acceptance(net, prompts, 12)[:d].tolist(), 5).paths for d in (1, 2)}
    assert logged["test/identical@2"] == logged["test/identical@3"] == 100.0


def test_a_draft_net_of_another_tokenizer_is_refused(net, tmp_path):
    save_pretrained(NextToken(17, 32, dim=8, layers=1, heads=1, hidden=16), tmp_path)
    train_bpe(["a text to learn merges from, a text of texts"], 300).save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="another tokenizer than the data"):
        logged_by(Decoding(heads=[3], draft=str(tmp_path)), net)


def test_the_fastest_round_counts_and_every_way_takes_its_turn(monkeypatch):
    clock, turns = [0.0], []
    costs = {"slow": iter([9, 3.0, 2.0, 9, 9]), "fast": iter([9, 1.0, 5.0, 4.0, 9])}
    monkeypatch.setattr("zoo.evals.decoding._now", lambda device: clock[0])

    def way(name):
        def run(rows):
            turns.append(name)
            clock[0] += next(costs[name])
            return Generation([[1, 2]] * len(rows), [False] * len(rows), 1, [1] * len(rows), [])

        return run

    totals = race({name: way(name) for name in costs}, [[[0]], [[0], [0]]], 2, torch.device("cpu"))
    assert turns == ["slow", "fast"] * 5
    assert (totals["slow"].seconds, totals["fast"].seconds) == (2.0 + 9, 1.0 + 4)
    assert totals["fast"].emitted == 6 and totals["fast"].steps == 3


def test_refusals(net):
    with pytest.raises(ValueError, match="one process"):
        logged_by(Decoding(), net, world_size=2)
    with pytest.raises(ValueError, match="make prompt_tokens or tokens smaller"):
        logged_by(Decoding(prompt_tokens=20, tokens=20), net)
    with pytest.raises(ValueError, match="give `tree` too"):
        Decoding(judge="folder")
    with pytest.raises(ValueError, match="measured says how a tree is built: give `tree` too"):
        Decoding(measured=True)
    with pytest.raises(ValueError, match="one of `draft` and `tree`"):
        Decoding(draft="folder", tree=4)
    with pytest.raises(ValueError, match="at least 1"):
        Decoding(rounds=0)
    judged = {"tree": 4, "judge": "folder"}
    for ignored in ({"temperature": 0.7}, {"accept": "nucleus"}, {"top_p": 0.8}, {"temperature": 0.7, **judged}):
        with pytest.raises(ValueError, match="leave them out"):
            Decoding(**ignored)
    with pytest.raises(ValueError, match="greedy' is for temperature 0"):
        Decoding(tree=4, temperature=0.7)


def test_every_round_of_a_sampled_batch_makes_the_same_text(net):
    callback = Decoding(tree=6, accept="nucleus", temperature=1.0, top_p=0.9)
    way, rows = callback._way(net, 3, 12), [[1, 2, 3]]
    assert way(rows).tokens == way(rows).tokens == way(rows).tokens
    other = Decoding(tree=6, accept="nucleus", temperature=1.0, top_p=1e-6)._way(net, 3, 12)
    assert other(rows).tokens == generate(net, rows, 12).tokens != way(rows).tokens  # the nucleus is used


def test_plain_decoding_is_the_measure_also_where_k_1_is_asked_for(net):
    logged = logged_by(Decoding(heads=[1, 3], tree=6, prompts=2, rounds=1), net)
    assert logged["test/speedup@1"] == 1.0 and "test/speedup@3" in logged
    alone = NextToken(17, 32, dim=16, layers=1, heads=1, hidden=16).eval()
    assert set(logged_by(Decoding(prompts=1, rounds=1), alone)) == {"test/decoded_per_second@1"}


def test_a_system_that_does_not_tell_how_busy_it_is_has_no_crowd(net, monkeypatch):
    monkeypatch.setattr("zoo.evals.decoding.busy_seconds", lambda: (float("nan"), 1.0))
    store = SimpleNamespace(windows=lambda starts, length: np.ones((len(starts), length), np.int64))
    data = SimpleNamespace(stores={"test": store}, windows=lambda split: 60, context=32, tokenizer=Bytes())
    module = SimpleNamespace(net=net, device=torch.device("cpu"), log=lambda *a: None)
    Decoding(heads=[2], prompts=1, rounds=1).on_test_epoch_end(SimpleNamespace(world_size=1, datamodule=data), module)
    assert module.measured["crowd"] is None
