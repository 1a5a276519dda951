"""pass@k against brute force, the interval, the oracle's bias; and a net that has learnt its problems by heart."""

import itertools
import json
import math
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from zoo.__main__ import main
from zoo.data.tokenizer import Bytes
from zoo.evals import passk, samples, sandbox
from zoo.evals.code import CodeProblems
from zoo.evals.code_text import References
from zoo.evals.passk import FIXED, GRID, bootstrap, chosen, pass_at_k, scores
from zoo.evals.problems import load, parses
from zoo.evals.samples import Drawing, Kept, complete, signature, solve
from zoo.evals.sandbox import Jails, Limits
from zoo.generate import generate
from zoo.mtp import MTP
from zoo.pretrained import save_pretrained

REASON = sandbox.available()
needs_jail = pytest.mark.skipif(REASON is not None, reason=str(REASON))
BODIES = {"plus": ("x + 1", 2), "twice": ("x * 2", 2), "wrong": ("x - 1", 2)}  # name: what the net says, f(1)


# -- the estimate ----------------------------------------------------------------------------------------------------
def test_pass_at_k_is_the_share_of_all_subsets():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            sets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == sum(map(any, sets)) / len(sets)
    assert pass_at_k(1000, 1, 100) == 0.1 and pass_at_k(200, 200, 1) == 1.0 and pass_at_k(200, 0, 100) == 0.0
    for bad in ((5, 2, 6), (5, 2, 0), (5, 6, 1)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(*bad)


def test_pass_at_k_is_unbiased_and_the_naive_estimate_is_not():
    """Of n draws with chance p, the mean over c is 1 - (1 - p)^k; 1 - (1 - c/n)^k is lower."""
    n, k, p = 6, 3, 0.3
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chance)) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance)) < 1 - (1 - p) ** k - 0.05


def test_bootstrap_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap(random.random(40), draws=300, seed=trial)
        inside += low <= 0.5 <= high
    assert 0.82 <= inside / 200 <= 0.96
    assert bootstrap([3.0] * 5) == (3.0, 3.0) and bootstrap([0.0, 1.0], level=0.5) == bootstrap([0.0, 1.0], level=0.5)


def test_scores_name_the_oracle_and_leave_out_what_samples_do_not_give():
    found = scores("mbpp", 10, {0.1: [10, 0], 0.8: [2, 2]}, FIXED)
    assert set(found) == {f"mbpp@{k}{end}" for k in (1, 10) for end in ("", "_high", "_low", "_oracle")}
    assert found["mbpp@1"] == found["mbpp@1_oracle"] == 50.0  # FIXED: pass@1 at 0.1, pass@10 at 0.8
    assert found["mbpp@10"] == found["mbpp@10_oracle"] == 100.0
    assert (found["mbpp@1_low"], found["mbpp@1_high"]) == (0.0, 100.0)
    other = scores("mbpp", 10, {0.1: [0, 0], 0.8: [2, 2]}, FIXED)
    assert (other["mbpp@1"], other["mbpp@1_oracle"]) == (0.0, pytest.approx(20.0))
    assert "mbpp@1_oracle" not in scores("mbpp", 10, {0.2: [1, 1]}, {1: 0.2})


def test_the_oracle_is_biased_upward_and_the_fixed_temperature_is_not():
    """Four temperatures that are equally good: on average the best of them looks better than any is."""
    random = np.random.default_rng(0)
    fixed, oracle = [], []
    for _ in range(60):
        found = scores("x", 5, {t: random.binomial(5, 0.3, size=20).tolist() for t in GRID}, {1: 0.2})
        fixed.append(found["x@1"])
        oracle.append(found["x@1_oracle"])
    assert abs(np.mean(fixed) - 30) < 1.5 < 3 < np.mean(oracle) - 30


def test_temperatures_are_named_in_advance():
    assert chosen(GRID, None) == FIXED and chosen([0.3], None) == dict.fromkeys(FIXED, 0.3)
    for grid, fixed in (([0.2, 0.4], None), (GRID, {1: 0.3}), ([], None)):
        with pytest.raises((ValueError, IndexError), match=r"add it|range"):
            chosen(grid, fixed)


# -- a net that knows --------------------------------------------------------------------------------------------------
def row(name: str) -> dict:
    prompt = f"def {name}(x):\n"
    test = f"def check(f):\n    assert f(1) == {BODIES[name][1]}\n"
    return {"task_id": name, "prompt": prompt, "entry_point": name, "canonical_solution": "", "test": test}


