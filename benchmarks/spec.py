"""A spec is one YAML per table or figure of a paper: what is run, what the paper printed, what it claimed.

`load` reads and checks it; `expand` turns spec and scale into the list of runs, each with the command a person could type.
"""

import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from benchmarks.layers import apart, merge, read, spelt
from benchmarks.typed import nearest, typed

ROOT = Path(__file__).resolve().parents[1]
SPECS = ROOT / "benchmarks" / "specs"
_NEED = re.compile(r"\$\{needs\.([\w-]+)\}")
OUT = "${out}"


@dataclass(frozen=True)
class Source:
    """Where the paper's numbers are printed."""

    arxiv: str
    item: str  # "Table 1"


@dataclass(frozen=True)
class Paper:
    """The paper's cells of one row, by metric key, in the metric's unit; x where its figure has another axis than ours."""

    place: str
    cells: dict[str, float]
    x: float | None = None


@dataclass(frozen=True)
class Row:
    """One arm: its overrides on the recipe, as `--key=value` says them. `${needs.NAME}` in a value is the saved net of a need.

    recipe: this row's own, if not the spec's. baseline: the row that `ratio(key)` and `gap(key)` compare it with, seed by seed.
    x, line: its place in the figure. scales: where it runs; None is everywhere, elsewhere its cells print "—" with `why`.
    """

    label: str
    overrides: dict[str, Any] = field(default_factory=dict)
    paper: Paper | None = None
    recipe: str | None = None
    baseline: str | None = None
    x: float | None = None
    line: str = ""
    scales: list[str] | None = None
    why: str = ""


@dataclass(frozen=True)
class Need:
    """A run that others start from: a teacher, an encoder. seed: None takes that of the run that needs it.

    verb: of `zoo`, where it is no training: "prepare sae". Such a need has the sections of its own recipe, and of the settings
    that the scale gives all rows those of the data; it takes no seed. `${out}` in a value is the folder that it is to leave.
    """

    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    verb: str = ""


