"""A record is one JSON file per run, written once, whole, and never changed.

Two places: what a user's own smoke and laptop runs leave lies under runs/records (ignored by git); the results of the other
scales lie under benchmarks/results and are committed. The file is <place>/<recipe>/<run>-<hash>-s<seed>.json, the hash that of
configuration, data fingerprint and seed. A repetition goes beside it as ….2.json, ….3.json; readers take the newest that is ok.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import sys
import tokenize
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from benchmarks.spec import ROOT
from benchmarks.typed import typed
from zoo.files import put_new

CHECKOUT = Path(__file__).resolve().parents[1]  # where the code that runs is, wherever specs and records are

OWN_SCALES = ("smoke", "laptop")
OF_TRAINING = ("zoo/meter.py", "zoo/optim.py")  # a run of no steps imports them, and calls nothing in them
VERBS = ("zoo/__main__.py",)  # it hands words on; what a verb does is in a file of its own
MEASURED_TIMES = ("seconds", "tokens_per_second", "step_seconds")
TIMES = (
    *MEASURED_TIMES,
    "test/speedup",
    "test/decoded_per_second",
    "test/sentence_seconds",
    "test/read_seconds",
)  # those of tests with @ and a number
MEASURED = (
    *MEASURED_TIMES,
    "parameters",
    "tokens",
    "flops",
    "teacher_flops",
    "all_flops",
    "peak_memory_mib",
    "allocated_mib",
    "epochs",
)
CROWD = 0.15  # cores of a CPU that trains


@dataclass(frozen=True)
class Record:
    """What one run was and what it measured. A failed run has an error sentence and may lack the rest."""

    recipe: str
    run: str  # the row's name
    scale: str
    seed: int
    key: str  # of the configuration as written, seed included: known before the run
    command: str
    status: Literal["ok", "failed"]
    date: str  # UTC
    error: str = ""
    config: dict[str, Any] = field(default_factory=dict)  # resolved: defaults and links filled in
    data: dict[str, str] = field(default_factory=dict)  # description, fingerprint
    commit: str | None = None
    dirty: bool = False  # zoo/ or recipes/ differed from the commit
    code: dict[str, str] = field(default_factory=dict)  # file under zoo/ -> hash, of the modules that were imported
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    parameters: int = 0
    tokens: int = 0
    flops: float = 0.0
    teacher_flops: float = 0.0  # of another net that made what it learned from, each window once
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    step_seconds: float = 0.0  # median
    peak_memory_mib: float = 0.0  # of the process, or of the card
    allocated_mib: float = 0.0  # what torch's allocator held at most in a training step
    epochs: float = 0.0  # passes over the training text
    crowd: float | None = None  # cores that other processes kept busy meanwhile
    threads: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list[list[float]]] = field(default_factory=dict)  # metric -> [[tokens, value], …] at each validation
    needs: list[str] = field(default_factory=list)  # keys of the runs it started from

    @property
    def all_flops(self) -> float:
        return self.flops + self.teacher_flops

    @property
    def quiet(self) -> bool:
        """Whether it had the machine for itself, so that its times mean something. On a GPU it has: a run has the card alone."""
        return not self.device.endswith("threads") or (self.crowd is not None and self.crowd <= CROWD)

    def value(self, key: str) -> float | None:
        """A metric by its logged name, or a measured number by its field's name; None when this run has none.

        Times of a run that shared its machine are no numbers either: other processes would be in them.
        """
        if key.split("@")[0] in TIMES and not self.quiet:
            return None
        if key in MEASURED:
            return getattr(self, key) or None
        return self.metrics.get(key)

    @property
    def folder(self) -> Path:
        """Where its logs, checkpoints and saved net are, on the machine that made it."""
        return ROOT / "runs" / self.recipe / f"{self.run}-{self.key}-s{self.seed}"


def folder(scale: str) -> Path:
    """Where records of this scale live."""
    return ROOT / "runs" / "records" if scale in OWN_SCALES else ROOT / "benchmarks" / "results"


def save(record: Record, place: Path) -> Path:
    """Write the record under `place`; the file appears whole or not at all, and replaces nothing."""
    stem = f"{record.run}-{digest(record.key + record.data.get('fingerprint', ''))}-s{record.seed}"
    text = json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False)
    return put_new(place / record.recipe / f"{stem}.json", lambda draft: draft.write_text(text, encoding="utf-8"))


def load(place: Path) -> tuple[list[Record], list[str]]:
    """All records under `place`, oldest first, and one sentence for each file that is none."""
    records, complaints = [], []
    for path in sorted(place.rglob("*.json")):
        try:
            records.append(parse(path.read_text(encoding="utf-8"), path.name))
        except (ValueError, RecursionError) as error:
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            complaints.append(f"{name} is not a readable record ({error}): delete it, or restore it from git, and run again.")
    return sorted(records, key=lambda r: r.date), complaints


def parse(text: str | bytes, name: str) -> Record:
    """The record that a file's text spells; ValueError in one sentence if it is none. Fields of later versions are left out."""
    content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    if isinstance(content, dict):
        known = {f.name for f in fields(Record)}
        content = {key: value for key, value in content.items() if key in known}
    made = typed(Record, content, "", name)
    if made.status == "ok" and not {"description", "fingerprint"} <= made.data.keys():
        raise ValueError("an ok record says what data it is of")
    return made


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refuse(word)


