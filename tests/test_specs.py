"""Every spec parses, its recipe and scales exist, and every run of it is a command line that `zoo` accepts."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.spec import ROOT, SPECS, expand, load

FILES = sorted(SPECS.glob("*.yaml"))
RESOLVED: set[str] = set()
NEED = re.compile(r"\bneed [0-9a-f]{12}\b")
CASES = [(path.stem, scale) for path in FILES for scale in load(path).scales]


def test_there_are_specs():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_spec_is_well_formed(path: Path):
    spec = load(path)
    assert spec.name.split("-")[0] in ("table", "figure") and spec.name.split("-")[-1].isalnum()
    named = [key for metric in spec.metrics for key in metric.keys]
    assert len(named) == len(set(named))
    for row in spec.runs.values():
        assert row.paper is None or spec.source.item in row.paper.place


@pytest.mark.parametrize("name, scale", CASES)
def test_runs_are_distinct_and_their_files_exist(name, scale):
    runs = expand(load(name), scale)
    assert all((ROOT / file).is_file() for run in runs for file in run.files)
    configs = [run.config() for run in runs]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


@pytest.mark.parametrize("name, scale", CASES)
def test_a_saved_net_is_measured_on_the_tokens_that_it_was_trained_on(name, scale):
    for run in expand(load(name), scale):
        if run.trains:
            continue
        mine = _text_of(run)
        for need in run.needs:
            assert _text_of(need) == mine, (run.row, need.row)


def _text_of(run):
    data = run.config()["data"]
    kept = ("source", "files", "hub", "megabytes", "tokenizer", "vocab_size", "context", "chains")
    given = {key: data["init_args"].get(key) for key in kept}
    if data["class_path"].startswith("zoo.sonar."):  # a space brings its tokenizer, which is of its own text
        given |= {"tokenizer": None, "vocab_size": None, "source": None}  # and may be measured on any text
    return data["class_path"], given if given["tokenizer"] != "bytes" else {**given, "vocab_size": None}


@pytest.mark.parametrize("name, scale", [case for case in CASES if case[1] != "paper"])
def test_no_run_below_the_papers_scale_waits_for_a_net_of_the_hub(name, scale):
    for run in expand(load(name), scale):
        assert "openai-community" not in str(run.config()), run.row


def started(run):
    """A run and all that it needs."""
    return [run, *(each for need in run.needs for each in started(need))]


@pytest.mark.parametrize("name, scale", [case for case in CASES if "lcm" in case[0] and case[1] in ("desk", "paper")])
def test_a_sentence_space_is_trained_at_scale_smoke_alone(name, scale):
    runs = [each for run in expand(load(name), scale) for each in started(run)]
    trained = [
        run for run in runs if run.trains and run.config()["model"]["init_args"]["net"]["class_path"].endswith("AutoEncoder")
    ]
    assert trained == []


def form(value):
    """A configuration with the kinds of its numbers in place of them, and of the nets that it needs."""
    if isinstance(value, dict):
        return {key: form(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [form(each) for each in value]
    return NEED.sub("need", value) if isinstance(value, str) else type(value).__name__


def test_what_differs_in_numbers_alone_has_one_form():
    first = {"net": {"dim": 8, "lr": 0.1, "folder": "need 0123456789ab/x", "kind": "a", "tied": True}}
    assert form(first) == form({"net": {"tied": False, "dim": 9, "lr": 0.2, "folder": "need ba9876543210/x", "kind": "a"}})
    changes = ({"dim": 8.5}, {"dim": "8"}, {"kind": "b"}, {"width": 8}, {"tied": 1})
    assert all(form(first) != form({"net": {**first["net"], **change}}) for change in changes)


@pytest.mark.parametrize("name, scale", CASES)
def test_runs_resolve(name, scale, capsys):
    from zoo.cli import main

    first = expand(load(name), scale)[0].seed
    for run in (each for asked in expand(load(name), scale) if asked.seed == first for each in started(asked)):
        if run.verb and "model" not in run.config():
            continue  # autoencoders of tokens have files of their own kind
        if (written := json.dumps([run.verb, form(run.config())])) not in RESOLVED:
            RESOLVED.add(written)  # specs share runs, and scales and rows that differ in numbers alone resolve alike
            with pytest.raises(SystemExit) as end:
                main([*_asked(run), "--print_config"])
            assert end.value.code in (0, None), (run.command, capsys.readouterr().err)


def _asked(run):
    """What `zoo` is given; of a verb that is not Lightning's, and prints no configuration, the files alone."""
    return ["fit", *(word for file in run.files for word in ("-c", file))] if run.verb else run.arguments()
