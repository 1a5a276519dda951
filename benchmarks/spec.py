"""A spec is one YAML per table or figure of a paper: what is run, what the paper printed, what it claimed.

`load` reads and checks it; `expand` turns spec and scale into the list of runs, each with the command a person could type.
"""

import difflib
import shlex
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[1]
SPECS = ROOT / "benchmarks" / "specs"


@dataclass(frozen=True)
class Source:
    """Where the paper's numbers are printed."""

    arxiv: str
    item: str  # "Table 1"


@dataclass(frozen=True)
class Paper:
    """The paper's cells of one row, by metric key, in the metric's unit."""

    place: str
    cells: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One arm: its overrides on the recipe, as `--key=value` says them."""

    label: str
    overrides: dict[str, Any] = field(default_factory=dict)
    paper: Paper | None = None


@dataclass(frozen=True)
class Metric:
    """One column. Several keys (heads; @1, @10, @100) share a column and are printed in this order."""

    keys: list[str]
    label: str
    direction: Literal["lower", "higher"]
    digits: int


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and the comparison that tests it, on each of `metrics`.

    better: the first of two rows beats the second · within: the first loses at most `margin` to the second · monotone: every row
    is at least as good as the one before. No verdict is drawn from it yet.
    """

    kind: Literal["better", "within", "monotone"]
    rows: list[str]
    metrics: list[str]
    sentence: str
    margin: float = 0.0


@dataclass(frozen=True)
class Scale:
    """Seeds of every row, overrides on top of recipes/scales/<scale>.yaml for all rows alike, and a remark for the page."""

    seeds: list[int]
    overrides: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Spec:
    """One table or figure. `name` is the file's stem, `table-<paper>-<n>` or `figure-<paper>-<n>`."""

    name: str
    title: str
    source: Source
    recipe: str  # path from the repository's root
    runs: dict[str, Row]
    metrics: list[Metric]
    claims: list[Claim]
    scales: dict[str, Scale]


@dataclass(frozen=True)
class Run:
    """One row at one scale with one seed. `files` are layered in order, `overrides` on top of them."""

    spec: str
    recipe: str  # "mtp-code": the recipe's path as one word
    row: str
    scale: str
    seed: int
    files: tuple[str, ...]
    overrides: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        """What `zoo` is given: ["fit", "-c", …, "--key=value", …]."""
        layered = [word for file in self.files for word in ("-c", file)]
        return ["fit", *layered, *(f"--{key}={_text(value)}" for key, value in self.overrides.items())]

    @property
    def command(self) -> str:
        return shlex.join(["zoo", *self.arguments])

    def config(self) -> dict:
        """The layered configuration as written: the files merged in order, then the overrides. It names the run."""
        merged: dict = {}
        for file in self.files:
            _merge(merged, _read(ROOT / file))
        for key, value in self.overrides.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            _merge(merged, value)
        return merged


def load(path: str | Path) -> Spec:
    """The spec in this file, or the spec of this name in benchmarks/specs.

    Raises:
        FileNotFoundError: no such spec; says which there are.
        ValueError: a wrong, missing or ill-typed key; names the key, the file and the nearest right key.
    """
    path = Path(path)
    if path.suffix != ".yaml":
        names = sorted(p.stem for p in SPECS.glob("*.yaml"))
        if path.name not in names:
            raise FileNotFoundError(f"There is no spec {str(path)!r}{nearest(str(path), names)}")
        path = SPECS / f"{path}.yaml"
    spec = _typed(Spec, {**_read(path), "name": path.stem}, "", path.name)
    rows, keys = list(spec.runs), [key for metric in spec.metrics for key in metric.keys]
    for name, row in spec.runs.items():
        for key in row.paper.cells if row.paper else ():
            _known(key, keys, f"runs.{name}.paper.cells", path.name)
    for i, claim in enumerate(spec.claims):
        for row in claim.rows:
            _known(row, rows, f"claims[{i}].rows", path.name)
        for key in claim.metrics:
            _known(key, keys, f"claims[{i}].metrics", path.name)
    return spec


def expand(spec: Spec, scale: str) -> list[Run]:
    """Every run of the spec at this scale, seed by seed, so that an interrupted sweep leaves whole tables.

    Raises:
        ValueError: the spec does not define this scale.
    """
    if scale not in spec.scales:
        raise ValueError(f"{spec.name} has no scale {scale!r}{nearest(scale, spec.scales)}")
    recipe = "-".join(Path(spec.recipe).with_suffix("").parts[1:])
    files = (spec.recipe, f"recipes/scales/{scale}.yaml")
    return [
        Run(spec.name, recipe, name, scale, seed, files,
            {"seed_everything": seed, **spec.scales[scale].overrides, **row.overrides})
        for seed in spec.scales[scale].seeds
        for name, row in spec.runs.items()
    ]  # fmt: skip


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest right one, or all there are."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {match[0]!r}?" if match else f": there are {', '.join(known)}."


def _read(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} must hold keys and values, not {type(data).__name__}.")
    return data


def _text(value: Any) -> str:
    """A value as the command line spells it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _merge(base: dict, top: dict) -> None:
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _known(word: str, known: list[str], place: str, file: str) -> None:
    if word not in known:
        raise ValueError(f"{file}: {place} names {word!r}, which the spec does not define{nearest(word, known)}")


def _typed(kind: Any, value: Any, place: str, file: str) -> Any:
    """`value` as the type `kind`: dataclasses, lists, dicts with text keys, Literal, `X | None`, and plain values."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    wrong = ValueError(f"{file}: {place or 'the file'} must be {_words(kind)}, not {value!r}.")
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _typed(inner[0], value, place, file)
    if origin is Literal:
        if value not in inner:
            raise wrong
        return value
    if origin is list:
        if not isinstance(value, list):
            raise wrong
        return [_typed(inner[0], item, f"{place}[{i}]", file) for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise wrong
        return {key: _typed(inner[1], item, f"{place}.{key}", file) for key, item in value.items()}
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong
        return _filled(kind, value, place, file)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        hint = " Put it in quotes." if kind is str else ""
        raise ValueError(f"{wrong}{hint}")
    return value


def _filled(kind: type, value: dict, place: str, file: str) -> Any:
    prefix = f"{place}." if place else ""
    known = {f.name: f for f in fields(kind)}
    for key in value:
        if key not in known:
            raise ValueError(f"{file}: there is no key {prefix + str(key)!r}{nearest(str(key), known)}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{file}: the key {prefix + name!r} is missing.")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _typed(hints[key], item, prefix + key, file) for key, item in value.items()})


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    names = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "keys and values"}
    return names.get(typing.get_origin(kind) or kind, "keys and values")
