"""Likelihoods as part of a test run: lm-eval's tasks and the perplexity of the test split, as the papers print them."""

import copy
import math
from typing import Literal, NamedTuple

import lightning as L
import torch
from torch import nn

from zoo.evals.evaluate import run
from zoo.evals.tasks import Loaded, Unavailable, load_tasks


class Printed(NamedTuple):
    """What a paper prints of a task: the name that it is logged under, lm-eval's metric, whether that is a share of answers."""

    name: str
    metric: str
    is_share: bool = True


TASKS = {  # of CoCoMix (arXiv 2502.08524, sec. 3.1 and Table 1), all without worked examples
    "lambada_openai": Printed("lambada_perplexity", "perplexity", False),
    "wikitext": Printed("wikitext_perplexity", "word_perplexity", False),
    "hellaswag": Printed("hellaswag", "acc_norm"),
    "piqa": Printed("piqa", "acc"),
    "social_iqa": Printed("social_iqa", "acc"),
    "arc_easy": Printed("arc_easy", "acc"),
    "winogrande": Printed("winogrande", "acc"),
}

LARGEST = 1e38  # what can be logged, in fp32: a perplexity above it is none


class Likelihoods(L.Callback):
    """At test: scores lm-eval's tasks, and logs of each what CoCoMix's tables print of it.

    `test/lambada_perplexity`, `test/wikitext_perplexity` (per word), and in percent `test/hellaswag` (by length), `test/piqa`,
    `test/social_iqa`, `test/arc_easy`, `test/winogrande`; with each, where lm-eval estimates it, `…_stderr`, and `…_truncated`,
    the percentage of requests that were too long for the net and lost their beginning. Beside them `test/perplexity`, that of the
    test split: exp of its nats per token; no loss but the next token's is in any of these. Where all are measured also averages:
    `test/average_accuracy` (and its standard error) of five, `test/average_perplexity` of three, and without the corpus's
    `test/average_task_perplexity` of two.

    Prompts, metrics and splits are lm-eval's own, as in `zoo evaluate`, which gives the same numbers of a saved net. Several
    processes share the tasks out.

    Args:
        tasks: which, by lm-eval's names.
        files: folders that hold the tasks' files, or TASK=FILE, as `zoo evaluate --files`; None: they come from the hub.
        limit: documents of each task, the first ones; None: all.
        dtype: of weights and products, whatever the training's are, so that all arms are scored alike.
        batch: contexts per forward pass.
        needed: False leaves out what cannot be had (no file, no network, no lm-eval), and says so; nothing is logged of it then.
    """

    def __init__(
        self,
        tasks: list[str] = tuple(TASKS),
        files: list[str] | None = None,
        limit: int | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch: int = 16,
        needed: bool = True,
    ):
        unknown = next((name for name in tasks if name not in TASKS), None)
        if unknown is not None or not tasks:
            raise ValueError(f"Likelihoods: tasks are some of {', '.join(TASKS)}; {unknown or 'none'} was given.")
        if batch < 1 or (limit is not None and limit < 1):
            raise ValueError(f"Likelihoods: batch ({batch}) and limit ({limit}) are at least 1.")
        self.tasks, self.files, self.limit, self.dtype = list(tasks), list(files or ()), limit, getattr(torch, dtype)
        self.batch, self.needed = batch, needed
        self.loaded: list[Loaded] | None = None

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self.loaded is None:  # what is not there is told before the training, not after it
            self.loaded = self._there()

    def _there(self) -> list[Loaded]:
        found = []
        for place, name in enumerate(self.tasks):
            try:
                found += load_tasks([name], self.files)
            except (FileNotFoundError, Unavailable) as error:
                if self.needed:
                    raise
                # a hub that is out of reach takes half a minute to say so, each time
                lost = self.tasks[place:] if isinstance(error, Unavailable) else [name]
                print(f"not measured: {', '.join(lost)} ({error})", flush=True)
                if len(lost) > 1:
                    break
        return found

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if any(hasattr(p, "full_tensor") for p in module.net.parameters()):
            raise ValueError(
                "Likelihoods are scored with whole nets, and this one is sharded: run `zoo test` on the checkpoint with "
                "--trainer.strategy=auto, one whole net per device."
            )

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        share = self.tasks[trainer.global_rank :: trainer.world_size]
        mine = self.measure(module.net, trainer.datamodule.tokenizer, [task for task in self.loaded if task.name in share])
        names = [name for task in self.tasks for name in _names(TASKS[task])]
        values = torch.tensor([[mine.get(name, 0.0), name in mine] for name in names], device=module.device)
        values = trainer.strategy.reduce(values, reduce_op="sum").tolist()
        found = {name: value for name, (value, there) in zip(names, values) if there}
        module.log_dict({f"test/{name}": value for name, value in {**found, **averages(found)}.items()})
        two, own = [found.get(printed.name) for printed in TASKS.values() if not printed.is_share], _perplexity(trainer, module)
        module.log("test/perplexity", own)
        if None not in two:
            module.log("test/average_task_perplexity", sum(two) / 2)
            module.log("test/average_perplexity", (sum(two) + own) / 3)

    def measure(self, net: nn.Module, tokenizer, tasks: list[Loaded]) -> dict[str, float]:
        """What is logged of these tasks, without the averages."""
        if not tasks:
            return {}
        from zoo.evals.harness import Harness  # takes seconds

        if any(p.dtype != self.dtype for p in net.parameters()):
            net = copy.deepcopy(net).to(self.dtype)
        found = {}
        with torch.autocast(next(net.parameters()).device.type, enabled=False):
            for task in tasks:
                printed, made = TASKS[task.name], run(task, Harness(net, tokenizer, batch=self.batch), self.limit)
                factor = 100 if printed.is_share else 1
                values = [made["metrics"][task.name].get(printed.metric + end) for end in ("", "_stderr")]
                lost = 100 * made["truncated"] / max(1, made["requests"])
                both = zip(_names(printed), [*(value and factor * value for value in values), lost])
                found |= {name: value for name, value in both if value is not None and value < LARGEST}
        return found


def averages(found: dict[str, float]) -> dict[str, float]:
    """The mean of the accuracies with its standard error, where all are there."""
    shares = [printed.name for printed in TASKS.values() if printed.is_share]
    if not set(shares) <= found.keys():
        return {}
    errors = [found.get(f"{name}_stderr") for name in shares]
    mean = {"average_accuracy": sum(found[name] for name in shares) / len(shares)}
    if None in errors:
        return mean
    return mean | {"average_accuracy_stderr": math.sqrt(sum(error**2 for error in errors)) / len(shares)}


def _perplexity(trainer: L.Trainer, module: L.LightningModule) -> float:
    """exp of the nats per token of the split that was just tested."""
    total, count = trainer.strategy.reduce(module._totals["next"], reduce_op="sum").tolist()
    return min(math.exp(min(total / count, 700.0)), LARGEST)


def _names(printed: Printed) -> tuple[str, str, str]:
    return printed.name, f"{printed.name}_stderr", f"{printed.name}_truncated"
