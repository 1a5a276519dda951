"""Spec files: what a wrong one says, and what a right one expands to."""

import shlex

import pytest
import yaml

from benchmarks import spec as spec_module
from benchmarks.spec import expand, load

GOOD = {
    "title": "a title",
    "source": {"arxiv": "2404.19737", "item": "Table 1"},
    "recipe": "recipes/mtp/code.yaml",
    "runs": {
        "one": {"label": "n = 1", "overrides": {"model.n": 1}, "paper": {"place": "Table 1, row 1", "cells": {"test/a": 3}}},
        "two": {"label": "n = 2", "overrides": {"model.n": 2}},
    },
    "metrics": [{"keys": ["test/a"], "label": "a", "direction": "lower", "digits": 1}],
    "claims": [{"kind": "better", "rows": ["two", "one"], "metrics": ["test/a"], "sentence": "Two beats one."}],
    "scales": {"laptop": {"seeds": [0, 1], "overrides": {"trainer.max_steps": 3}}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a spec beside a recipe and a scale, in a repository of its own."""
    monkeypatch.setattr(spec_module, "ROOT", tmp_path)
    (tmp_path / "recipes/mtp").mkdir(parents=True)
    (tmp_path / "recipes/scales").mkdir()
    (tmp_path / "recipes/mtp/code.yaml").write_text("model: {n: 4, width: 8}\ntrainer: {max_steps: 9}\n")
    (tmp_path / "recipes/scales/laptop.yaml").write_text("model: {width: 16}\n")

    def put(content=GOOD, **changed):
        path = tmp_path / "table-x-1.yaml"
        path.write_text(yaml.safe_dump({**content, **changed}))
        return path

    return put


def test_load_gives_typed_fields(write):
    spec = load(write())
    assert spec.name == "table-x-1"
    assert spec.runs["one"].paper.cells == {"test/a": 3.0} and isinstance(spec.runs["one"].paper.cells["test/a"], float)
    assert spec.runs["two"].paper is None
    assert spec.claims[0].margin == 0.0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"recipee": "x"}, ["table-x-1.yaml", "'recipee'", "did you mean 'recipe'"]),
        ({"source": {"arxiv": "1", "itm": "T"}}, ["'source.itm'", "did you mean 'item'"]),
        ({"source": {"arxiv": 2404.19737, "item": "T"}}, ["source.arxiv", "text", "quotes"]),
        ({"source": {"arxiv": "1"}}, ["'source.item'", "missing"]),
        ({"runs": {"one": {"label": "x", "override": {}}}}, ["'runs.one.override'", "did you mean 'overrides'"]),
        ({"scales": {"laptop": {"seeds": [0, "1"]}}}, ["scales.laptop.seeds[1]", "whole number"]),
        ({"scales": {"laptop": {"seeds": 0}}}, ["scales.laptop.seeds", "a list"]),
        ({"scales": {"laptop": {"seeds": [0], "x": {"one": 3.0}}}}, ["scales.laptop.x", "'one'"]),  # it has no place at all
        ({"runs": ["one"]}, ["runs", "keys and values"]),
        ({"metrics": [{**GOOD["metrics"][0], "direction": "down"}]}, ["metrics[0].direction", "lower or higher", "'down'"]),
        ({"metrics": [{**GOOD["metrics"][0], "keys": ["test/b"]}]}, ["runs.one.paper.cells", "'test/a'", "mean 'test/b'"]),
        ({"claims": [{**GOOD["claims"][0], "rows": ["tow", "one"]}]}, ["claims[0].rows", "'tow'", "did you mean 'two'"]),
        ({"claims": [{**GOOD["claims"][0], "metrics": ["test/z"]}]}, ["claims[0].metrics", "'test/z'"]),
        ({"claims": [{**GOOD["claims"][0], "rows": ["one"]}]}, ["claims[0]", "two rows"]),
        ({"claims": [{**GOOD["claims"][0], "kind": "agrees"}]}, ["claims[0]", "two metrics"]),
        ({"alone": "yes"}, ["alone", "true or false"]),
        ({"panels": [{"xs": ["test/a"], "ys": [], "title": "", "xlabel": "", "ylabel": ""}]}, ["panels[0]", "as many xs as ys"]),
        ({"claims": [{**GOOD["claims"][0], "kind": "rising", "metrics": ["test/a"]}]}, ["claims[0]", "two metrics or more"]),
        ({"panels": [{"y": "test/z", "title": "", "xlabel": "", "ylabel": ""}]}, ["panels[0].y", "'test/z'"]),
        ({"runs": {**GOOD["runs"], "two": {"label": "", "baseline": "uno"}}}, ["runs.two.baseline", "'uno'"]),
        ({"runs": {**GOOD["runs"], "two": {"label": "", "scales": ["lap"]}}}, ["runs.two.scales", "mean 'laptop'"]),
        ({"runs": {**GOOD["runs"], "two": {"label": "", "overrides": {"a": "${needs.tea}"}}}}, ["runs.two.overrides", "'tea'"]),
    ],
)
def test_a_wrong_spec_names_key_file_and_remedy(write, change, words):
    with pytest.raises(ValueError) as error:
        load(write(**change))
    message = str(error.value)
    assert all(word in message for word in ["table-x-1.yaml", *words]), message
    assert "\n" not in message


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"table-mtp-11.*did you mean 'table-mtp-1'"):
        load("table-mtp-11")
    with pytest.raises(ValueError, match=r"'lap'.*did you mean 'laptop'"):
        expand(load("table-mtp-1"), "lap")


def test_not_yaml(tmp_path):
    (tmp_path / "s.yaml").write_text("a: [1,\nb: }")
    with pytest.raises(ValueError, match=r"s\.yaml is not YAML"):
        load(tmp_path / "s.yaml")


def test_expansion_and_command(write):
    runs = expand(load(write()), "laptop")
    assert [(run.row, run.seed) for run in runs] == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
    assert runs[3].recipe == "mtp-code"
    assert runs[3].command == (
        "zoo fit -c recipes/mtp/code.yaml -c recipes/scales/laptop.yaml --seed_everything=1 --trainer.max_steps=3 --model.n=2"
    )


def test_config_layers_recipe_scale_overrides(write):
    config = expand(load(write()), "laptop")[0].config()
    assert config == {"model": {"n": 1, "width": 16}, "trainer": {"max_steps": 3}, "seed_everything": 0}


def test_a_row_wins_over_its_scale(write):
    runs = {**GOOD["runs"], "one": {"label": "x", "overrides": {"trainer.max_steps": 7}}}
    assert expand(load(write(runs=runs)), "laptop")[0].config()["trainer"]["max_steps"] == 7


@pytest.mark.parametrize("value", [1, 0.1, True, None, "bytes", "a b", [1, 2], {"a": [1, "b c"]}])
def test_command_line_values_survive_the_shell(write, value):
    runs = {"one": {"label": "x", "overrides": {"model.n": value}}}
    spec = load(write(runs=runs, claims=[]))
    word = shlex.split(expand(spec, "laptop")[0].command)[-1]
    assert word.startswith("--model.n=")
    assert yaml.safe_load(word.removeprefix("--model.n=")) == value


def test_a_missing_recipe_is_named(write):
    with pytest.raises(FileNotFoundError, match=r"recipes/mtp/cod\.yaml"):
        expand(load(write(recipe="recipes/mtp/cod.yaml")), "laptop")[0].config()


NEEDS = {
    "teacher": {"recipe": "recipes/mtp/code.yaml", "overrides": {"model.n": 9, "model.from": "${needs.base}"}},
    "base": {"recipe": "recipes/mtp/code.yaml", "overrides": {"model.n": 8}, "seed": 5},
}
TAUGHT = {**GOOD["runs"], "two": {"label": "taught", "overrides": {"model.n": 2, "model.teacher": "${needs.teacher}"}}}


def test_needs_make_a_graph_with_the_seed_of_the_run_or_their_own(write):
    run = next(r for r in expand(load(write(runs=TAUGHT, needs=NEEDS)), "laptop") if (r.row, r.seed) == ("two", 1))
    [teacher] = run.needs
    [base] = teacher.needs
    assert (teacher.row, teacher.seed, base.row, base.seed, base.needs) == ("teacher", 1, "base", 5, ())
    assert teacher.config()["trainer"]["max_steps"] == 3  # what the scale says of all rows holds for needs too
    folder = f"runs/mtp-code/teacher-{teacher.key}-s1/pretrained"
    assert run.arguments()[-1] == f"--model.teacher={folder}"
    assert run.arguments(saved={teacher.key: "elsewhere"})[-1] == "--model.teacher=elsewhere"
    assert folder in run.command and run.config()["model"]["teacher"] == f"need {teacher.key}"


def test_needs_are_filled_in_wherever_they_are_named(write):
    nested = {"a": [{"folder": "${needs.base}", "k": 2}], "b": {"of": "x ${needs.base}"}}
    runs = {**GOOD["runs"], "two": {"label": "taught", "overrides": {**nested, "trainer.max_steps": 0}}}
    run = next(r for r in expand(load(write(runs=runs, needs=NEEDS)), "laptop") if r.row == "two")
    (base,) = run.needs
    words = run.arguments(saved={base.key: "the/folder"})
    assert words[0] == "test"  # a run of no steps measures a saved net
    assert "--a=[{folder: the/folder, k: 2}]" in words and "--b={of: x the/folder}" in words
    assert run.config()["a"][0]["folder"] == f"need {base.key}" and "trainer.max_steps" in run.overrides


def test_a_run_is_its_needs_too(write):
    keys = lambda: {r.row: r.key for r in expand(load(tmp), "laptop") if r.seed == 0}
    tmp = write(runs=TAUGHT, needs=NEEDS)
    before = keys()
    write(runs=TAUGHT, needs={**NEEDS, "base": {**NEEDS["base"], "seed": 6}})
    after = keys()
    assert before["one"] == after["one"] and before["two"] != after["two"]


def test_needs_in_a_circle_are_named(write):
    circle = {**NEEDS, "base": {"recipe": "recipes/mtp/code.yaml", "overrides": {"model.from": "${needs.teacher}"}}}
    with pytest.raises(ValueError, match="two -> teacher -> base -> teacher go round in a circle"):
        expand(load(write(runs=TAUGHT, needs=circle)), "laptop")


def test_rows_may_sit_a_scale_out_and_bring_their_own_recipe(write):
    other = {"label": "other", "recipe": "recipes/ntp/other.yaml"}
    path = write(runs={"one": {**GOOD["runs"]["one"], "scales": []}, "two": other})
    assert [r.row for r in expand(load(path), "laptop")] == ["two", "two"]
    assert expand(load(path), "laptop")[0].recipe == "ntp-other"
    assert expand(load(path), "laptop")[0].files[0] == "recipes/ntp/other.yaml"


def test_the_key_does_not_depend_on_the_spec_or_the_rows_name(write):
    key = expand(load(write()), "laptop")[0].key
    path = write(runs={"a": GOOD["runs"]["one"], "two": GOOD["runs"]["two"]}, title="another", claims=[])
    assert expand(load(path), "laptop")[0].key == key != expand(load(path), "laptop")[1].key


def test_a_scale_may_set_single_rows_and_needs_or_have_a_need_by_name(write):
    scales = {
        "laptop": {"seeds": [0], "rows": {"two": {"model.n": 5}}, "needs": {"teacher": {"model.n": 6}}, "given": {"base": "a/b"}}
    }
    one, two = expand(load(write(runs=TAUGHT, needs=NEEDS, scales=scales)), "laptop")
    (teacher,) = two.needs
    assert (one.config()["model"]["n"], two.config()["model"]["n"], teacher.config()["model"]["n"]) == (1, 5, 6)
    assert teacher.needs == () and teacher.config()["model"]["from"] == "a/b" and "--model.from=a/b" in teacher.arguments()
    for wrong, words in [({"rows": {"tow": {}}}, "scales.laptop.rows names 'tow'"), ({"given": {"bas": "x"}}, "names 'bas'")]:
        with pytest.raises(ValueError, match=words):
            load(write(runs=TAUGHT, needs=NEEDS, scales={"laptop": {"seeds": [0], **wrong}}))


def test_a_folder_that_is_given_counts_by_what_is_in_it(write, tmp_path):
    scales = {"laptop": {"seeds": [0], "given": {"teacher": "made/space"}}}
    key = lambda: expand(load(write(runs=TAUGHT, needs=NEEDS, scales=scales)), "laptop")[1].key
    (tmp_path / "made/space").mkdir(parents=True)
    found = [key()]
    for content in ("1", "2", "1"):
        (tmp_path / "made/space/weights").write_text(content)
        spec_module.contents.cache_clear()
        found.append(key())
    assert found[1] == found[3] and len(set(found)) == 3
    for name in ("about.json", "LOG.md", ".draft", "cards/space.yaml"):  # what only tells of it
        (tmp_path / "made/space" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "made/space" / name).write_text("told")
        spec_module.contents.cache_clear()
        assert key() == found[3], name


def test_a_need_may_be_another_verb_with_the_sections_of_its_recipe(write, tmp_path):
    (tmp_path / "recipes/mtp/sae.yaml").write_text("sae: {latents: 8}\ndata: {context: 4}\n")
    overrides = {"sae.teacher": "${needs.base}", "sae.out": "${out}"}
    needs = {**NEEDS, "sae": {"recipe": "recipes/mtp/sae.yaml", "overrides": overrides, "seed": 0, "verb": "prepare sae"}}
    runs = {**GOOD["runs"], "two": {"label": "x", "overrides": {"model.sae": "${needs.sae}"}}}
    scales = {"laptop": {"seeds": [3], "overrides": {"trainer.max_steps": 3, "data.context": 2}}}
    run = expand(load(write(runs=runs, needs=needs, scales=scales)), "laptop")[1]
    (sae,) = run.needs
    folder = f"runs/mtp-sae/{sae.name}/pretrained"
    assert sae.arguments()[:6] == ["prepare", "sae", "-c", "recipes/mtp/sae.yaml", "-c", "recipes/scales/laptop.yaml"]
    assert sae.arguments()[6] == "--data.context=2" and f"--sae.out={folder}" in sae.arguments()[7:]
    assert run.arguments()[-1] == f"--model.sae={folder}"
    (base,) = sae.needs
    assert sae.config() == {"sae": {"latents": 8, "teacher": f"need {base.key}", "out": "${out}"}, "data": {"context": 2}}
    assert sae.config({base.key: "there"})["sae"]["teacher"] == "there"
    assert run.trains and not sae.trains


def test_a_folder_of_recipes_may_have_scales_of_its_own(write, tmp_path):
    assert expand(load(write()), "laptop")[0].files == ("recipes/mtp/code.yaml", "recipes/scales/laptop.yaml")
    (tmp_path / "recipes/mtp/scales").mkdir()
    (tmp_path / "recipes/mtp/scales/laptop.yaml").write_text("model: {width: 32}\n")
    run = expand(load(write()), "laptop")[0]
    assert run.files == ("recipes/mtp/code.yaml", "recipes/mtp/scales/laptop.yaml") and run.config()["model"]["width"] == 32


def test_what_an_alias_names_is_changed_for_itself(tmp_path, write):
    rows = "scales: {laptop: {seeds: [0], rows: {one: &same {model.init_args: {n: 1}}, two: *same}}}"
    one = write(scales={})
    one.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(one.read_text()).items() if k != "scales"}) + rows)
    own = {**GOOD, "like": one.stem, "runs": {"one": {}, "two": {}}, "claims": []}
    own["scales"] = {"laptop": {"seeds": [0], "rows": {"two": {"model.init_args": {"n": 3}}}}}
    (tmp_path / "table-x-2.yaml").write_text(yaml.safe_dump(own))
    scale = load(tmp_path / "table-x-2.yaml").scales["laptop"]
    assert scale.rows == {"one": {"model.init_args": {"n": 1}}, "two": {"model.init_args": {"n": 3}}}


def test_a_spec_like_another_shares_its_runs(write, tmp_path):
    of_one = {"seeds": [0, 1], "overrides": {"trainer.max_steps": 3}, "rows": {"two": {"model.n": 3}}}
    one = write(needs=NEEDS, scales={"laptop": of_one})
    scales = {"laptop": {"seeds": [1], "rows": {"three": {"model.n": 4}}}}
    runs = {"two": {}, "three": {"label": "n = 4", "overrides": {"model.of": "${needs.base}"}}}
    own = {**GOOD, "like": "table-x-1", "runs": runs, "claims": [], "scales": scales}
    (tmp_path / "table-x-2.yaml").write_text(yaml.safe_dump(own))
    both = load(tmp_path / "table-x-2.yaml")
    (three, two), theirs = expand(both, "laptop"), expand(load(one), "laptop")
    assert two.key in {run.key for run in theirs} and two.seed == 1 and both.runs["two"].label == "n = 2"
    assert three.config()["model"]["n"] == 4 and three.config()["trainer"]["max_steps"] == 3 and three.needs[0].row == "base"
    own["runs"] = {"one": {}}
    own["scales"] = {"laptop": {}}
    (tmp_path / "table-x-2.yaml").write_text(yaml.safe_dump(own))
    assert load(tmp_path / "table-x-2.yaml").runs["one"].paper is None  # of another table
    (tmp_path / "table-x-2.yaml").write_text(yaml.safe_dump({**own, "like": "table-x-9"}))
    with pytest.raises(ValueError, match=r"table-x-2\.yaml: like names 'table-x-9'"):
        load(tmp_path / "table-x-2.yaml")


def test_a_scale_may_have_other_recipes(write, tmp_path):
    """For rows and for what they need; a recipe that nothing asks for is a slip of the pen."""
    (tmp_path / "recipes/other/scales").mkdir(parents=True)
    (tmp_path / "recipes/other/large.yaml").write_text("model: {n: 4, width: 99}\n")
    (tmp_path / "recipes/other/scales/laptop.yaml").write_text("{}\n")
    scales = {"laptop": {"seeds": [0], "recipes": {"recipes/mtp/code.yaml": "recipes/other/large.yaml"}}}
    one, two = expand(load(write(runs=TAUGHT, needs=NEEDS, scales=scales)), "laptop")
    for run in (one, two, *two.needs):
        assert run.files == ("recipes/other/large.yaml", "recipes/other/scales/laptop.yaml") and run.recipe == "other-large"
        assert run.config()["model"]["width"] == 99
    with pytest.raises(ValueError, match=r"scales.laptop.recipes names 'recipes/mtp/cod.yaml'.*mtp/code.yaml"):
        load(write(scales={"laptop": {"seeds": [0], "recipes": {"recipes/mtp/cod.yaml": "recipes/other/large.yaml"}}}))
