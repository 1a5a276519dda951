"""Says whether stale records still hold: `python -m benchmarks.replay SPEC [--scale desk]`.

A record is stale when code of zoo/ that made it has changed since. Often that code was only moved, or something was added
beside it, and to train for hours again would give the same numbers. So every row with stale records is begun twice, by the code
of the commit that made them and by the code as it is now, each from a store that it builds itself (a small one, but all of it
where the row starts from a saved net; rows of one replay share it): a few training steps, a validation and a short test,
otherwise with the settings of the record. Where losses, scores, weights, the optimizer's state and what was sampled are equal
to the last digit, a replay is written to benchmarks/replays (committed), and the page says "replayed" in place of "stale".
Where they are not, the differences are printed and the records stay stale. What a few steps cannot show is not claimed: times
are of the old code, and a change in zoo/evals, whose scores are trivial for so young a net, is never cleared.
"""

import argparse
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import yaml

from benchmarks import record
from benchmarks.layers import spelt
from benchmarks.record import TIMES, Record
from benchmarks.spec import ROOT, Spec, expand, load
from benchmarks.typed import typed
from zoo.files import put

STEPS = 3
# What a run is cut to. Without a warm-up, so that the steps move the weights.
CUT = {
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": STEPS,
    "trainer.limit_val_batches": 2,
    "trainer.limit_test_batches": 2,
    "data.init_args.megabytes": 4,
    "data.init_args.eval_bytes": 100_000,
    "data.init_args.eval_sentences": 64,  # of data that have it
    "model.init_args.warmup": 1,
}
# Runs in a process with either code first on its path, so it may not import this package.
CHILD = """
import hashlib, json, math, sys
from pathlib import Path
import lightning as L
import zoo.cli

class Losses(L.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))

def squares(tensors):
    return math.fsum(float(t.detach().double().square().sum()) for t in tensors)

losses = Losses()
cli = zoo.cli.main(json.loads(sys.argv[1]), [losses])
numbers = {f"loss of step {i}": loss for i, loss in enumerate(losses.found, 1)}
numbers |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
numbers["weights"] = squares(cli.model.net.parameters())
states = [s for o in cli.trainer.optimizers for s in o.state.values()]
numbers["optimizer"] = squares(t for state in states for t in state.values() if hasattr(t, "square"))
cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
numbers |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
numbers["parameters"] = float(sum(p.numel() for p in cli.model.net.parameters()))
for path in sorted(Path(cli.trainer.log_dir or ".").glob("samples/*.jsonl")):
    texts = [json.loads(line)["completion"] for line in path.read_text().splitlines()]
    numbers[f"{path.stem.split('-')[0]} samples"] = float(int(hashlib.sha256(repr(texts).encode()).hexdigest()[:12], 16))
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "zoo" and getattr(m, "__file__", None)]
with open(sys.argv[2], "w") as file:
    json.dump({"numbers": numbers, "files": files}, file)
"""
_SAVED = re.compile(r"(?<![\w./-])runs/[\w./-]*/pretrained")


@dataclass(frozen=True)
class Replay:
    """A row that was begun by the code `before` and by the code `after` (file -> hash), with equal numbers.

    keys: of the records it stands for, one a seed. compared: how many numbers that were not 0; commit: of `before`; date: UTC.
    """

    recipe: str
    run: str
    keys: list[str]
    before: dict[str, str]
    after: dict[str, str]
    steps: int
    compared: int
    commit: str
    date: str
    versions: dict[str, str]


def folder() -> Path:
    return record.CHECKOUT / "benchmarks" / "replays"


@functools.cache
def replays(place: Path) -> tuple[Replay, ...]:
    """All replays under `place`. ValueError for a file that is none."""
    found = []
    for path in sorted(place.rglob("*.json")):
        try:
            found.append(typed(Replay, json.loads(path.read_text(encoding="utf-8")), "", path.name))
        except ValueError as error:
            raise ValueError(f"{path.name} is not a readable replay ({error}): delete it, or restore it from git.") from None
    return tuple(found)


def vouching(made: Record) -> Replay | None:
    """The replay that compared the code of this record with the code as it is now."""
    known = [each for each in replays(folder()) if made.key in each.keys and each.before == made.code]
    return next((each for each in known if not record.changed(replace(made, code=each.after))), None)


def stale(made: Record) -> list[str]:
    """Files of zoo/ that changed since the record was made, unless a replay vouches for it."""
    files = record.changed(made)
    return [] if files and vouching(made) else files