@dataclass(frozen=True)
class Metric:
    """One column. Several keys (heads; @1, @10, @100) share a column and are printed in this order.

    A key is a logged metric, a measured field of Record, `exp(key)`, or, against the row's baseline with the same seed,
    `ratio(key)` and `gap(key)`: divided by, or less, the same of that; `saving(key)`: the share of its tokens that the row could
    have done without to end where its baseline does, along their validation curves.
    error: of a measurement that is made once, its relative half-width, stated in advance (0 for exact counts); None: the
    interval comes from the seeds.
    """

    keys: list[str]
    label: str
    direction: Literal["lower", "higher"]
    digits: int
    error: float | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and the comparison that tests it, on each of `metrics`.

    better: the first of two rows beats the second; `margin` is the smallest difference worth the name · within: the first loses
    at most `margin` to the second · monotone: every row beats the one before · agrees: on every row the first metric differs from
    the second by `margin` at most · rising: on every row each metric beats the one before.
    scales: those at which it can be judged at all, None for any; `why` says what is in the way at the others.
    """

    kind: Literal["better", "within", "monotone", "agrees", "rising"]
    rows: list[str]
    metrics: list[str]
    sentence: str
    margin: float = 0.0
    scales: list[str] | None = None
    why: str = ""


@dataclass(frozen=True)
class Panel:
    """A plot of the figure: `y` of every row against its x, a curve per `line`; `paper`: key of the paper's cells beside it.

    Or, where each row measures a whole curve: `ys` against `xs`, keys of metrics, point by point, a curve per row. Or `along` the
    run: the validation curve of `y` of every row against what training took so far.
    """

    title: str
    xlabel: str
    ylabel: str
    y: str = ""
    xs: list[str] = field(default_factory=list)
    ys: list[str] = field(default_factory=list)
    paper: str | None = None
    paper_xlabel: str = ""  # where the paper's axes are not ours
    paper_ylabel: str = ""
    log: bool = False
    along: Literal["", "tokens", "flops", "all_flops", "seconds"] = ""  # all_flops: with the teacher's
    rows: list[str] = field(default_factory=list)  # of `along`: those that are drawn; none are all


@dataclass(frozen=True)
class Scale:
    """Seeds of every row, overrides on top of recipes/scales/<scale>.yaml for all rows alike, and a remark for the page.

    A folder of recipes with scales/ of its own has those instead.
    rows, needs: overrides of single rows and needs at this scale. given: needs that are not run here but had by a name (of the
    hub, or a folder), which takes the place of `${needs.NAME}`.
    devices: how many the recipe's batch is meant for (the tokens of a step are context × batch × accumulate × devices).
    x: of rows whose place in the figure depends on the scale, theirs at this one.
    recipes: those that take the place of others here, for rows and needs: what stands in for the paper's net and data elsewhere.
    """

    seeds: list[int]
    overrides: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    devices: int = 1
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    x: dict[str, float] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """One table or figure. `name` is the file's stem, `table-<paper>-<n>` or `figure-<paper>-<n>`.

    like: a spec that it shares runs with: its needs, what rows of the same name do, and at the scales that are named here its
    seeds and settings, on top of which is put what is said here.
    alone: its runs are measured one at a time, with the machine for themselves.
    """

    name: str
    title: str
    source: Source
    recipe: str  # path from the repository's root
    runs: dict[str, Row]
    metrics: list[Metric]
    claims: list[Claim]
    scales: dict[str, Scale]
    needs: dict[str, Need] = field(default_factory=dict)
    panels: list[Panel] = field(default_factory=list)
    like: str = ""
    alone: bool = False


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
    needs: tuple["Run", ...] = ()
    verb: str = ""  # a need's own
    given: tuple[str, ...] = ()  # folders of this repository that stand for needs

    @cached_property
    def key(self) -> str:
        """What the run is, whatever spec asks for it: a digest of its configuration as written (needs by their keys, folders that
        are given by what is in them)."""
        given = {folder: contents(ROOT / folder) for folder in self.given}
        return identity({**self.config(), **({"given": given} if given else {})})

    @property
    def name(self) -> str:
        """Of its folder under runs/<recipe>."""
        return f"{self.row}-{self.key}-s{self.seed}"

    @property
    def trains(self) -> bool:
        """Whether it takes training steps; else it measures a saved net, or prepares something."""
        return not self.verb and self.config().get("trainer", {}).get("max_steps") != 0

    def arguments(self, extra: dict[str, Any] | None = None, saved: dict[str, str] | None = None) -> list[str]:
        """What `zoo` is given: ["fit", "-c", …, "--key=value", …]; `saved`: key of a need -> folder of its saved net.

        A run of no steps measures a saved net: ["test", …].
        """
        layered = [word for file in self.files for word in ("-c", file)]
        folders = {need.row: (saved or {}).get(need.key, f"runs/{need.recipe}/{need.name}/pretrained") for need in self.needs}
        settings = {**_filled_in(self.overrides, folders, f"runs/{self.recipe}/{self.name}/pretrained"), **(extra or {})}
        verb = self.verb or ("test" if self.overrides.get("trainer.max_steps") == 0 else "fit")
        return [*verb.split(), *layered, *(f"--{key}={spelt(value)}" for key, value in settings.items())]

    @property
    def command(self) -> str:
        return shlex.join(["zoo", *self.arguments()])

    def config(self, saved: dict[str, str] | None = None) -> dict:
        """The layered configuration as written: the files merged in order, then the overrides. It names the run.

        saved: key of a need -> folder of what it left, which then stands where its key does.
        """
        merged: dict = {}
        for file in self.files:
            merge(merged, read(ROOT / file, ROOT))
        if self.verb:
            merged = {section: merged[section] for section in read(ROOT / self.files[0], ROOT)}
        folders = {need.row: (saved or {}).get(need.key, f"need {need.key}") for need in self.needs}
        for key, value in _filled_in(self.overrides, folders).items():
            for part in reversed(key.split(".")):
                value = {part: value}
            merge(merged, value)
        return merged


@cache
def contents(folder: Path) -> str:
    """A digest of a folder's files but those that tell about them (about*, cards, *.md, hidden); empty where there is none."""
    tells = lambda path: path.suffix == ".md" or path.parts[0].startswith(("about", "cards", "."))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not tells(path.relative_to(folder)))
    lines = (f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12] if files else ""


