"""`zoo evaluate CKPT --tasks …`: a saved token net on lm-eval's tasks; prints a table and leaves a record."""

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from zoo.evals.tasks import Loaded, load_tasks
from zoo.files import put_new

RESAMPLES = 1000  # bootstrap draws, where a metric's standard error has no closed form
PACKAGES = ("lm_eval", "torch", "datasets", "tokenizers", "numpy")


def main(args: list[str]) -> None:
    """`zoo evaluate`: see its --help."""
    parser = argparse.ArgumentParser("zoo evaluate", description="Measure a saved token net on tasks of lm-eval.")
    parser.add_argument("folder", help="a run folder, a folder of save_pretrained, or a transformers GPT-2 or Llama folder")
    parser.add_argument("--tasks", required=True, help="lm-eval's names, or YAML files in its format, with commas between them")
    parser.add_argument(
        "--files",
        nargs="+",
        default=[],
        metavar="DIR|TASK=FILE",
        help="read the tasks' documents from here, and nothing from a network",
    )
    parser.add_argument("--limit", type=int, help="documents per task, the first ones (default: all)")
    parser.add_argument("--shots", type=int, help="worked examples before each question (default: the task's own number)")
    parser.add_argument("--batch", type=int, default=16, help="contexts per forward pass")
    parser.add_argument("--heads", type=int, help="heads that speculate when text is generated (default: all; 1: none)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="of tasks that sample")
    parser.add_argument("--out", type=Path, help="the record's file (default: evaluate-<tasks>.json beside the net)")
    given = parser.parse_args(args)
    for name, least in (("limit", 1), ("shots", 0), ("batch", 1), ("heads", 1)):
        if (value := getattr(given, name)) is not None and value < least:
            raise ValueError(f"--{name} is at least {least}, not {value}.")
    if given.out is not None and given.out.exists():
        raise ValueError(f"{given.out} exists, and records are never overwritten: give another --out.")
    path = evaluate(**vars(given), command=shlex.join(["zoo", "evaluate", *args]))
    print(f"record: {path}")


def evaluate(
    folder: str | Path,
    tasks: str,
    files: Sequence[str] = (),
    limit: int | None = None,
    shots: int | None = None,
    batch: int = 16,
    heads: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
    command: str = "",
) -> Path:
    """Run the tasks on the net of `folder`, print the table, write the record; returns its path.

    Arguments are those of the command line, which is recorded as `command`.
    """
    if files:
        os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    from zoo.evals.checkpoint import open_checkpoint

    opened = open_checkpoint(folder)
    net = opened.net.to(_device(device))
    most = getattr(net, "n", 1)
    if heads is not None and heads > most:
        raise ValueError(f"--heads {heads}: this net has {most}.")
    names = [name for name in tasks.split(",") if name]
    loaded = load_tasks(names, files, shots)

    from zoo.evals.harness import Harness

    results: dict[str, Any] = {}
    record = {
        "what": "evaluate",
        "command": command,
        "folder": str(folder),
        "net": f"{type(net).__module__}.{type(net).__qualname__}",
        "parameters": sum(p.numel() for p in net.parameters()),
        "context": net.context,
        "weights": opened.digest,
        "tokenizer": opened.tokenizer.fingerprint,
        "tasks": results,
        "limit": limit,
        "batch": batch,
        "heads": most if heads is None else heads,
        "seed": seed,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads",
        "code": code(),
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    home = opened.folder.parent if opened.folder.name == "pretrained" else opened.folder
    place = out or home / f"evaluate-{_stem(names)}.json"
    try:
        for task in loaded:
            model = Harness(
                net, opened.tokenizer, batch=batch, heads=most if heads is None else heads, prefix=opened.prefix, seed=seed
            )
            results[task.name] = run(task, model, limit)
    except BaseException:  # also a key that is pressed: what was measured is kept
        if results:
            print(table(results), f"{', '.join(results)}: kept in {save(record, place)}", sep="\n", flush=True)
        raise
    print(table(results))
    return save(record, place)


def _device(name: str) -> torch.device:
    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"--device {name} is not there: take cpu.")
    return torch.device(name)


def run(task: Loaded, model, limit: int | None) -> dict[str, Any]:
    """Have a `zoo.evals.harness.Harness` do a task, say so in a line, and give its entry of a record."""
    from lm_eval.evaluator import evaluate as run_all

    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval would fork a process per core for one bootstrap: same numbers
    started = time.perf_counter()
    heard = io.StringIO()  # bars and notices
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
        found = run_all(lm=model, task_dict=task.found, limit=limit, bootstrap_iters=RESAMPLES, log_samples=False)
    seconds = time.perf_counter() - started
    counts = {name: found["n-samples"][name]["effective"] for name in found["n-samples"]}
    cut = f", {model.truncated:,} of {model.requests:,} requests truncated" if model.truncated else ""
    print(f"{task.name}: {sum(counts.values()):,} documents, {seconds:.0f} s{cut}", flush=True)
    return {
        "metrics": {name: metrics(row) for name, row in {**found["results"], **found.get("groups", {})}.items()},
        "documents": sum(counts.values()),
        "shots": found["n-shot"],
        "version": found["versions"],
        "source": task.source,
        "requests": model.requests,
        "truncated": model.truncated,
        "seconds": round(seconds, 3),
    }


def metrics(row: dict) -> dict[str, float | None]:
    """lm-eval's "acc,none" and "acc_stderr,none" as "acc" and "acc_stderr"; another filter's name follows a slash."""
    kept = {}
    for key, value in row.items():
        name, _, kind = key.partition(",")
        if kind and isinstance(value, (int, float)):  # a standard error that has no estimate is "N/A"
            kept[name if kind == "none" else f"{name}/{kind}"] = float(value) if math.isfinite(value) else None
    return kept


def table(results: dict[str, Any]) -> str:
    """Task, metric, value and standard error, one line each."""
    lines = [("task", "shots", "metric", "value", "±")]
    for entry in results.values():
        for task, row in entry["metrics"].items():
            for name, value in row.items():
                if "_stderr" not in name:
                    error = row.get("_stderr/".join(name.split("/", 1)) if "/" in name else f"{name}_stderr")
                    told = ["—" if x is None else f"{x:.4g}" if abs(x) >= 10 else f"{x:.4f}" for x in (value, error)]
                    lines.append((task, str(entry["shots"].get(task, "")), name, *told))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def code() -> str:
    """Digest of the source of all modules of zoo that are imported."""
    digest = hashlib.sha256()
    files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "zoo" and module.__file__}
    for name, file in sorted(files.items()):
        digest.update(name.encode() + Path(file).read_bytes())
    return digest.hexdigest()[:12]


def _stem(names: Sequence[str]) -> str:
    stems = [re.sub(r"[^\w.-]", "-", Path(name).stem if name.endswith((".yaml", ".yml")) else name) for name in names]
    return "+".join(stems) if len("+".join(stems)) <= 100 else f"{stems[0]}+{len(stems) - 1}-more"


def save(record: dict[str, Any], path: Path) -> Path:
    """Write the record; the file appears whole or not at all, and replaces nothing: where `path` is taken, ….2.json and on."""
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
    return put_new(path, lambda draft: draft.write_text(text, encoding="utf-8"))
