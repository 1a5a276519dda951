"""Runs a spec: `python -m benchmarks.run table-mtp-1 --scale laptop [--jobs N] [--only ROW] [--seed N] [--again] [--plan]`.

Each run is a process of its own and leaves one record (benchmarks/record.py says where) and one folder of logs and checkpoints
under runs/. Runs that have an ok record of the same configuration, seed, data and code are skipped, whatever spec they were made
for, so an interrupted sweep continues where it stopped. A failing run is recorded as failed, and the others go on. At the end the
page is written, and printed short.
"""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks import jobs, record, replay
from benchmarks.child import bundled, carried, datamodule
from benchmarks.jobs import Job, clock
from benchmarks.record import Record
from benchmarks.spec import ROOT, Run, Spec, expand, identity, load
from benchmarks.typed import nearest

_PLACE = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+")  # folders from the root on


def sweep(
    spec: Spec,
    scale: str,
    only: list[str] | None = None,
    again: bool = False,
    count: int | None = None,
    seeds: list[int] | None = None,
) -> list[Record]:
    """Run what has no record yet, `count` at a time (default: one, or as many as there are GPUs), and return the new records.

    only, seeds: of these rows and seeds alone.
    """
    for row in only or ():
        if row not in spec.runs:
            raise ValueError(f"{spec.name} has no row {row!r}{nearest(row, spec.runs)}")
    for name, given in spec.scales[scale].given.items() if scale in spec.scales else ():
        if (ROOT / given.split("/")[0]).is_dir() and not (ROOT / given).exists():  # else it is a name of the hub
            raise ValueError(
                f"{spec.name} is given {given} for {name} at scale {scale}, and there is no such place here: put it there "
                f"(zoo {spec.needs[name].verb or 'fit'} makes one), or take a scale that makes its own"
            )
    place = record.folder(scale)
    runs = [run for run in expand(spec, scale) if (not only or run.row in only) and (not seeds or run.seed in seeds)]
    if unknown := set(seeds or ()) - {run.seed for run in runs}:
        raise ValueError(f"{spec.name} has no run of seed {min(unknown)} at scale {scale}")
    records, complaints = record.load(place)
    print(*complaints, f"{spec.name}: {spec.title}", sep="\n")
    gpus = _gpus()
    if count is not None and count < 1:
        raise ValueError(f"--jobs is at least 1, not {count}.")
    count = 1 if spec.alone else count or max(1, len(gpus))
    todo = _todo(runs, record.finished(records), again)
    asked = sum(run.key in todo for run in runs)
    print(f"{len(runs)} runs at scale {scale}, {len(runs) - asked} of them recorded before (--again repeats them)", flush=True)
    if len(todo) > asked:
        print(f"{len(todo) - asked} more that they need")
    made = _made(todo, records, place, spec.scales[scale].devices)
    new: list[Record] = []
    began = time.monotonic()

    def ended(job: Job) -> None:
        key = next(key for key, other in made.items() if other is job)
        new.append(_outcome(todo[key][0], job, place))

    def environment(slot: int) -> dict[str, str]:
        if gpus:  # a run has one, whatever the node has: its tokens a step are those of one device, unless its scale says more
            return {} if spec.scales[scale].devices > 1 else {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}
        return {"OMP_NUM_THREADS": "1"} if count > 1 else {}

    jobs.work(list(made.values()), count, ended, environment)
    failed = sum(r.status == "failed" for r in new)
    print(f"\nnew records: {len(new)} in {clock(time.monotonic() - began)}" + (f"; failed: {failed}" if failed else ""))
    return new


def _todo(runs: list[Run], done: dict[str, Record], again: bool = False) -> dict[str, tuple[Run, list[Run]]]:
    """By key: the runs without a valid record and those they need, needs first; each with the needs that run before it.

    again: the runs, but not what they need, count as if they had no record.
    """
    todo: dict[str, tuple[Run, list[Run]]] = {}
    checked: dict[str, str] = {}

    def valid(run: Run) -> Iterator[bool]:
        """Whether its record is, and those of what it started from, as far as they are here."""
        if run.key in done:
            yield is_valid(run, done[run.key], checked)
        if run.key not in bundled().get("needs", ()):  # what came along was checked, with its own needs, where it was made
            for need in run.needs:
                yield from valid(need)

    def add(run: Run, saved: bool) -> bool:
        """Whether it has to run; `saved`: its saved net is wanted, not its record alone."""
        if run.key in todo:
            return True
        known = None if again and not saved else done.get(run.key)
        if known and all(valid(run)) and (not saved or (known.folder / "pretrained").exists()):
            return False
        first = [need for need in run.needs if add(need, True)]
        todo[run.key] = (run, first)
        return True

    for run in runs:
        add(run, False)
    return todo


