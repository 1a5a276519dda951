"""Says whether stale records still hold: `python -m benchmarks.replay SPEC [--scale desk]`.

A record is stale when code of zoo/ that made it has changed since. Often that code was only moved, or something was added beside
it, and to train for hours again would give the same numbers. So every row with stale records is begun twice, by the code of the
commit that made them and by the code as it is now: a few training steps, a validation and a short test with the settings of the
record. Where all losses and scores are equal, a replay is written to benchmarks/replays (committed), and the page says "replayed"
in place of "stale". Where they are not, the differences are printed and the records stay stale. Times are of the old code in any
case; a spec that is about times has to be run again.
"""

import argparse
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import record
from benchmarks.record import TIMES, Record
from benchmarks.spec import ROOT, Spec, load, spelt
from benchmarks.typed import typed

STEPS = 3
TOLERANCE = 1e-6  # relative; what was merely moved differs by 0
# What a run is cut to. Without a warm-up, so that the steps move the weights.
CUT = {
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": STEPS,
    "trainer.limit_val_batches": 2,
    "trainer.limit_test_batches": 2,
    "data.init_args.eval_bytes": 100_000,
    "model.init_args.warmup": 1,
}
# Runs in a process with either code first on its path, so it may not import this package.
CHILD = """
import json, sys
import lightning as L
import zoo.cli

class Losses(L.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))

losses = Losses()
cli = zoo.cli.main(json.loads(sys.argv[1]), [losses])
numbers = {f"loss of step {i}": loss for i, loss in enumerate(losses.found, 1)}
numbers |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
numbers |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
numbers["parameters"] = float(sum(p.numel() for p in cli.model.net.parameters()))
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "zoo" and getattr(m, "__file__", None)]
with open(sys.argv[2], "w") as file:
    json.dump({"numbers": numbers, "files": files}, file)
"""


@dataclass(frozen=True)
class Replay:
    """A row that was begun by the code `before` and by the code `after` (file -> hash), with equal numbers.

    keys: of the records it stands for, one a seed. compared: how many numbers; difference: the largest relative one.
    """

    recipe: str
    run: str
    keys: list[str]
    before: dict[str, str]
    after: dict[str, str]
    steps: int
    compared: int
    difference: float
    commit: str  # of `before`
    date: str  # UTC


def folder() -> Path:
    return record.CHECKOUT / "benchmarks" / "replays"


@functools.cache
def replays(place: Path) -> tuple[Replay, ...]:
    """All replays under `place`."""
    paths = sorted(place.rglob("*.json"))
    return tuple(typed(Replay, json.loads(path.read_text(encoding="utf-8")), "", path.name) for path in paths)


def stale(made: Record) -> list[str]:
    """Files of zoo/ that changed since the record was made, unless a replay compared its code with the code as it is now."""
    files = record.changed(made)
    compared = [each for each in replays(folder()) if made.key in each.keys and each.before == made.code] if files else []
    return [] if any(not record.changed(replace(made, code=each.after)) for each in compared) else files


def replayed(made: Record) -> bool:
    """Whether the record is of older code, and replays say that its numbers are those of the code as it is now."""
    return bool(record.changed(made)) and not stale(made)


def cut(made: Record, spec: Spec) -> list[str]:
    """What `zoo` is given for the beginning of this record's run: its own words, then what cuts it short."""
    words = [word for word in shlex.split(made.command)[1:] if not word.startswith("--trainer.logger.")]
    changed = {**CUT, "trainer.logger.init_args.version": f"replay-{made.key}"}
    quick = spec.scales["smoke"].overrides.get("trainer.callbacks") if "smoke" in spec.scales else None
    if quick and any(word.startswith("--trainer.callbacks=") for word in words):
        changed["trainer.callbacks"] = quick  # the same scores of fewer problems
    return words + [f"--{key}={spelt(value)}" for key, value in changed.items()]


def differences(old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    """By name the relative difference of each number of `old` from that in `new` (infinite where there is none); no times."""
    found = {}
    for name, value in old.items():
        if name.split("@")[0] not in TIMES:
            other = new.get(name, float("nan"))
            scale = max(abs(value), abs(other), 1e-12)
            found[name] = float("inf") if other != other else abs(value - other) / scale
    return found


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The code of a commit in a folder of its own, with this checkout's token stores."""
    with tempfile.TemporaryDirectory(prefix="zoo-replay-") as place:
        tree = Path(place) / "then"
        done = subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"the code of commit {commit[:10]} is not in this clone ({done.stderr.strip()}): fetch its history.")
        try:
            (ROOT / "data").mkdir(exist_ok=True)
            os.symlink(ROOT / "data", tree / "data")
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, capture_output=True)