def replayed(made: Record) -> bool:
    """Whether the record is of older code, and a replay says that its numbers are those of the code as it is now."""
    return bool(record.changed(made)) and vouching(made) is not None


def cut(made: Record, spec: Spec) -> list[str]:
    """What `zoo` is given for the beginning of this record's run: its own words, then what cuts it short."""
    words = [word for word in shlex.split(made.command)[1:] if not word.startswith("--trainer.logger.")]
    data = made.config.get("data", {}).get("init_args", {})
    fits = lambda key: not key.startswith("data.") or key.rpartition(".")[2] in data  # tokens and sentences are cut differently
    changed = {key: value for key, value in CUT.items() if fits(key)}
    if _SAVED.search(" ".join(words)):  # a saved net has the tokenizer of all the text, and labels have its windows
        changed = {key: value for key, value in changed.items() if not key.startswith("data.")}
    changed["trainer.logger.init_args.version"] = f"replay-{made.key}"
    own = [word.partition("=")[2] for word in words if word.startswith("--trainer.callbacks=")]
    if own:  # the same callbacks, as short as the smoke scale has them
        smoke = spec.scales["smoke"].overrides if "smoke" in spec.scales else {}
        quick = {each["class_path"]: each for each in smoke.get("trainer.callbacks", [])}
        changed["trainer.callbacks"] = [quick.get(each["class_path"], each) for each in yaml.safe_load(own[-1])]
    return words + [f"--{key}={spelt(value)}" for key, value in changed.items()]


def differences(old: dict[str, float], new: dict[str, float]) -> list[str]:
    """Names of the numbers of `old` that `new` has not, or not to the last digit."""
    equal = lambda a, b: a == b or (a != a and b is not None and b != b)
    return [name for name, value in old.items() if not equal(value, new.get(name))]


@contextmanager
def checkout(commit: str, nets: list[str]) -> Iterator[Path]:
    """The code of a commit in a folder of its own, with the saved nets of this checkout that a run starts from."""
    with tempfile.TemporaryDirectory(prefix="zoo-replay-") as place:
        tree = Path(place) / "then"
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, capture_output=True)
        done = subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"the code of commit {commit[:10]} is not in this clone ({done.stderr.strip()}): fetch its history.")
        try:
            for net in nets:
                (tree / net).parent.mkdir(parents=True)
                os.symlink(ROOT / net, tree / net)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, capture_output=True)


def begin(words: list[str], tree: Path, root: Path | None) -> tuple[dict[str, float], dict[str, str]]:
    """Begin a run with the code in `tree`: its numbers, and the hashes of the files of zoo/ that it imported.

    root: where its text is put, or was by an earlier one; None: it keeps none."""
    with tempfile.TemporaryDirectory(prefix="zoo-replay-") as place:
        out = Path(place) / "found.json"
        words = words if root is None else [*words, f"--data.init_args.root={root}"]
        command = [sys.executable, "-c", CHILD, json.dumps(words), out]
        done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ValueError(f"a replay failed: {said[-1] if said else f'exit status {done.returncode}'}")
        found = json.loads(out.read_text())
    paths = sorted({Path(file).resolve() for file in found["files"]})
    numbers = {name: value for name, value in found["numbers"].items() if name.split("@")[0] not in TIMES}
    return numbers, {path.relative_to(tree.resolve()).as_posix(): record.code_hash(path) for path in paths}


def replay(made: list[Record], spec: Spec, keys: Iterable[str] = (), stores: Path | None = None) -> Replay:
    """Replay records of one row, of the same code and different seeds; ValueError says why they stay stale.

    keys: of the row's other seeds, recorded or not: if the same code makes their records, the replay stands for them too.
    stores: where the replays before this one left what each code made of the text; None: nowhere.
    """
    first = made[0]
    _refuse(made)
    words = cut(first, spec)
    nets = sorted(set(_SAVED.findall(" ".join(words))))
    if lost := [net for net in nets if not (ROOT / net).exists()]:
        raise ValueError(f"it starts from {lost[0]}, which is not here: run it again.")
    with nullcontext(stores) if stores else tempfile.TemporaryDirectory(prefix="zoo-replay-") as place:
        stored = "root" in first.config["data"]["init_args"]
        root = lambda code: Path(place) / code if stored else None
        with checkout(first.commit, nets) as tree:
            if lost := [name for name, code in first.code.items() if record.code_hash(tree / name) != code]:
                raise ValueError(f"{lost[0]} of commit {first.commit[:10]} is not the code that made it: run it again.")
            old, reached = begin(words, tree, root(first.commit))
        began = _code()
        try:
            new, after = begin(words, ROOT, root(began))
        finally:
            for left in (ROOT / "runs").glob(f"*/replay-{first.key}"):
                shutil.rmtree(left)
    if _code() != began:
        raise ValueError("zoo/ was changed while it was replayed: replay it again, and leave the code alone meanwhile.")
    changed = record.changed(first)
    if hidden := [name for name in changed if name not in reached or (name not in after and (ROOT / name).exists())]:
        raise ValueError(f"{hidden[0]} changed and its first steps do not reach it: run it again.")
    if wrong := differences(old, new):
        listed = ", ".join(f"{name} {old[name]:.17g} then, {new.get(name, float('nan')):.17g} now" for name in wrong[:3])
        raise ValueError(f"{len(wrong)} of {len(old)} numbers differ ({listed}): run it again.")
    kept = {name: code for name, code in first.code.items() if name not in changed}  # also what these steps did not import
    now = record.provenance()
    date, versions = datetime.now(timezone.utc).isoformat(timespec="seconds"), now["versions"]
    told = sum(value != 0 for value in old.values())
    keys = sorted({*keys, *(each.key for each in made)})
    return Replay(first.recipe, first.run, keys, first.code, {**kept, **after}, STEPS, told, first.commit, date, versions)