def _refuse(word: str) -> float:
    raise ValueError(f"it holds {word}")


def finished(records: Iterable[Record]) -> dict[str, Record]:
    """The newest ok record of each key."""
    return {r.key: r for r in sorted(records, key=lambda r: r.date) if r.status == "ok"}


def provenance() -> dict[str, Any]:
    """Commit, dirty flag, imported code, versions and date, as a record wants them."""
    packages = ("torch", "lightning", "numpy", "tokenizers")
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in packages}
    bundle = CHECKOUT / "bundle.json"  # there is no git in a bundle, which says what it was made of
    if bundle.exists():
        made = json.loads(bundle.read_text(encoding="utf-8"))
        commit, dirty = made["commit"], made["dirty"]
    else:
        commit, dirty = _git("rev-parse", "HEAD") or None, bool(_git("status", "--porcelain", "--", "zoo", "recipes"))
    return {
        "commit": commit,
        "dirty": dirty,
        "code": imported_code(),
        "versions": {"python": platform.python_version(), **installed},
        "date": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
    }


def imported_code() -> dict[str, str]:
    """File under the repository -> hash of its code, for every module of `zoo` that is imported."""
    sources = (getattr(m, "__file__", None) for name, m in list(sys.modules.items()) if name.split(".")[0] == "zoo")
    files = sorted({Path(source).resolve() for source in sources if source})
    return {os.path.relpath(path, CHECKOUT): code_hash(path) for path in files}


def changed(record: Record) -> list[str]:
    """Files of `zoo` that the run imported and whose code has changed, or gone, since: the record is stale if there are any.

    What is at work in training alone does not count where a saved net was measured; nor does what tells verbs apart.
    """
    unused = VERBS + (OF_TRAINING if record.config.get("trainer", {}).get("max_steps") == 0 else ())
    files = {name: CHECKOUT / name for name in record.code if name not in unused}
    return sorted(name for name, file in files.items() if not file.exists() or code_hash(file) != record.code[name])


@functools.cache
def code_hash(path: Path) -> str:
    """Digest of a file's code: comments, docstrings and blank space at line ends change no number, so they do not count."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type != tokenize.NL]
    comments = [t for t in tokens if t.type == tokenize.COMMENT]
    code = [t for t in tokens if t.type != tokenize.COMMENT]
    between = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    words = [
        token
        for i, token in enumerate(code[:-1])
        if token.type == tokenize.STRING and (i == 0 or code[i - 1].type in between) and code[i + 1].type == tokenize.NEWLINE
    ]
    for token in sorted([*comments, *words], key=lambda t: t.start, reverse=True):
        (top, left), bottom = token.start, token.end[0]
        lines[top - 1 : bottom] = [lines[top - 1][:left]]  # both end their line
    return digest("\n".join(line for line in map(str.rstrip, lines) if line))


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]


def _git(*words: str) -> str:
    """What git prints; nothing outside a clone, or on a machine without git."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
