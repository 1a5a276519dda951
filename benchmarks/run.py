"""Runs a spec: `python -m benchmarks.run table-mtp-1 --scale laptop [--only ROW] [--again]`.

Each run is a process of its own and leaves one record (benchmarks/record.py says where) and one folder of logs and checkpoints
under runs/. Runs that have an ok record of the same configuration, seed and data are skipped, so an interrupted sweep continues
where it stopped. A failing run is recorded as failed and the next one starts. At the end the page is written, and printed short.
"""

import argparse
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO

from benchmarks import record, report
from benchmarks.record import Record
from benchmarks.spec import ROOT, Run, Spec, expand, load, nearest

_ERROR = re.compile(r"^((\w+\.)*\w*(Error|Exception)(:|$)|zoo: |error: )")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def sweep(spec: Spec, scale: str, only: list[str] | None = None, again: bool = False) -> list[Record]:
    """Run what has no record yet, one after the other, and return the records that are new."""
    for row in only or ():
        if row not in spec.runs:
            raise ValueError(f"{spec.name} has no row {row!r}{nearest(row, spec.runs)}")
    place = record.folder(scale)
    runs = [run for run in expand(spec, scale) if not only or run.row in only]
    records, complaints = record.load(place)
    done = {} if again else record.finished(records)
    checked: dict[str, str] = {}
    todo = [run for run in runs if not _is_done(run, done, checked)]
    print(*complaints, f"{spec.name}: {spec.title}", sep="\n")
    before = len(runs) - len(todo)
    print(f"{len(runs)} runs at scale {scale}, {before} of them recorded before (--again repeats them)", flush=True)
    began, new = time.monotonic(), []
    for i, run in enumerate(todo):
        elapsed = time.monotonic() - began
        left = f", about {_clock(elapsed / i * (len(todo) - i))} left" if i else ""
        print(f"\n[{i + 1}/{len(todo)}] {run.row}, seed {run.seed} ({_clock(elapsed)} elapsed{left})", flush=True)
        new.append(_run(run, place))
    failed = sum(r.status == "failed" for r in new)
    print(f"\nnew records: {len(new)} in {_clock(time.monotonic() - began)}" + (f"; failed: {failed}" if failed else ""))
    return new


def _is_done(run: Run, done: dict[str, Record], fingerprints: dict[str, str]) -> bool:
    """Whether the run has an ok record, measured on the data as they are now; `fingerprints` remembers those already taken."""
    config = run.config()
    known = done.get(record.identity(config))
    if known is None:
        return False
    if record.stale(known):
        print(f"{run.row}, seed {run.seed}: the code has changed since its record of {known.date[:10]}; it runs again")
        return False
    name = record.identity(config["data"])
    if name not in fingerprints:
        try:
            fingerprints[name] = _fingerprint(config["data"])
        except Exception as error:  # whatever is wrong will be this run's recorded failure, not the end of the sweep
            print(f"{run.row}: the fingerprint of its data cannot be taken ({error})")
            fingerprints[name] = ""
    if fingerprints[name] != known.data["fingerprint"]:
        print(f"{run.row}, seed {run.seed}: the data have changed since its record of {known.date[:10]}; it runs again")
    return fingerprints[name] == known.data["fingerprint"]


def _fingerprint(data: dict) -> str:
    """Fingerprint of the DataModule that a configuration's `data` section describes."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    return instantiate(parser.parse_object({"data": data})).data.fingerprint


def _run(run: Run, place: Path) -> Record:
    """One run in a process of its own: its lines are passed on, its record is returned."""
    key = record.identity(run.config())
    version = f"{run.row}-{key}-s{run.seed}"
    home = ROOT / "runs" / run.recipe / version
    run = replace(run, overrides={**run.overrides, "trainer.logger.init_args.version": version})  # logs and checkpoints go there
    identity = {"recipe": run.recipe, "run": run.row, "scale": run.scale, "seed": run.seed, "key": key, "command": run.command}
    if home.exists():
        shutil.rmtree(home)  # an attempt that was broken off: a record is of one uninterrupted run
    home.mkdir(parents=True)
    job, log = home / "job.json", home / "log.txt"
    job.write_text(json.dumps({"identity": identity, "arguments": run.arguments, "place": str(place)}))
    print(f"  {run.command}", flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", "--child", str(job)],
        cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends the child: no half-trained run gets a record
    )  # fmt: skip
    try:
        with log.open("w", encoding="utf-8") as file:
            error = _pass_on(process.stdout, file)
        code = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return record.finished(record.load(place)[0])[key]
    if code < 0:
        error = f"killed by signal {-code}" + (" (what the kernel sends when memory runs out)" if code == -signal.SIGKILL else "")
    failed = Record(**identity, status="failed", error=error or f"ended with code {code}", **record.provenance())
    record.save(failed, place)
    print(f"  failed: {failed.error} (all it printed: {log.relative_to(ROOT)})", flush=True)
    return failed


def _pass_on(stream: IO[bytes], log: IO[str], every: float = 5.0) -> str:
    """Print the child's lines, progress bars at most each `every` seconds; returns the line that says what went wrong."""
    pending, shown, last, error = b"", -math.inf, "", ""
    for chunk in chain(iter(lambda: stream.read1(65536), b""), [b"\n"]):
        *lines, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
        for line in lines:
            text = _ESCAPE.sub("", line.decode(errors="replace")).rstrip()
            if not text:
                continue
            last, error = text, text if _ERROR.match(text) else error
            if line.endswith(b"\r"):
                if time.monotonic() - shown < every:
                    continue
                shown = time.monotonic()
            log.write(text + "\n")
            print(f"  | {text}", flush=True)
    return error or last


def child(job: dict) -> None:
    """Fit and test what the job says, in this process, and save the record."""
    import zoo.cli

    cli = zoo.cli.main(job["arguments"])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items() if name.startswith("test/")}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}: lower the learning rate, or use precision 32.")
    done = Record(
        **job["identity"], status="ok", config=cli.config_dump, metrics=metrics,
        data={"description": cli.datamodule.description, "fingerprint": cli.datamodule.fingerprint},
        device=_device(cli.trainer.strategy.root_device), **cli.model.measured, **record.provenance(),
    )  # fmt: skip
    if cli.trainer.is_global_zero:  # the other processes of a distributed run come through here too
        record.save(done, Path(job["place"]))


def _device(device) -> str:
    """The card's name, or the processor's with the threads torch uses."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", help="name of a file in benchmarks/specs, without .yaml")
    parser.add_argument("--scale", default="laptop", help="one of the spec's scales (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="ROW", help="this row only (may be repeated)")
    parser.add_argument("--again", action="store_true", help="run even what has a record")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the job file of one run
    given = parser.parse_args(args)
    if given.child:
        child(json.loads(Path(given.child).read_text()))
        return 0
    if not given.spec:
        parser.error("name a spec, for example table-mtp-1")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        spec = load(given.spec)
        new = sweep(spec, given.scale, given.only, given.again)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what is recorded stays, and the same command continues", flush=True)
        return 130
    records, _ = record.load(record.folder(given.scale))
    print("", report.summary(spec, given.scale, records), "", sep="\n")
    print(f"page: {report.write(spec, given.scale, records).relative_to(ROOT)}")
    return int(any(r.status == "failed" for r in new))


if __name__ == "__main__":
    sys.exit(main())
