"""Runs a spec: `python -m benchmarks.run table-mtp-1 --scale laptop [--jobs N] [--only ROW] [--seed N] [--again] [--plan]`.

Each run is a process of its own and leaves one record (benchmarks/record.py says where) and one folder of logs and checkpoints
under runs/. Runs that have an ok record of the same configuration, seed, data and code are skipped, whatever spec they were made
for, so an interrupted sweep continues where it stopped. A failing run is recorded as failed, and the others go on. At the end the
page is written, and printed short.
"""

import argparse
import importlib
import inspect
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import jobs, record, replay
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
        raise ValueError(f"{spec.name} has no seed {min(unknown)} at scale {scale}")
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
        if run.key not in _bundle().get("needs", ()):  # what came along was checked, with its own needs, where it was made
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
    if run.key in _bundle().get("needs", ()):
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
    return datamodule({**data, "init_args": {**data.get("init_args", {}), **_carried(data)}}).fingerprint


def datamodule(data: dict):
    """The DataModule that a configuration's `data` section describes; ValueError in its own words."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    try:
        return instantiate(parser.parse_object({"data": _accepted(data)})).data
    except ValueError as error:
        raise (error.__cause__ or error) from None


def _accepted(settings: Any) -> Any:
    """Settings without arguments that their class does not have: where a layer names another class, those of the class below it
    are left over, which LightningCLI drops as well."""
    if not isinstance(settings, dict):
        return settings
    settings = {name: _accepted(value) for name, value in settings.items()}
    if "class_path" in settings and isinstance(settings.get("init_args"), dict):
        module, _, name = settings["class_path"].rpartition(".")
        known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        settings["init_args"] = {key: value for key, value in settings["init_args"].items() if key in known}
    return settings


def _carried(data: dict) -> dict[str, Any]:
    """In a bundle: the DataModule arguments that make this data section read the token store that came along."""
    store = _bundle().get("stores", {}).get(identity(data))
    without = {"exclude": None} if data.get("init_args", {}).get("exclude") else {}  # it was applied when the store was built
    return {"source": "store", "files": [store], **without} if store else {}


def _bundle() -> dict[str, Any]:
    """What the bundle that this is says of itself (benchmarks/bundle.py); nothing in a checkout."""
    path = ROOT / "bundle.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _made(todo: dict[str, tuple[Run, list[Run]]], records: list[Record], place: Path, devices: int) -> dict[str, Job]:
    """A job for each run; what earlier runs of a row took is its weight."""
    took = {(r.run, r.scale): r.seconds for r in records if r.status == "ok" and r.seconds}  # measuring a saved net counts none
    usual = sum(took.values()) / len(took) if took else 1.0
    made: dict[str, Job] = {}
    for key, (run, first) in todo.items():
        home = ROOT / "runs" / run.recipe / run.name
        saved = {need.key: str(_saved(need, records).relative_to(ROOT)) for need in run.needs}
        # logs and checkpoints go to the run's own folder
        extra = {f"data.init_args.{k}": v for k, v in _carried(run.config()["data"]).items()}
        extra |= {} if run.verb else {"trainer.logger.init_args.version": run.name}
        words = run.arguments(extra, saved)
        about = {"recipe": run.recipe, "run": run.row, "scale": run.scale, "seed": run.seed, "key": run.key,
                 "command": shlex.join(["zoo", *words]), "needs": [need.key for need in run.needs]}  # fmt: skip
        job = {"identity": about, "spec": run.spec, "arguments": words, "place": str(place), "home": str(home),
               "devices": devices, **({"config": run.config(saved)} if run.verb else {})}  # fmt: skip
        name = f"{run.row}, seed {run.seed}"
        command = [sys.executable, "-m", "benchmarks.run", "--child", json.dumps(job)]
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


def child(job: dict) -> None:
    """Fit and test what the job says, or test alone, in this process, and save the record."""
    import zoo.cli
    from benchmarks.live import Running

    about = job["identity"]
    before = record.provenance()
    print(f"  {about['command']}", flush=True)
    if "config" in job:
        record.save(_prepared(job, before), Path(job["place"]))
        return
    running = Running(job["spec"], about, job["place"])
    cli = zoo.cli.main(job["arguments"], [running])
    if job["arguments"][0] == "fit":
        _refuse_another_budget(cli, job["devices"])
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    measured = {**getattr(cli.model, "measured", {})}
    if "parameters" not in measured:  # Meter counts them where a run trains
        measured["parameters"] = sum(p.numel() for p in cli.model.net.parameters())
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items() if name.startswith("test/")}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}: lower the learning rate, or use precision 32.")
    done = Record(
        **about, status="ok", config=cli.config_dump, metrics=metrics, curve=running.curve, threads=_threads(),
        data={"description": cli.datamodule.description, "fingerprint": cli.datamodule.fingerprint},
        device=_device(cli.trainer.strategy.root_device), **measured,
        **{**record.provenance(), "commit": before["commit"], "dirty": before["dirty"]},
    )  # fmt: skip
    if cli.trainer.is_global_zero:  # the other processes of a distributed run come through here too
        record.save(done, Path(job["place"]))


def _prepared(job: dict, before: dict) -> Record:
    """Run a need's own verb of `zoo`; the record has what the verb says that it measured."""
    import torch

    import zoo.__main__

    began = time.monotonic()
    measured = zoo.__main__.main(job["arguments"]) or {}
    data = datamodule(
        {**job["config"]["data"], "init_args": {**job["config"]["data"]["init_args"], **_carried(job["config"]["data"])}}
    )
    data.prepare_data()
    return Record(
        **job["identity"], status="ok", config=job["config"], metrics={f"test/{name}": float(x) for name, x in measured.items()},
        data={"description": data.description, "fingerprint": data.fingerprint}, threads=_threads(),
        device=_device(torch.device("cuda" if torch.cuda.is_available() else "cpu")), seconds=time.monotonic() - began,
        **{**record.provenance(), "commit": before["commit"], "dirty": before["dirty"]},
    )  # fmt: skip


