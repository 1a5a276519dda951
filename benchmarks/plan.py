"""What a scale would take, before anything runs: `python -m benchmarks.plan [SPEC ...] --scale paper --device h100`.

A line per row, sums, and the command of every run. Nothing is trained or fetched: nets run on tensors without content.

    tokens = max_steps × devices × accumulate × batch × context, for the devices that the recipe's batch is meant for
             (of nets that read sentences: chunks filled to the last sentence, and tokens are sentences)
    FLOPs  = those of a micro-step (`zoo.meter.training_flops`) × max_steps × accumulate × devices
    hours  = FLOPs / (devices × peak × MFU)
    memory = that of `benchmarks.memory`, which states its formulas

A run gets the devices that its recipe's batch is meant for (the trainer's, or `devices` of the spec's scale), or two, four …
times as many where those cannot hold it, or what --devices says. Micro-steps make up for the difference, so that a step always
has the same tokens. A net is replicated where it fits (DDP), else sharded (FSDP2); where neither fits, a micro-step takes fewer
windows. FLOPs are those of the recipe: what FSDP2 computes again (the heads' forward pass) is not among them.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.memory import DEVICES, USABLE, Device, Fit, Memory, fit
from benchmarks.spec import ROOT, SPECS, Run, Spec, expand, load
from benchmarks.typed import nearest
from benchmarks.workload import Work, step_memory, workload


@dataclass(frozen=True)
class Plan:
    """A row: its runs (one per seed), what one of them does, and how it is laid out; None: it fits nowhere, `why` says so."""

    runs: tuple[Run, ...]
    work: Work
    layout: Fit | None
    why: str
    rate: float  # FLOP/s of a device

    @property
    def fit(self) -> Fit:
        """The layout of a plan that has one."""
        assert self.layout is not None, self.why
        return self.layout

    @property
    def device_hours(self) -> float:
        """Of one run."""
        return self.work.flops / self.rate / 3600

    @property
    def hours(self) -> float:
        """Of one run that fits."""
        return self.device_hours / self.fit.devices


def plans(spec: Spec, scale: str, device: Device, mfu: float, devices: int | None = None) -> list[Plan]:
    """The plan of every row of the spec at this scale that trains, in its order, each after what it needs.

    What measures the saved net of a need (trainer.max_steps: 0), and needs that are no training, are left out.
    Raises ValueError in one sentence where a run cannot be planned.
    """
    if not device.peak:
        raise ValueError(f"The peak of a {device.name} is not known here: state it, for example --peak 1e11 (FLOP/s).")
    rows: dict[str, dict[str, Run]] = {}
    for run in expand(spec, scale):
        for each in (*_needs(run), run):
            if not each.trains:
                continue
            rows.setdefault(each.row, {})[each.key] = each
    made = []
    for runs in (tuple(row.values()) for row in rows.values()):
        work = workload(runs[0], spec.scales[scale].devices)
        try:
            made.append(Plan(runs, work, laid_out(work, device, devices), "", device.peak * mfu))
        except ValueError as error:
            made.append(Plan(runs, work, None, f"{runs[0].row}: {error}", device.peak * mfu))
    return made


def _needs(run: Run) -> list[Run]:
    return [each for need in run.needs for each in (*_needs(need), need)]


def laid_out(work: Work, device: Device, devices: int | None = None) -> Fit:
    """Where the work runs (`benchmarks.memory.fit`)."""

    def memory(batch: int, accumulate: int, sharded: bool) -> Memory:
        size = batch, work.context, work.precision, min(accumulate, 2)
        return step_memory(work.net, *size, sharded, device.memory is not None)

    return fit(memory, work.batch, work.accumulate, work.devices, device, devices)


# -- how it is started ---------------------------------------------------------------------------------------------
def sizes(plan: Plan) -> dict[str, Any]:
    """What the command adds to the run's own settings: where it runs, and the micro-steps that keep the tokens of a step."""
    work, fit = plan.work, plan.fit
    extra: dict[str, Any] = {} if fit.strategy == "single" else {"trainer.strategy": fit.strategy}
    extra |= {"trainer.devices": fit.per_node, "trainer.num_nodes": fit.nodes}
    if (fit.batch, fit.accumulate) != (work.batch, work.accumulate):
        size = {"data.init_args.batch": fit.batch}
        if work.by_sentences:
            size = {"data.init_args.sentences": fit.batch * work.context}
        extra |= {**size, "trainer.accumulate_grad_batches": fit.accumulate}
        if work.validate:  # after the same steps as before
            extra["trainer.val_check_interval"] = max(1, work.validate * fit.accumulate // work.accumulate)
    return extra


def launch(plan: Plan, run: Run, folder: Path | None = None) -> str:
    """The command that starts a run of the plan. For several nodes, or where a folder is named, it submits a Slurm script, which
    is written (into runs/sbatch where none is named)."""
    fit = plan.fit
    words = run.arguments({**sizes(plan), "trainer.logger.init_args.version": run.name})  # where runs that need it look for it
    if fit.nodes > 1 or folder:
        path = (folder or ROOT / "runs" / "sbatch") / f"{run.spec}-{run.name}.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(plan, run, words), encoding="utf-8")
        return shlex.join(["sbatch", str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)])
    started = ["zoo"] if fit.devices == 1 else ["torchrun", "--standalone", f"--nproc_per_node={fit.devices}", "-m", "zoo"]
    return shlex.join([*started, *words])