def begin(words: list[str], tree: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Begin a run with the code in `tree`: its numbers, and the hashes of the files of zoo/ that it imported."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        command = [sys.executable, "-c", CHILD, json.dumps(words), out.name]
        done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ValueError(f"a replay failed: {said[-1] if said else f'exit status {done.returncode}'}")
        found = json.loads(out.read())
    paths = sorted({Path(file).resolve() for file in found["files"]})
    return found["numbers"], {path.relative_to(tree.resolve()).as_posix(): record.code_hash(path) for path in paths}


def replay(made: list[Record], spec: Spec) -> Replay:
    """Replay records of one row, of the same code and different seeds; ValueError says why they stay stale."""
    first = made[0]
    if first.dirty or not first.commit:
        raise ValueError("its code was never committed as it was: run it again.")
    if not first.tokens:
        raise ValueError("it measures a saved net and trains nothing: run it again.")
    words = cut(first, spec)
    with checkout(first.commit) as tree:
        lost = [name for name, digest in first.code.items() if record.code_hash(tree / name) != digest]
        if lost:
            raise ValueError(f"{lost[0]} of commit {first.commit[:10]} is not the code that made it: run it again.")
        old, _ = begin(words, tree)
    try:
        new, after = begin(words, ROOT)
    finally:
        for left in (ROOT / "runs").glob(f"*/replay-{first.key}"):
            shutil.rmtree(left)
    found = differences(old, new)
    wrong = {name: gap for name, gap in found.items() if gap > TOLERANCE}
    if wrong:
        listed = ", ".join(f"{name} {old[name]:.8g} then, {new.get(name, float('nan')):.8g} now" for name in list(wrong)[:3])
        raise ValueError(f"{len(wrong)} of {len(found)} numbers differ ({listed}): run it again.")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    keys = sorted(each.key for each in made)
    return Replay(first.recipe, first.run, keys, first.code, after, STEPS, len(found), max(found.values()), first.commit, now)


def save(made: Replay) -> Path:
    """Write the replay; it takes the place of an earlier one of the same records."""
    path = folder() / made.recipe / f"{made.run}-{record.digest(' '.join(made.keys))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(made), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    replays.cache_clear()
    return path


def groups(spec: Spec, scale: str, records: list[Record]) -> list[list[Record]]:
    """The stale records of a spec's page, those of one row and one code together."""
    from benchmarks.cells import Results

    found: dict[tuple, list[Record]] = {}
    for made in Results(spec, scale, records).used:
        if stale(made):
            found.setdefault((made.recipe, made.run, made.commit, tuple(sorted(made.code.items()))), []).append(made)
    return [sorted(group, key=lambda r: r.seed) for group in found.values()]


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="name of a file in benchmarks/specs, without .yaml")
    parser.add_argument("--scale", default="desk", help="one of the spec's scales (default: %(default)s)")
    given = parser.parse_args(args)
    try:
        spec = load(given.spec)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.replay: {error}", file=sys.stderr)
        return 2
    if spec.alone:
        print(f"{spec.name} is about times, which are of the code that took them: make reproduce-{spec.name} runs it again.")
        return 1
    records, _ = record.load(record.folder(given.scale))
    todo, stays = groups(spec, given.scale, records), 0
    for group in todo:
        name = f"{group[0].run}, seed{'s' * (len(group) > 1)} {', '.join(str(r.seed) for r in group)}"
        try:
            made = replay(group, spec)
        except ValueError as error:
            print(f"{name}: stays stale, {error}", flush=True)
            stays += 1
            continue
        save(made)
        print(f"{name}: {made.compared} numbers of {STEPS} steps are equal (largest relative difference {made.difference:.1g})")
    if not todo:
        print(f"{spec.name} has no stale record at scale {given.scale}.")
    elif given.scale not in record.OWN_SCALES:
        from benchmarks import report

        report.main([])
    return int(bool(stays))


if __name__ == "__main__":
    sys.exit(main())
