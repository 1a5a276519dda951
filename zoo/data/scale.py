"""datatrove executors for the shards of a sentence store: this machine, Slurm or Ray (extra `scale`)."""

import os
from typing import Literal

from zoo.data.segment import package
from zoo.data.sentences import SentenceShards


def executor(
    shards: SentenceShards,
    kind: Literal["local", "slurm", "ray"] = "local",
    workers: int = 1,
    logs: str | os.PathLike | None = None,
    time: str = "24:00:00",
    partition: str = "",
    gpus: int = 0,
    cpus: int = 4,
    gigabytes: int = 16,
    qos: str = "normal",
    setup: str | None = None,
):
    """datatrove's executor of the shards, one task each; after `run()`, call `shards.finish()`.

    Each worker opens an encoder of its own (SONAR's takes 3 GB), so the shards' encoder is best one that is sent as its settings,
    `zoo.sonar.SpaceEncoder`.

    workers: tasks at a time, -1 for all. logs: folder of its logs and of what is done; default: beside the shards.
    time, partition, qos: of Slurm. gpus, cpus, gigabytes (of memory): per task, of Slurm and Ray. setup: shell command that
    makes a Slurm job's environment, such as "source .venv/bin/activate".
    Raises ImportError without the extra `scale`.
    """
    logs = str(logs or shards.folder / "logs")
    # whether a shard is there is asked of the store, which knows of damage, and not of the logs
    common = {"logging_dir": logs, "skip_completed": False}
    each = {"gpus_per_task": gpus, "cpus_per_task": cpus, "mem_per_cpu_gb": max(1, gigabytes // cpus)}
    if kind == "local":
        made = package("datatrove.executor.local", "scale").LocalPipelineExecutor
        return made([shards], tasks=shards.count, workers=workers, **common)
    if kind == "slurm":
        if not partition:
            raise ValueError("a Slurm executor needs the name of a partition: give partition")
        made = package("datatrove.executor.slurm", "scale").SlurmPipelineExecutor
        own = {"qos": qos, "env_command": setup}
        return made([shards], shards.count, time, partition, workers=workers, **each, **own, **common)
    if kind == "ray":
        made = package("datatrove.executor.ray", "scale").RayPipelineExecutor  # to run it, install ray beside the extra
        return made([shards], shards.count, workers, **each, **common)
    raise ValueError(f"executor {kind!r} is none of local, slurm, ray")