def identity(config: dict) -> str:
    """The key of a layered configuration (seed included), whatever the order of its keys: 12 hex digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


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
    spec = typed(Spec, {**_shared(read(path, ROOT), path), "name": path.stem}, "", path.name)
    rows, keys = list(spec.runs), [key for metric in spec.metrics for key in metric.keys]
    for name, row in spec.runs.items():
        for key in row.paper.cells if row.paper else ():
            _known(key, keys + [panel.paper for panel in spec.panels if panel.paper], f"runs.{name}.paper.cells", path.name)
        for scale in row.scales or ():
            _known(scale, list(spec.scales), f"runs.{name}.scales", path.name)
        if row.baseline:
            _known(row.baseline, rows, f"runs.{name}.baseline", path.name)
    given = [(f"runs.{name}.overrides", row.overrides) for name, row in spec.runs.items()]
    given += [(f"needs.{name}.overrides", need.overrides) for name, need in spec.needs.items()]
    recipes = [spec.recipe, *(row.recipe for row in spec.runs.values() if row.recipe), *(n.recipe for n in spec.needs.values())]
    for name, scale in spec.scales.items():
        for one in scale.recipes:
            _known(one, recipes, f"scales.{name}.recipes", path.name)
        for one in scale.x:
            _known(one, [row for row in rows if spec.runs[row].x is not None], f"scales.{name}.x", path.name)
        for kind, single, known in (("rows", scale.rows, rows), ("needs", scale.needs, list(spec.needs))):
            given += [(f"scales.{name}.{kind}.{one}", overrides) for one, overrides in single.items()]
            for one in [*single, *(scale.given if kind == "needs" else ())]:
                _known(one, known, f"scales.{name}.{kind}", path.name)
    for place, overrides in given:
        for word in _needed(overrides):
            _known(word, list(spec.needs), place, path.name)
    for i, claim in enumerate(spec.claims):
        for scale in claim.scales or ():
            _known(scale, list(spec.scales), f"claims[{i}].scales", path.name)
        for row in claim.rows:
            _known(row, rows, f"claims[{i}].rows", path.name)
        for key in claim.metrics:
            _known(key, keys, f"claims[{i}].metrics", path.name)
        if claim.kind in ("better", "within") and len(claim.rows) != 2:
            raise ValueError(f"{path.name}: claims[{i}] compares two rows, not {len(claim.rows)}.")
        if claim.kind == "monotone" and len(claim.rows) < 2:
            raise ValueError(f"{path.name}: claims[{i}] compares two rows or more, not {len(claim.rows)}.")
        if claim.kind == "rising" and len(claim.metrics) < 2:
            raise ValueError(f"{path.name}: claims[{i}] compares two metrics or more, not {len(claim.metrics)}.")
        if claim.kind == "agrees" and len(claim.metrics) != 2:
            raise ValueError(f"{path.name}: claims[{i}] compares two metrics, not {len(claim.metrics)}.")
    for name, scale in spec.scales.items():
        if not scale.seeds:
            raise ValueError(f"{path.name}: scales.{name}.seeds is empty: name at least one.")
    for i, panel in enumerate(spec.panels):
        if panel.along and not panel.y:
            raise ValueError(f"{path.name}: panels[{i}].along is of one y: name it.")
        if bool(panel.y) == bool(panel.ys) or len(panel.xs) != len(panel.ys):
            raise ValueError(f"{path.name}: panels[{i}] names one y, or as many xs as ys.")
        for word, each in [("y", [panel.y] if panel.y else []), ("xs", panel.xs), ("ys", panel.ys), ("rows", panel.rows)]:
            for key in each:
                _known(key, rows if word == "rows" else keys, f"panels[{i}].{word}", path.name)
    return spec


def _shared(own: dict, path: Path) -> dict:
    """A spec as read, with what it takes from the one that it is `like`. Papers' cells are its own."""
    if "like" not in own:
        return own
    other = path.parent / f"{own['like']}.yaml"
    if not other.is_file():
        raise ValueError(
            f"{path.name}: like names {own['like']!r}{nearest(str(own['like']), [p.stem for p in path.parent.glob('*.yaml')])}"
        )
    base = _shared(read(other, ROOT), other)
    rows = {name: dict(row) for name, row in base["runs"].items()}
    for row in rows.values():
        row.pop("paper", None)
    runs = {name: {**rows.get(name, {}), **(row or {})} for name, row in own.get("runs", {}).items()}
    scales = {}
    for name, scale in own.get("scales", {}).items():
        scales[name] = apart(base["scales"].get(name, {}))
        for key in ("rows", "x"):
            scales[name][key] = {row: value for row, value in scales[name].get(key, {}).items() if row in runs}
        merge(scales[name], scale or {})
    return {**own, "needs": {**base.get("needs", {}), **own.get("needs", {})}, "runs": runs, "scales": scales}