def _code() -> str:
    """Digest of zoo/ as it is at this moment."""
    record.code_hash.cache_clear()
    return record.digest(str([(file.name, record.code_hash(file)) for file in sorted((ROOT / "zoo").rglob("*.py"))]))


def _refuse(made: list[Record]) -> None:
    """ValueError for records that a few steps on this machine say nothing of."""
    import torch

    first = made[0]
    if any(each.dirty or not each.commit for each in made):
        raise ValueError("its code was never committed as it was: run it again.")
    if not first.tokens:
        raise ValueError("it measures a saved net and trains nothing: run it again.")
    if first.device.endswith("threads") == torch.cuda.is_available():
        raise ValueError(f"it was measured on {first.device}, another kind of device than this machine's: replay it there.")
    data = first.config.get("data", {}).get("init_args", {})
    if data.get("source") not in ("installed", "stories") and "chains" not in data:
        raise ValueError("its text is neither the embedded one nor made up, which each code does for itself: run it again.")
    if scores := [name for name in record.changed(first) if name.startswith("zoo/evals/")]:
        raise ValueError(f"{scores[0]} changed, and what it scores is trivial for a net of {STEPS} steps: run it again.")


def save(made: Replay) -> Path:
    """Write the replay, whole or not at all; it takes the place of an earlier one of the same records."""
    path = folder() / made.recipe / f"{made.run}-{record.digest(' '.join(made.keys) + str(sorted(made.before.items())))}.json"
    put(path, lambda draft: draft.write_text(json.dumps(asdict(made), indent=1, sort_keys=True) + "\n", encoding="utf-8"))
    replays.cache_clear()
    return path


def groups(spec: Spec, scale: str, records: list[Record]) -> list[list[Record]]:
    """The stale records of a spec's page, those of one row and one code together."""
    from benchmarks.cells import Results

    found: dict[tuple, list[Record]] = {}
    for made in Results(spec, scale, records).used:
        if stale(made):
            found.setdefault((_unseeded(made.command), made.commit, tuple(sorted(made.code.items()))), []).append(made)
    return [sorted(group, key=lambda r: r.seed) for group in found.values()]


def _unseeded(command: str) -> tuple[str, ...]:
    """The words of a run that its seeds share."""
    return tuple(word for word in shlex.split(command) if not word.startswith(("--seed_everything=", "--trainer.logger.")))


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
    todo, runs, stays = groups(spec, given.scale, records), expand(spec, given.scale), 0
    with tempfile.TemporaryDirectory(prefix="zoo-replay-") as place:
        for group in todo:
            name = f"{group[0].run}, seed{'s' * (len(group) > 1)} {', '.join(str(r.seed) for r in group)}"
            keys = [run.key for run in runs if _unseeded(run.command) == _unseeded(group[0].command)]
            try:
                made = replay(group, spec, keys, Path(place))
            except ValueError as error:
                print(f"{name}: stays stale, {error}", flush=True)
                stays += 1
                continue
            save(made)
            print(f"{name}: {made.compared} numbers of {STEPS} steps are equal to the last digit", flush=True)
    if not todo:
        print(f"{spec.name} has no stale record at scale {given.scale}.")
    elif given.scale not in record.OWN_SCALES:
        from benchmarks import report

        report.main([])
    return int(bool(stays))


if __name__ == "__main__":
    sys.exit(main())
