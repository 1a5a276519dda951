"""The runner, with a made-up `zoo` in its child processes: what it records, skips, survives and prints."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from benchmarks import jobs, record, report, run
from benchmarks import spec as spec_module

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/made/up.yaml
runs:
  one: {label: one, overrides: {model.n: 1}}
  two: {label: two, overrides: {model.n: 2}}
  three: {label: three, overrides: {model.n: 3}}
metrics: [{keys: [test/a], label: a, direction: lower, digits: 2}]
claims: []
scales: {laptop: {seeds: [0]}}
"""
CLI = """
import json, os, sys, time
from types import SimpleNamespace as NS

def main(args):
    n = int(args[-2].partition("=")[2])
    print("training", n, flush=True)
    what = json.load(open("behaviour.json")).get(str(n))
    if what == "raise": raise ValueError("heads must be fewer than layers: lower n")
    if what == "exit": print("zoo: unknown key", file=sys.stderr); sys.exit(2)
    if what == "kill": os.kill(os.getpid(), 9)
    if what == "sleep":
        open("child.pid", "w").write(str(os.getpid()))
        time.sleep(120)
    value = float("nan") if what == "nan" else n / 2
    trainer = NS(test=lambda *a, **k: None, callback_metrics={"test/a": value}, is_global_zero=True,
                 strategy=NS(root_device=NS(type="cpu")))
    measured = dict(tokens=10, seconds=1.0, tokens_per_second=10.0, flops=5.0, peak_memory_mib=3.0, parameters=n)
    return NS(trainer=trainer, model=NS(measured=measured), config_dump={"n": n, "args": args},
              datamodule=NS(description="made-up data", fingerprint="f0"))
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with a spec, a recipe and a `zoo` that only pretends; `behave({n: what})` says how its runs go."""
    for module in (spec_module, record, run, report, jobs):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(spec_module, "SPECS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f0")
    files = {
        "table-made-1.yaml": SPEC,
        "recipes/made/up.yaml": "model: {n: 0}\ndata: {}\n",
        "recipes/scales/laptop.yaml": "data: {}\n",
        "zoo/__init__.py": "",
        "zoo/cli.py": CLI,
        "torch.py": "def get_num_threads(): return 1",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = signal.getsignal(signal.SIGTERM)

    def behave(how=None):
        (tmp_path / "behaviour.json").write_text(json.dumps(how or {}))
        return tmp_path

    behave()
    yield behave
    signal.signal(signal.SIGTERM, before)


def records(root):
    found, complaints = record.load(root / "runs/records")
    assert complaints == []
    return {(r.run, r.status): r for r in found}


def test_a_sweep_records_prints_and_ends_with_its_page(house, capfd):
    root = house()
    assert run.main(["table-made-1", "--scale", "laptop"]) == 0
    done = records(root)
    assert set(done) == {("one", "ok"), ("two", "ok"), ("three", "ok")}
    two = done["two", "ok"]
    assert two.metrics == {"test/a": 1.0} and two.tokens == 10 and two.config["n"] == 2
    assert two.data == {"description": "made-up data", "fingerprint": "f0"}
    assert "zoo/cli.py" in " ".join(two.code) and two.device.endswith("1 threads")
    out = capfd.readouterr().out
    assert two.command in out and "--model.n=2" in two.command and "  | training 2" in out
    assert "[2/3] two, seed 0" in out and "left)" in out
    assert out.rstrip().endswith("page: runs/pages/table-made-1-laptop.md")
    assert "| 1.00 |" in (root / "runs/pages/table-made-1-laptop.md").read_text() and "1.00" in out.split("new records")[1]
    assert {path.name for path in root.iterdir()} == {
        "table-made-1.yaml", "recipes", "zoo", "torch.py", "behaviour.json", "runs",
    }  # nothing was dropped in the working folder  # fmt: skip


def test_what_is_recorded_is_skipped_until_asked_again(house, capfd):
    root = house()
    assert run.main(["table-made-1", "--only", "one"]) == 0
    house({1: "raise"})  # would fail if it ran
    assert run.main(["table-made-1", "--only", "one"]) == 0
    assert "1 of them recorded before" in capfd.readouterr().out
    assert run.main(["table-made-1", "--only", "one", "--again"]) == 1
    assert set(records(root)) == {("one", "ok"), ("one", "failed")}


def test_other_data_or_another_recipe_is_not_skipped(house, monkeypatch, capfd):
    root = house()
    run.main(["table-made-1", "--only", "one"])
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f1")
    run.main(["table-made-1", "--only", "one"])
    assert "the data have changed" in capfd.readouterr().out
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f0")
    (root / "recipes/made/up.yaml").write_text("model: {n: 0, width: 2}\ndata: {}\n")
    run.main(["table-made-1", "--only", "one"])
    assert len(record.load(root / "runs/records")[0]) == 3


def test_data_that_cannot_be_checked_do_not_stop_the_sweep(house, monkeypatch, capfd):
    root = house()
    run.main(["table-made-1", "--only", "one"])

    def broken(data):
        raise FileNotFoundError("no such corpus")

    monkeypatch.setattr(run, "_fingerprint", broken)
    assert run.main(["table-made-1", "--only", "one"]) == 0
    assert "no such corpus" in capfd.readouterr().out and len(record.load(root / "runs/records")[0]) == 2


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("raise", "ValueError: heads must be fewer than layers: lower n"),
        ("exit", "zoo: unknown key"),
        ("kill", "killed by signal 9"),
        ("nan", "FloatingPointError: test/a is nan"),
    ],
)
def test_a_failing_run_is_recorded_and_the_others_go_on(house, capfd, what, sentence):
    root = house({2: what})
    assert run.main(["table-made-1"]) == 1
    done = records(root)
    assert set(done) == {("one", "ok"), ("two", "failed"), ("three", "ok")}
    assert done["two", "failed"].error.startswith(sentence)
    assert "failed: 1" in capfd.readouterr().out
    assert sentence in (root / "runs/pages/table-made-1-laptop.md").read_text()
    house()
    assert run.main(["table-made-1"]) == 0
    assert ("two", "ok") in records(root)


def test_interruption_keeps_what_is_done_and_ends_the_child(house, capfd):
    root = house({2: "sleep"})
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert run.main(["table-made-1"]) == 130
    assert set(records(root)) == {("one", "ok")}
    assert "the same command continues" in capfd.readouterr().out
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "child.pid").read_text()), 0)
    house()
    assert run.main(["table-made-1"]) == 0
    assert len(records(root)) == 3


def test_wrong_names_are_one_sentence(house, capfd):
    for args, words in (
        (["table-made-2"], "did you mean 'table-made-1'"),
        (["table-made-1", "--only", "thre"], "did you mean 'three'"),
        (["table-made-1", "--scale", "desk"], "no scale 'desk'"),
    ):
        assert run.main(args) == 2
        said = capfd.readouterr().err
        assert words in said and said.count("\n") == 1


def test_progress_bars_are_thinned_and_the_error_line_is_found(tmp_path, capsys):
    read, write = os.pipe()
    os.write(write, b"".join(b"%d%%\r" % i for i in range(50)) + b"done\nValueError: the cause\nlast words")
    os.close(write)
    with open(read, "rb") as stream, (tmp_path / "log").open("w") as log:
        assert run._pass_on(stream, log) == "ValueError: the cause"
    assert capsys.readouterr().out.splitlines() == ["  | 0%", "  | done", "  | ValueError: the cause", "  | last words"]