@pytest.fixture(scope="module")
def net() -> MTP:
    """Two layers that learn three small programs by heart."""
    torch.manual_seed(0)
    net = MTP(257, 48, dim=48, layers=3, heads=2, n=2)
    texts = [f"def {name}(x):\n    return {body}\n\ndef ".encode() for name, (body, _) in BODIES.items()]
    tokens = torch.full((len(texts), max(map(len, texts)) + net.ahead), 256)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = torch.tensor(list(text))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        net({"tokens": tokens, "mask": tokens != 256})["loss"].backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row(name)) + "\n" for name in BODIES))
    return str(path)


def test_completions_end_at_a_stop_and_are_pythons(net, file, monkeypatch):
    problems, ends = load("humaneval", file), []
    keep = lambda *a, **k: ends.append(generate(*a, **k)) or ends[-1]
    monkeypatch.setattr(samples, "generate", keep)
    wanted = [(problem, 0) for problem in problems]
    drawn = complete(net, Bytes(), wanted, 0.0, Drawing(tokens=24))
    assert [s.completion for s in drawn] == [f"\n    return {body}\n" for body, _ in BODIES.values()]
    assert all(s.parses and not s.cut for s in drawn) and ends[0].stopped == [True] * 3
    plain = complete(net, Bytes(), wanted, 0.0, Drawing(tokens=24, heads=1))
    assert plain == drawn  # self-speculation changes nothing
    (short,) = complete(net, Bytes(), wanted[:1], 0.0, Drawing(tokens=10))
    assert len(short.completion) == 10
    again = [complete(net, Bytes(), wanted, 5.0, Drawing(tokens=24)) for _ in range(2)]
    other = complete(net, Bytes(), wanted, 5.0, Drawing(tokens=24, seed=1))
    assert again[0] == again[1] != other


def test_a_prompt_that_is_too_long_loses_its_beginning(net, file, monkeypatch):
    (problem, *_) = load("humaneval", file)
    seen = []
    monkeypatch.setattr(samples, "generate", lambda net, prompts, *a, **k: seen.extend(prompts) or SimpleNamespace(tokens=[[65]]))
    long = SimpleNamespace(id="x", prompt="# " * 40 + problem.prompt, prefix="", stops=(), cut=lambda text: text)
    (sample,) = complete(net, Bytes(), [(long, 0)], 0.0, Drawing(tokens=20))
    assert sample.cut and sample.completion == "A" and bytes(seen[0]).decode() == long.prompt[-28:]


@pytest.mark.parametrize(
    "program, python", [("x = 1", True), ("x = ", False), ("\0", False), ("'\\d'", True), ("(" * 5000, False)]
)
def test_parses(program, python):
    assert parses(program) is python


def test_a_signature_stands_for_net_settings_and_problems(net, file):
    problems, drawing, tokenizer = load("humaneval", file), Drawing(), Bytes()
    first = signature(net, tokenizer, problems, 0.2, drawing)
    assert signature(net, tokenizer, problems, 0.2, Drawing(samples=1)) == first
    assert signature(net, tokenizer, problems, 0.4, drawing) != first
    assert signature(net, tokenizer, problems[:2], 0.2, drawing) != first
    assert signature(net, tokenizer, problems, 0.2, Drawing(tokens=3)) != first
    torch.manual_seed(0)
    fresh = MTP(257, 48, dim=48, layers=3, heads=2, n=2)
    assert signature(fresh, tokenizer, problems, 0.2, drawing) != first


@needs_jail
def test_samples_are_kept_and_not_made_again(net, file, tmp_path, monkeypatch):
    problems, path = load("humaneval", file), tmp_path / "kept" / "x.jsonl"
    with Jails(Limits(seconds=1), workers=1) as jails:
        few = solve(net, Bytes(), problems, 0.0, Drawing(2, tokens=24, batch=4), jails, path)
        assert [[s.status for s in each] for each in few] == [["passed"] * 2, ["passed"] * 2, ["failed"] * 2]
        assert len(path.read_text().splitlines()) == 6
        with path.open("a") as unfinished:
            unfinished.write('{"problem": "plus", "num')
        asked = []
        monkeypatch.setattr(samples, "complete", lambda *a: asked.extend(a[2]) or complete(*a))
        more = solve(net, Bytes(), problems, 0.0, Drawing(3, tokens=24, batch=4), jails, path)
        assert [number for _, number in asked] == [2, 2, 2] and [each[:2] for each in more] == few
        assert solve(net, Bytes(), problems, 0.0, Drawing(3, tokens=24), jails, path) == more and len(asked) == 3
    assert len(Kept(path).samples) == 9
    path.write_text('{"problem": 1}\n')
    with pytest.raises(ValueError, match="no sample"):
        Kept(path)


