"""Stale records: what a replay finds, what it says of the records, and when they stay stale."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import page, record, replay, report
from benchmarks import spec as spec_module
from benchmarks.record import Record
from benchmarks.spec import expand, load
from tests.benchmarks.test_drift import README, SPEC

NET = "FACTOR = 2.0\n"
CLI = '''
from types import SimpleNamespace

from zoo.net import FACTOR


def main(words, callbacks):
    """A run without Lightning: losses and scores that are functions of FACTOR."""
    assert words[0] == "fit" and "--trainer.max_steps=3" in words, words
    trainer = SimpleNamespace(callback_metrics={"val/a": FACTOR}, optimizers=[], log_dir=None)
    scores = {"test/a": FACTOR / 3, "test/speedup@2": hash("x") % 99}
    trainer.test = lambda *args, **settings: trainer.callback_metrics.update(scores)
    for step in range(3):
        callbacks[0].on_train_batch_end(trainer, None, {"loss": FACTOR / (step + 1)}, None, step)
    net = SimpleNamespace(parameters=lambda: [])
    return SimpleNamespace(trainer=trainer, model=SimpleNamespace(net=net), datamodule=None)
'''


def git(root, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *name, *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A clone with one spec, a made-up zoo, and a record of row `one` by its first commit, one a seed."""
    for module in (spec_module, record, report, replay):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    specs = tmp_path / "benchmarks" / "specs"
    for module in (spec_module, report):
        monkeypatch.setattr(module, "SPECS", specs)
    files = {"benchmarks/specs/table-made-1.yaml": SPEC, "README.md": README, ".gitignore": "/data\n"}
    files |= {"zoo/__init__.py": "", "zoo/net.py": NET, "zoo/cli.py": CLI, "lightning.py": "Callback = object"}
    files |= {"recipes/mtp/code.yaml": "a: 1"} | {f"recipes/scales/{name}.yaml": "b: 1" for name in ("desk", "gpu", "paper")}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    code = {name: record.code_hash(tmp_path / name) for name in ("zoo/__init__.py", "zoo/net.py", "zoo/cli.py")}
    for run in expand(load("table-made-1"), "desk"):
        if run.row == "one":
            about = {"code": code, "tokens": 9, "commit": git(tmp_path, "rev-parse", "HEAD"), "device": "CPU, 2 threads",
                     "config": {"data": {"init_args": {"source": "installed"}}}}  # fmt: skip
            made = Record(run.recipe, run.row, "desk", run.seed, run.key, run.command, "ok", "2024-05-01", **about,
                          data={"description": "text", "fingerprint": "f"})  # fmt: skip
            record.save(made, record.folder("desk"))
    yield tmp_path
    record.code_hash.cache_clear()
    replay.replays.cache_clear()


def changed(house, **files):
    """Rewrite files of the made-up zoo; nothing is committed."""
    for name, text in files.items():
        (house / "zoo" / f"{name}.py").write_text(text)
    record.code_hash.cache_clear()


def records():
    return record.load(record.folder("desk"))[0]


def status(house):
    return json.loads((house / "benchmarks" / "pages" / "status.json").read_text())["table-made-1"]


def test_code_that_only_moved_keeps_its_records(house, capsys):
    assert replay.main(["table-made-1"]) == 0 and "has no stale record" in capsys.readouterr().out
    changed(house, net="TWO = 2.0\nFACTOR = TWO\n")
    report.main([])
    assert all(replay.stale(r) == ["zoo/net.py"] for r in records()) and status(house)["stale"] == ["zoo/net.py"]
    capsys.readouterr()
    assert replay.main(["table-made-1"]) == 0
    assert "one, seeds 0, 1: 5 numbers of 3 steps are equal to the last digit" in capsys.readouterr().out
    assert all(replay.stale(r) == [] and replay.replayed(r) for r in records())
    assert status(house)["stale"] == [] and status(house)["replayed"] == 2
    assert "partial, replayed" in (house / "README.md").read_text()
    text = page.page(load("table-made-1"), "desk", records())
    assert "**Replayed: 2 of the 2 records of this page were made by earlier code.**" in text and "Stale" not in text
    assert git(house, "worktree", "list").count("\n") == 0  # the old code is gone again


