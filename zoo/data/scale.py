"""datatrove executors for the shards of a sentence store: this machine, Slurm or Ray (extra `scale`)."""

import os
from typing import Literal

from zoo.data.segment import package
from zoo.data.sentences import SentenceShards


def executor(
    shards: SentenceShards,
    kind: Literal["local", "slurm", "ray"] = "local",
    workers: int = -1,
    logs: str | os.PathLike | None = None,
    time: str = "24:00:00",
    partition: str = "",
    gpus: int = 0,
):
    """datatrove's executor of the shards, one task each; after `run()`, call `shards.finish()`.

    workers: tasks at a time, -1 for all. logs: folder of its logs and of what is done; default: beside the shards.
    time, partition: of Slurm. gpus: per task, of Slurm and Ray. Raises ImportError without the extra `scale`.
    """
    logs = str(logs or shards.folder / "logs")
    if kind == "local":
        # whether a shard is there is asked of the store, which knows of damage, and not of the logs
        made = package("datatrove.executor.local", "scale").LocalPipelineExecutor
        return made([shards], tasks=shards.count, workers=workers, logging_dir=logs, skip_completed=False)
    if kind == "slurm":
        if not partition:
            raise ValueError("a Slurm executor needs the name of a partition: give partition")
        made = package("datatrove.executor.slurm", "scale").SlurmPipelineExecutor
        return made(
            [shards], shards.count, time, partition, workers=workers, gpus_per_task=gpus, logging_dir=logs, skip_completed=False
        )
    if kind == "ray":
        made = package("datatrove.executor.ray", "scale").RayPipelineExecutor  # to run it, install ray beside the extra
        return made([shards], shards.count, workers, logging_dir=logs, gpus_per_task=gpus, skip_completed=False)
    raise ValueError(f"executor {kind!r} is none of local, slurm, ray")