def is_valid(run: Run, known: Record, fingerprints: dict[str, str]) -> bool:
    """Whether the record was made by the code and on the data as they are now; `fingerprints` remembers those already taken."""
    if files := replay.stale(known):
        print(f"{run.row}, seed {run.seed}: {', '.join(files)} changed since its record of {known.date[:10]}; it runs again")
        return False
    if run.key in bundled().get("needs", ()):
        return True  # its net came along, checked where the bundle was made; its text need not be here
    data = run.config()["data"]
    name = identity(data)
    if name not in fingerprints:
        try:
            # Where a need is part of it, a tokenizer, the record says where that is.
            fingerprints[name] = _fingerprint(known.config["data"] if "need " in str(data) else data)
        except Exception as error:  # whatever is wrong will be this run's recorded failure, not the end of the sweep
            print(f"{run.row}: the fingerprint of its data cannot be taken ({error})")
            fingerprints[name] = ""
    if fingerprints[name] != known.data["fingerprint"]:
        print(f"{run.row}, seed {run.seed}: the data have changed since its record of {known.date[:10]}; it runs again")
    return fingerprints[name] == known.data["fingerprint"]


def _fingerprint(data: dict) -> str:
    """Fingerprint of the data that a configuration's `data` section describes, as they are here."""
    return datamodule({**data, "init_args": {**data.get("init_args", {}), **carried(data)}}).fingerprint


def _made(todo: dict[str, tuple[Run, list[Run]]], records: list[Record], place: Path, devices: int) -> dict[str, Job]:
    """A job for each run; what earlier runs of a row took is its weight."""
    took = {(r.run, r.scale): r.seconds for r in records if r.status == "ok" and r.seconds}  # measuring a saved net counts none
    usual = sum(took.values()) / len(took) if took else 1.0
    made: dict[str, Job] = {}
    for key, (run, first) in todo.items():
        home = ROOT / "runs" / run.recipe / run.name
        saved = {need.key: str(_saved(need, records).relative_to(ROOT)) for need in run.needs}
        # logs and checkpoints go to the run's own folder
        extra = {f"data.init_args.{k}": v for k, v in carried(run.config()["data"]).items()}
        extra |= {} if run.verb else {"trainer.logger.init_args.version": run.name}
        extra |= {"replace": "true"} if run.verb == "prepare space" else {}  # the folder is this need's own
        words = run.arguments(extra, saved)
        about = {"recipe": run.recipe, "run": run.row, "scale": run.scale, "seed": run.seed, "key": run.key,
                 "command": shlex.join(["zoo", *words]), "needs": [need.key for need in run.needs]}  # fmt: skip
        job = {"identity": about, "spec": run.spec, "arguments": words, "place": str(place), "home": str(home),
               "devices": devices, **({"config": run.config(saved)} if run.verb else {})}  # fmt: skip
        name = f"{run.row}, seed {run.seed}"
        command = [sys.executable, "-m", "benchmarks.child", json.dumps(job)]
        weight = took.get((run.row, run.scale), usual)
        made[key] = Job(name, command, home.with_suffix(".log"), [made[need.key] for need in first], weight)
    return made


def _saved(need: Run, records: list[Record]) -> Path:
    """Where the saved net of a need is, or will be."""
    known = record.finished(records).get(need.key)
    if known and (known.folder / "pretrained").exists():
        return known.folder / "pretrained"
    return ROOT / "runs" / need.recipe / need.name / "pretrained"


def _outcome(run: Run, job: Job, place: Path) -> Record:
    """The record that the job left, or one that says how it failed."""
    about = json.loads(job.command[-1])["identity"]
    left = record.finished(record.load(place)[0]).get(run.key)
    if not job.failed and left and left.date >= job.date:
        return left
    job.code = job.code or 1  # what needs it must not start
    error = job.error or "it ended without a record, as a run does that is told to stop"
    error = _PLACE.sub("", error.replace(f"{ROOT}/", ""))  # what is committed names no place of this machine
    failed = Record(**about, status="failed", error=error, **record.provenance())
    record.save(failed, place)
    return failed


def _gpus() -> list[str]:
    """Names of the GPUs that runs may use. Asked of the driver's files, for torch would take seconds."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [word.strip() for word in listed.split(",") if word.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="name of a file in benchmarks/specs, without .yaml")
    parser.add_argument("--scale", default="laptop", help="one of the spec's scales (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side: one thread each on a CPU, one GPU each elsewhere"
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="this row only (may be repeated)")
    parser.add_argument("--seed", action="append", type=int, metavar="N", help="this seed only (may be repeated)")
    parser.add_argument("--again", action="store_true", help="run even what has a record")
    parser.add_argument("--plan", action="store_true", help="say what it would take, and run nothing")
    given = parser.parse_args(args)
    if given.plan:
        from benchmarks import plan

        return plan.main([given.spec, "--scale", given.scale])
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        spec = load(given.spec)
        new = sweep(spec, given.scale, given.only, given.again, given.jobs, given.seed)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what is recorded stays, and the same command continues", flush=True)
        return 130
    if any(find_spec(name) is None for name in ("matplotlib", "scipy")):
        print("no page here: it wants matplotlib and scipy; the records hold all of it")
    else:
        from benchmarks import report  # here: the processes of the runs come through this module too

        records, _ = record.load(record.folder(given.scale))
        print("", report.summary(spec, given.scale, records), "", sep="\n")
        print(f"page: {report.write(spec, given.scale, records).relative_to(ROOT)}")
        if given.scale not in record.OWN_SCALES and not bundled():
            report.main([])  # the README's table and status.json follow from the same records
    return int(any(r.status == "failed" for r in new))


if __name__ == "__main__":
    sys.exit(main())