class Holding(L.LightningModule):
    """A module whose test pass does nothing but hold the net."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        pytest.fail("it trains")

    def test_step(self, batch, batch_idx) -> None:
        self.log("test/loss", 0.0)


class OneBatch(L.LightningDataModule):
    tokenizer = Bytes()

    def train_dataloader(self):
        return self.test_dataloader()

    def test_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(1, 1))


def trainer(*callbacks, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | options))


@needs_jail
def test_a_test_run_logs_pass_at_k(net, file, tmp_path, monkeypatch):
    callback = CodeProblems(["humaneval"], {"humaneval": file}, samples=2, temperatures=[0.0], tokens=24, workers=1)
    logger = L.pytorch.loggers.CSVLogger(tmp_path)
    run = trainer(callback, logger=logger)
    run.test(Holding(net), datamodule=OneBatch(), verbose=False)
    found = {k: round(float(v), 1) for k, v in run.callback_metrics.items()}
    assert found == {
        "test/loss": 0.0,
        "test/humaneval@1": 66.7,
        "test/humaneval@1_low": 33.3,
        "test/humaneval@1_high": 100.0,
        "test/humaneval_syntax": 100.0,
        "test/humaneval_cut_prompts": 0.0,
    }
    monkeypatch.setattr(samples, "complete", lambda *a: pytest.fail("a sample was made again"))
    again = trainer(callback, logger=L.pytorch.loggers.CSVLogger(tmp_path, version=logger.version))
    again.test(Holding(net), datamodule=OneBatch(), verbose=False)
    assert {k: round(float(v), 1) for k, v in again.callback_metrics.items()} == found


@needs_jail
def test_processes_share_the_problems_out(net, file, tmp_path):
    wanted = passk.CodeScores(["humaneval"], [0.0], Drawing(1, tokens=24), files={"humaneval": file}, limits=Limits(seconds=1))
    parts = []
    with Jails(Limits(seconds=1), workers=1) as jails:
        whole = wanted.measure("humaneval", net, Bytes(), jails)
        for rank in range(2):
            add = lambda counts: parts.append(counts) or counts
            wanted.measure("humaneval", net, Bytes(), jails, tmp_path, (rank, 2), add)
        both = wanted.measure("humaneval", net, Bytes(), jails, tmp_path, (0, 2), lambda counts: parts[0] + parts[1])
    assert both == whole and float((parts[0] * parts[1]).sum()) == 0
    assert len(list(tmp_path.glob("humaneval-0.0-*-of-2.jsonl"))) == 2


def test_without_a_jail_the_test_run_refuses_at_its_start(net, file, monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    callback = CodeProblems(["humaneval"], {"humaneval": file}, samples=1, temperatures=[0.0])
    with pytest.raises(sandbox.Unavailable, match="only on Linux"):
        trainer(callback).test(Holding(net), datamodule=OneBatch(), verbose=False)


def test_missing_problems_are_told_before_the_training(net, tmp_path):
    gone = str(tmp_path / "gone.jsonl")
    for callback in (CodeProblems(["mbpp"], {"mbpp": gone}), References(files=[gone])):
        with pytest.raises(FileNotFoundError, match=r"gone.jsonl"):
            trainer(callback).fit(Holding(net), datamodule=OneBatch())


@needs_jail
def test_the_verb_solve(net, file, tmp_path, capsys):
    save_pretrained(net, tmp_path / "pretrained")
    Bytes().save(tmp_path / "pretrained" / "tokenizer")
    words = ["--files", f"humaneval={file}", "--samples", "1", "--tokens", "24", "--temperatures", "0"]
    main(["solve", str(tmp_path / "pretrained"), *words])
    assert "humaneval@1 66.67" in " ".join(capsys.readouterr().out.split())
    assert len(list((tmp_path / "samples").glob("humaneval-0.0-*.jsonl"))) == 1
    for wrong, sentence in ((["--files", file], "SET=FILE"), (["--files", f"mbpp={file}"], "not among the sets")):
        with pytest.raises(SystemExit, match=sentence):
            main(["solve", str(tmp_path / "pretrained"), *wrong])