def expand(spec: Spec, scale: str) -> list[Run]:
    """Every run of the spec at this scale, seed by seed, so that an interrupted sweep leaves whole tables.

    Raises:
        ValueError: the spec does not define this scale, or its needs go round in a circle.
    """
    if scale not in spec.scales:
        raise ValueError(f"{spec.name} has no scale {scale!r}{nearest(scale, spec.scales)}")
    about = spec.scales[scale]

    def made(name: str, row: Row | Need, seed: int, above: tuple[str, ...] = ()) -> Run:
        if name in above:
            raise ValueError(f"{spec.name}: the needs {' -> '.join([*above, name])} go round in a circle.")
        is_need, verb = isinstance(row, Need), row.verb if isinstance(row, Need) else ""
        seed = row.seed if isinstance(row, Need) and row.seed is not None else seed
        own = {**row.overrides, **(about.needs if is_need else about.rows).get(name, {})}
        needs = tuple(made(word, spec.needs[word], seed, (*above, name)) for word in _needed(own) if word not in about.given)
        given = tuple(about.given[word] for word in _needed(own) if word in about.given)
        given = tuple(sorted({each for each in given if (ROOT / each.split("/")[0]).is_dir()}))  # others are names of the hub
        own = _filled_in(own, {**{need.row: f"${{needs.{need.row}}}" for need in needs}, **about.given})
        recipe = about.recipes.get(row.recipe or spec.recipe, row.recipe or spec.recipe)
        word = "-".join(Path(recipe).with_suffix("").parts[1:])
        of_data = {key: value for key, value in about.overrides.items() if key.startswith("data.")}
        overrides = {**of_data, **own} if verb else {"seed_everything": seed, **about.overrides, **own}
        own_scale = f"{Path(recipe).parent.as_posix()}/scales/{scale}.yaml"  # of nets that are not of tokens
        overlay = own_scale if (ROOT / own_scale).is_file() else f"recipes/scales/{scale}.yaml"
        return Run(spec.name, word, name, scale, seed, (recipe, overlay), overrides, needs, verb, given)

    here = {name: row for name, row in spec.runs.items() if row.scales is None or scale in row.scales}
    return [made(name, row, seed) for seed in spec.scales[scale].seeds for name, row in here.items()]


def _needed(overrides: dict[str, Any]) -> list[str]:
    """Names of the needs that these values name."""
    return list(dict.fromkeys(word for value in overrides.values() for word in _NEED.findall(str(value))))


def _filled_in(overrides: dict[str, Any], words: dict[str, str], out: str = OUT) -> dict[str, Any]:
    """The overrides with each `${needs.NAME}` replaced, and `${out}`, also inside lists and sections."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        if isinstance(value, list):
            return [put(each) for each in value]
        return _NEED.sub(lambda m: words[m[1]], value).replace(OUT, out) if isinstance(value, str) else value

    return {key: put(value) for key, value in overrides.items()}


def _known(word: str, known: list[str], place: str, file: str) -> None:
    if word not in known:
        raise ValueError(f"{file}: {place} names {word!r}, which the spec does not define{nearest(word, known)}")