def script(plan: Plan, run: Run, words: list[str]) -> str:
    """A Slurm job: a process per device, and a tenth more time than planned (half an hour at least)."""
    fit, work = plan.fit, plan.work
    minutes = max(30, math.ceil(plan.hours * 66))
    command = " ".join(("\\\n  " if word.startswith("-") else "") + shlex.quote(word) for word in ["srun", "zoo", *words])
    return f"""#!/bin/bash
# {run.spec}, {run.row}, seed {run.seed}: {_si(work.net.parameters)} parameters, {_si(work.tokens)} tokens,
# {work.flops:.3g} FLOPs: {plan.hours:.1f} hours at {plan.rate / 1e12:.0f} TFLOP/s a device, {fit.memory / 2**30:.0f} GiB on each.
# Submit it from the repository's root with zoo on the path, once the data are prepared (zoo prepare, with the same options).
#SBATCH --job-name={run.spec}-{run.row}-s{run.seed}
#SBATCH --nodes={fit.nodes}
#SBATCH --ntasks-per-node={fit.per_node}
#SBATCH --gpus-per-node={fit.per_node}
#SBATCH --time={minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00
#SBATCH --output=%x-%j.log
set -euo pipefail
{command}
"""


# -- what is printed -----------------------------------------------------------------------------------------------
def table(plans: Iterable[Plan]) -> list[str]:
    """Lines of a markdown table that reads in a terminal too: each row of the spec (of one seed), then the sum over all runs."""
    head = ["row", "seeds", "parameters", "tokens", "FLOPs", "devices", "windows × micro-steps", "GiB each", "hours"]
    head += ["device-hours"]
    body, plans = [], list(plans)
    for plan in plans:
        work, fit = plan.work, plan.layout
        cells = [plan.runs[0].row, f"× {len(plan.runs)}", _si(work.net.parameters), _si(work.tokens), f"{work.flops:.3g}"]
        if fit:
            kind = {"single": "", "ddp": " DDP", "fsdp2": " FSDP2"}[fit.strategy]
            cells += [f"{fit.devices}{kind}", f"{fit.batch} × {fit.accumulate}", _figure(fit.memory / 2**30), _figure(plan.hours)]
        body.append([*cells, *["—"] * (9 - len(cells)), _figure(plan.device_hours)])
    count, flops, hours = _sums((plan, run) for plan in plans for run in plan.runs)
    body.append(["all", f"{count} runs", "", "", f"{flops:.3g}", "", "", "", "", _figure(hours)])
    widths = [max(map(len, column)) for column in zip(head, *body)]
    rows = (head, ["-" * width for width in widths], *body)
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]


def _sums(runs: Iterable[tuple[Plan, Run]]) -> tuple[int, float, float]:
    """Number, FLOPs and device-hours of different runs: one that is asked for twice counts once."""
    once = {run.key: plan for plan, run in runs}.values()
    return len(once), sum(plan.work.flops for plan in once), sum(plan.device_hours for plan in once)


def _si(count: float) -> str:
    """209715200000 -> 209.7B"""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.4g}{letter}"
    return f"{count:.0f}"


def _figure(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def show(specs: list[Spec], scale: str, device: Device, mfu: float, devices: int | None, folder: Path | None) -> None:
    """Print the plan of every spec, and the sum over all different runs."""
    asked: list[tuple[Plan, Run]] = []
    first: dict[str, str] = {}  # key of a run -> who asked for it first
    limit = f", {USABLE:.0%} of its {device.memory:g} GiB in use" if device.memory else ""
    for spec in specs:
        try:
            found = plans(spec, scale, device, mfu, devices)
        except ValueError as error:
            if len(specs) == 1:
                raise
            print(f"{spec.name}: {error}\n")
            continue
        print(f"{spec.name} at scale {scale}: {spec.title}", *table(found), "", sep="\n")
        for plan in found:
            for run in plan.runs:
                if run.key in first:
                    print(f"# {run.row}, seed {run.seed}: the same run as {first[run.key]}")
                else:
                    print(launch(plan, run, folder) if plan.layout else f"# {plan.why}")
                first.setdefault(run.key, f"{run.row} of {spec.name}")
                asked.append((plan, run))
        print(flush=True)
    count, flops, hours = _sums(asked)
    print(f"In all: {count} different runs, {flops:.3g} FLOPs, {_figure(hours)} device-hours.")
    print(f"Device: {device.name} at {mfu:.0%} of {device.peak / 1e12:,.4g} TFLOP/s{limit}.")
    print(f"They train and validate; make reproduce-… SCALE={scale} also tests, and leaves the records that pages read.")


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.plan", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="*", help="names of files in benchmarks/specs (default: all that have the scale)")
    parser.add_argument("--scale", default="paper", help="default: %(default)s")
    parser.add_argument("--device", default="h100", help=f"{', '.join(DEVICES)} (default: %(default)s)")
    parser.add_argument("--devices", type=int, metavar="N", help="how many (default: those the recipe's batch is meant for)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that training reaches (default: %(default)s)")
    parser.add_argument("--peak", type=float, metavar="FLOP/S", help="of a device, instead of its dense bf16 peak")
    parser.add_argument("--sbatch", type=Path, metavar="FOLDER", help="write a Slurm script for every run into this folder")
    given = parser.parse_args(args)
    try:
        if given.device not in DEVICES:
            raise ValueError(f"There is no device {given.device!r}{nearest(given.device, DEVICES)}")
        device = DEVICES[given.device]
        specs = [load(name) for name in given.spec or sorted(path.stem for path in SPECS.glob("*.yaml"))]
        specs = [spec for spec in specs if given.spec or given.scale in spec.scales]
        device = replace(device, peak=given.peak or device.peak)
        show(specs, given.scale, device, given.mfu, given.devices, given.sbatch)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.plan: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