def test_code_that_counts_otherwise_does_not(house, capsys):
    changed(house, net="FACTOR = 2.001\n")
    assert replay.main(["table-made-1"]) == 1
    said = capsys.readouterr().out
    assert "one, seeds 0, 1: stays stale, 5 of 8 numbers differ (loss of step 1 2 then, 2.0009999999999999 now" in said
    assert all(replay.stale(r) for r in records()) and not replay.folder().exists()


def test_what_changes_after_a_replay_is_stale_until_the_next(house):
    changed(house, net="TWO = 2.0\nFACTOR = TWO\n")
    assert replay.main(["table-made-1"]) == 0
    changed(house, net="FACTOR = 1.0 + 1.0\n")
    assert [replay.stale(r) for r in records()] == [["zoo/net.py"]] * 2
    assert replay.main(["table-made-1"]) == 0 and not any(map(replay.stale, records()))
    changed(house, net="FACTOR = 3.0\n")
    assert replay.main(["table-made-1"]) == 1 and all(map(replay.stale, records()))
    changed(house, net="FACTOR = 1.0 + 1.0\n")
    assert not any(map(replay.stale, records())) and len(list(replay.folder().rglob("*.json"))) == 1
    other = replace(records()[0], key="another")
    assert replay.stale(other) == ["zoo/net.py"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dirty": True}, "never committed as it was"),
        ({"commit": None}, "never committed as it was"),
        ({"commit": "0" * 40}, "not in this clone"),
        ({"tokens": 0}, "trains nothing"),
        ({"device": "H100"}, "another kind of device than this machine's"),
        ({"config": {"data": {"init_args": {"source": "hub"}}}}, "its text is neither the embedded one"),
        ({"config": {"data": {"init_args": {"files": ["a.txt"]}}}}, "its text is neither the embedded one"),
        ({"config": {}}, "its text is neither the embedded one"),
        ({"command": "zoo fit --a=runs/b/c-s0/pretrained"}, r"it starts from runs/b/c-s0/pretrained, which is not here"),
        ({"code": {"zoo/net.py": "0"}}, r"zoo/net\.py of commit .* is not the code that made it"),
    ],
)
def test_what_cannot_be_replayed_is_said(house, fields, why):
    with pytest.raises(ValueError, match=why):
        replay.replay([replace(records()[0], **fields)], load("table-made-1"))


@pytest.mark.parametrize(("data", "root"), [({"source": "stories", "root": "data"}, True), ({"chains": 3}, False)])
def test_rows_of_one_replay_share_their_stores_where_data_have_one(house, tmp_path, monkeypatch, data, root):
    changed(house, net=NET + "# moved\nTWO = 2\n")
    begun, begin = [], replay.begin
    monkeypatch.setattr(replay, "begin", lambda words, tree, place: begun.append(place) or begin(words, tree, place))
    made = [replace(each, config={"data": {"init_args": data}}) for each in records()]
    monkeypatch.setattr(replay, "groups", lambda *_: [[each] for each in made])  # as if they were two rows
    assert replay.main(["table-made-1"]) == 0
    assert begun[:2] == begun[2:] and len(begun) == 4
    assert begun[0] != begun[1] and begun[0].name == made[0].commit if root else begun == 4 * [None]


def test_code_that_changes_while_it_is_replayed_is_said(house, monkeypatch):
    begin = replay.begin

    def edited(words, tree, place):
        found = begin(words, tree, place)
        if tree == house:
            changed(house, net=NET + "THREE = 3\n")
        return found

    monkeypatch.setattr(replay, "begin", edited)
    changed(house, net=NET + "TWO = 2\n")
    with pytest.raises(ValueError, match="was changed while it was replayed"):
        replay.replay([records()[0]], load("table-made-1"))


def test_a_run_that_dies_says_why(house, capsys):
    changed(house, cli=CLI.replace("assert", "raise RuntimeError('no such net')\n    assert"))
    assert replay.main(["table-made-1"]) == 1
    assert "stays stale, a replay failed: RuntimeError: no such net" in capsys.readouterr().out


