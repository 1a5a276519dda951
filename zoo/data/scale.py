"""`zoo prepare sentences`: builds the sentence store that a recipe's CommonCrawlSentences names, in this process or by the
executors of datatrove on this machine, Slurm or Ray (extra `scale`)."""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from zoo.data.segment import package
from zoo.data.sentence_store import complete, read_manifest


class Shards(Protocol):
    """Work in pieces: `shards(data, rank, world_size)` does every world_size-th of `count`, and what is done already is not done
    again. `folder`: where it is left."""

    folder: str | os.PathLike
    count: int

    def __call__(self, data, rank: int = 0, world_size: int = 1): ...


def executor(
    shards: Shards,
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
    """datatrove's executor of the shards, one task each; of a sentence store, call `shards.finish()` after `run()`.

    Each worker opens an encoder of its own (SONAR's takes 3 GB), so the shards' encoder is best one that is sent as its settings,
    `zoo.sonar.SpaceEncoder`.

    workers: tasks at a time, -1 for all. logs: folder of its logs and of what is done; default: beside the shards.
    time, partition, qos: of Slurm. gpus, cpus, gigabytes (of memory): per task, of Slurm and Ray. setup: shell command that
    makes a Slurm job's environment, such as "source .venv/bin/activate".
    Raises ImportError without the extra `scale`.
    """
    logs = str(logs or f"{shards.folder}/logs")
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


def main(words: list[str]) -> dict[str, int]:
    """`zoo prepare sentences -c RECIPE [-c OVERLAY] [--data.init_args.KEY=VALUE] [--executor KIND --workers N …]`.

    Of a recipe the section data counts alone. Returns how many sentences and documents the store holds; nothing where a cluster
    has still to make it.
    """
    data, given = _parsed(words)
    if given.executor and not complete(data.folder, data.fingerprint):
        settings = {name: value for name, value in vars(given).items() if name not in ("config", "executor", "data")}
        for work in _steps(data):
            print(f"sentences: {work.count} tasks of {type(work).__name__}, {given.executor}", flush=True)
            executor(work, given.executor, **settings).run()
            if given.executor == "slurm":  # the jobs are only submitted
                print(f"sentences: submitted, with logs in {given.logs or f'{work.folder}/logs'}; run the same command again "
                      "when they have ended, it does what is next, or what has failed", flush=True)  # fmt: skip
                return {}
    data.prepare_data()
    splits = read_manifest(data.folder)["splits"].values()
    return {name: sum(split[name] for split in splits) for name in ("sentences", "documents")}


def _steps(data) -> Iterator[Any]:
    """What is missing of a store, in pieces, each made when what is before it is done."""
    extracts = getattr(data.corpus, "extracts", None)
    if extracts is not None and not extracts.done():
        yield extracts
    shards = data.shards()
    if any(not shards.done(index) for index in range(shards.count)):
        yield shards
    shards.finish()


def _parsed(words: list[str]) -> tuple[Any, argparse.Namespace]:
    """The data of these words, and the executor that they ask for."""
    from lightning.pytorch import LightningDataModule  # takes seconds, as does what follows

    from zoo.cli import Parser
    from zoo.data.crawl import CommonCrawlSentences

    given, rest = _options().parse_known_args(words)
    if given.workers != 1 and not given.executor:
        given.executor = "local"
    parser = Parser(prog="zoo prepare sentences", parser_mode="omegaconf+")
    parser.add_subclass_arguments(LightningDataModule, "data")
    layered = [word for path in given.config for word in _settings(path)]
    if not any(word.startswith("--data.class_path=") for word in [*layered, *rest]):
        raise ValueError(f"{given.config[0]} names no data (data.class_path): give the recipe of a sentence store.")
    namespace = parser.parse_args([*layered, *rest])
    data = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(namespace).data
    if not isinstance(data, CommonCrawlSentences) or data.view != "sentences":
        raise ValueError(
            f"{given.config[0]} has no sentences to prepare: its data are no CommonCrawlSentences, or data.view is tokens."
        )
    return data, given


def _options() -> argparse.ArgumentParser:
    about, rest = __doc__.split(": ", 1)[1], "All other words are settings of the recipe's data: --data.init_args.KEY=VALUE."
    made = argparse.ArgumentParser("zoo prepare sentences", description=about, epilog=rest, allow_abbrev=False)
    made.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="recipe, then overlays: their data")
    made.add_argument("--executor", choices=["local", "slurm", "ray"], help="datatrove's; default: a loop in this process")
    made.add_argument("--workers", type=int, default=1, help="tasks at a time, -1 for all (default: %(default)s)")
    made.add_argument("--logs", help="folder of the executor's logs (default: beside what is made)")
    made.add_argument("--time", default="24:00:00", help="of a Slurm job (default: %(default)s)")
    made.add_argument("--partition", default="", help="of Slurm")
    made.add_argument("--qos", default="normal", help="of Slurm (default: %(default)s)")
    made.add_argument("--gpus", type=int, default=0, help="per task, of Slurm and Ray (default: %(default)s)")
    made.add_argument("--cpus", type=int, default=4, help="per task (default: %(default)s)")
    made.add_argument("--gigabytes", type=int, default=16, help="of memory per task (default: %(default)s)")
    made.add_argument("--setup", help='shell command before a Slurm task, such as "source .venv/bin/activate"')
    return made


def _settings(path: str) -> list[str]:
    """The section data of a recipe as words of a command line, `class_path` before what it decides."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            section = (yaml.safe_load(file) or {}).get("data") or {}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no recipe {path}; recipes are under recipes/, scales under recipes/scales/.") from None
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f"{path} is no YAML of sections: {' '.join(str(error).split())}") from None
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in _leaves({"data": section})]


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(tree.items()):
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