def _refuse_another_budget(cli, devices: int) -> None:
    """A record is of the tokens that its scale says, however many devices the machine has and whatever cut the run short."""
    trainer, data = cli.trainer, cli.datamodule
    tokens = hasattr(data, "batch") and getattr(data, "view", "tokens") == "tokens"
    if trainer.max_steps > 0 and not tokens:  # batches of sentences differ in length
        if (trainer.global_step, trainer.world_size) != (trainer.max_steps, devices):
            raise ValueError(
                f"it took {trainer.global_step} steps on {trainer.world_size} device(s) instead of {trainer.max_steps} on "
                f"{devices}: give it as many devices (CUDA_VISIBLE_DEVICES), or take the commands of make plan."
            )
    elif trainer.max_steps > 0:
        asked = trainer.max_steps * trainer.accumulate_grad_batches * data.batch * data.context * devices
        if cli.model.measured["tokens"] != asked:
            raise ValueError(
                f"it trained on {cli.model.measured['tokens']:,} tokens instead of {asked:,}: its batch is meant for {devices} "
                "device(s); give it as many (CUDA_VISIBLE_DEVICES), or take the commands of make plan."
            )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _device(device) -> str:
    """The card's name, or the processor's with the threads torch uses."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {_threads()} threads"


def _gpus() -> list[str]:
    """Names of the GPUs that runs may use. Asked of the driver's files, for torch would take seconds."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [word.strip() for word in listed.split(",") if word.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _end_with(sweep: int) -> None:
    """End this run when the sweep that started it is gone, even killed: its next start must find the run's folder free."""
    while os.getppid() == sweep:
        time.sleep(1.0)
    os._exit(1)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", help="name of a file in benchmarks/specs, without .yaml")
    parser.add_argument("--scale", default="laptop", help="one of the spec's scales (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side: one thread each on a CPU, one GPU each elsewhere"
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="this row only (may be repeated)")
    parser.add_argument("--seed", action="append", type=int, metavar="N", help="this seed only (may be repeated)")
    parser.add_argument("--again", action="store_true", help="run even what has a record")
    parser.add_argument("--plan", action="store_true", help="say what it would take, and run nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # one run, as JSON
    given = parser.parse_args(args)
    if given.child:
        threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
        job = json.loads(given.child)
        if int(os.environ.get("LOCAL_RANK", 0)) == 0 and "config" not in job:
            # an attempt that was broken off: a record is of one uninterrupted run; what is only prepared goes on where it was
            shutil.rmtree(job["home"], ignore_errors=True)
        child(job)
        return 0
    if not given.spec:
        parser.error("name a spec, for example table-mtp-1")
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
        if given.scale not in record.OWN_SCALES and not _bundle():
            report.main([])  # the README's table and status.json follow from the same records
    return int(any(r.status == "failed" for r in new))


if __name__ == "__main__":
    sys.exit(main())