def test_what_the_first_steps_do_not_reach_or_score_stays_stale(house):
    for name in ("evals/score.py", "late.py"):
        (house / "zoo" / name).parent.mkdir(exist_ok=True)
        (house / "zoo" / name).write_text("x = 1\n")
    git(house, "add", ".")
    git(house, "commit", "-qm", "second")
    made = records()[0]
    for name, why in [("evals/score.py", "what it scores is trivial"), ("late.py", "its first steps do not reach it")]:
        code = {**made.code, f"zoo/{name}": record.code_hash(house / "zoo" / name)}
        old = replace(made, code=code, commit=git(house, "rev-parse", "HEAD"))
        changed(house, **{name.removesuffix(".py"): "x = 2\n"})
        with pytest.raises(ValueError, match=why):
            replay.replay([old], load("table-made-1"))
        changed(house, **{name.removesuffix(".py"): "x = 1\n"})
    changed(house, net="TWO = 2.0\nFACTOR = TWO\n")
    replay.save(replay.replay([old], load("table-made-1")))
    assert not replay.stale(old)
    changed(house, late="x = 2\n")
    assert replay.stale(old) == ["zoo/late.py", "zoo/net.py"]  # what the replay did not run may not change after it either


def test_a_new_verb_changes_nothing(house):
    (house / "zoo" / "__main__.py").write_text("VERBS = {}\n")
    made = records()[0]
    with_verbs = replace(made, code={**made.code, "zoo/__main__.py": record.code_hash(house / "zoo" / "__main__.py")})
    assert not record.changed(with_verbs)
    changed(house, __main__="VERBS = {1: 2}\n")
    assert not record.changed(with_verbs) and "zoo/__main__.py" in with_verbs.code


def test_equal_is_equal_to_the_last_digit():
    old = {
        "a": 1.0,
        "b": 0.0,
        "gone": 1.0,
        "lost": float("nan"),
        "inf": 2.0,
        "was": float("inf"),
    }
    new = {"a": 1.0000000000000002, "b": 0.0, "new": 4.0, "lost": float("nan"), "inf": float("inf"), "was": float("inf")}
    assert replay.differences(old, new) == ["a", "gone", "inf"]
    assert replay.differences(old, {**new, "lost": 1.0, "was": float("nan")}) == ["a", "gone", "lost", "inf", "was"]


def test_a_file_that_is_no_replay_is_named(house):
    (replay.folder() / "made").mkdir(parents=True)
    (replay.folder() / "made" / "a.json").write_text("{")
    changed(house, net="TWO = 2.0\nFACTOR = TWO\n")
    with pytest.raises(ValueError, match=r"a\.json is not a readable replay .*: delete it, or restore it from git"):
        replay.stale(records()[0])


def test_a_spec_of_times_is_run_again(capsys):
    assert replay.main(["table-mtp-s5"]) == 1 and "make reproduce-table-mtp-s5 runs it again" in capsys.readouterr().out
    assert replay.main(["table-mtp-0"]) == 2


def test_a_real_run_is_cut_to_its_beginning_with_the_scores_of_the_smoke_scale():
    spec = load("table-mtp-1")
    run = expand(spec, "desk")[0]
    made = Record(run.recipe, run.row, "desk", 0, run.key, f"{run.command} --trainer.logger.init_args.version=x", "ok", "2024")
    words = replay.cut(made, spec)
    assert words[:5] == ["fit", "-c", "recipes/mtp/code.yaml", "-c", "recipes/scales/desk.yaml"]
    assert "--trainer.max_steps=3" in words and words.count("--trainer.logger.init_args.version=x") == 0
    smoke = spec.scales["smoke"].overrides["trainer.callbacks"]
    assert yaml.safe_load(words[-1].removeprefix("--trainer.callbacks=")) == smoke
    kept = replace(made, command=made.command + " '--trainer.callbacks=[{class_path: zoo.x.Teacher, init_args: {net: a}}]'")
    much = replace(made, config={"data": {"init_args": {"megabytes": 16}}})
    taught = replace(much, command=f"{made.command} --a.teacher=runs/ntp/teacher-1-s0/pretrained")  # whose tokenizer is of all
    assert ["--data.init_args.megabytes=4" in replay.cut(each, spec) for each in (much, taught)] == [True, False]
    assert "zoo.x.Teacher" in replay.cut(kept, spec)[-1]  # what the smoke scale does not have stays as it is
    for has, lacks in (("eval_bytes", "eval_sentences"), ("eval_sentences", "eval_bytes")):  # of tokens, of sentences
        words = " ".join(replay.cut(replace(made, config={"data": {"init_args": {has: 1}}}), spec))
        assert f"--data.init_args.{has}=" in words and f"init_args.{lacks}=" not in words
    assert Path(replay.folder()).parts[-2:] == ("benchmarks", "replays")
