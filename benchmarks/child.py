"""One run of a sweep, in a process of its own: `python -m benchmarks.child JOB`, where JOB is what benchmarks/run.py says of it.

It fits and tests, or has a verb of `zoo` prepare something, and leaves a record. What a data section of a configuration stands
for, in a checkout and in a bundle, is here too.
"""

import importlib
import inspect
import json
import math
import os
import platform
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.record import Record
from benchmarks.spec import ROOT, identity


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
        {**job["config"]["data"], "init_args": {**job["config"]["data"]["init_args"], **carried(job["config"]["data"])}}
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


def _end_with(sweep: int) -> None:
    """End this run when the sweep that started it is gone, even killed: its next start must find the run's folder free."""
    while os.getppid() == sweep:
        time.sleep(1.0)
    os._exit(1)


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


def carried(data: dict) -> dict[str, Any]:
    """In a bundle: the DataModule arguments that make this data section read the token store that came along."""
    store = bundled().get("stores", {}).get(identity(data))
    without = {"exclude": None} if data.get("init_args", {}).get("exclude") else {}  # it was applied when the store was built
    return {"source": "store", "files": [store], **without} if store else {}


def bundled() -> dict[str, Any]:
    """What the bundle that this is says of itself (benchmarks/bundle.py); nothing in a checkout."""
    path = ROOT / "bundle.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main(job: dict) -> None:
    """Make the record of a job; ends with the sweep that began it."""
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 and "config" not in job:
        # an attempt that was broken off: a record is of one uninterrupted run; what is only prepared goes on where it was
        shutil.rmtree(job["home"], ignore_errors=True)
    child(job)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
