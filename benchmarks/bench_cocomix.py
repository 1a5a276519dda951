"""Speed and memory of CoCoMix's training step: its part of `python -m benchmarks.bench [--quick]`.

The anchor does the work that the released code does (benchmarks/released_cocomix.py), in the same process, turn by turn; CPU
seconds are the figure to compare, as in bench_nets.py. Beside it stand the released code's own CPU seconds and memory, which were
measured once on another machine: the seconds are scaled by how fast either machine multiplies matrices.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.bench_nets import MIB, memory, row, status, times
from benchmarks.released_cocomix import Extraction, Student
from zoo.cocomix.attribution import NONE, ConceptExtractor
from zoo.cocomix.net import CoCoMix
from zoo.cocomix.sae import SparseAutoencoder
from zoo.ntp import NextToken

# The 69M net of App. A, insertion before its fourth block, and a teacher of GPT-2 small's shape tapped after six blocks.
FULL = {
    "vocab": 50257, "context": 256, "student": {"dim": 512, "layers": 8, "heads": 8, "insert": 3}, "concepts": 32768, "keep": 32,
    "teacher": {"dim": 768, "layers": 12, "heads": 12}, "layer": 6, "matched": {"dim": 624, "layers": 8, "heads": 8},
}  # fmt: skip
QUICK = {
    "vocab": 512, "context": 32, "student": {"dim": 32, "layers": 4, "heads": 2, "insert": 2}, "concepts": 256, "keep": 8,
    "teacher": {"dim": 48, "layers": 3, "heads": 2}, "layer": 2, "matched": {"dim": 40, "layers": 4, "heads": 2},
}  # fmt: skip
ARMS = ("released/fp32", "online/fp32", "online/bf16", "cached/fp32", "cached/bf16", "next/fp32")
# The released code at FULL with one window of 256 tokens, and the fp32 matrix product (2048 x 512 x 2048) of that machine.
RELEASED = {"seconds": 8.0, "mib": 4644, "gflop_per_second": 80.0}


class Steps:
    """Whole training steps (labels, forward, backward, clipping, AdamW) of the arms of one shape, on nets with the same weights.

    The arms of our own share a net: they differ in where labels come from and in the products' type.
    """

    def __init__(self, shape: dict):
        torch.manual_seed(0)
        self.shape = shape
        teacher = NextToken(shape["vocab"], shape["context"], **shape["teacher"], flavour="gpt2")
        sae = SparseAutoencoder(shape["teacher"]["dim"], shape["concepts"], shape["keep"])
        self.extractor = ConceptExtractor(teacher, sae, shape["layer"])
        self.net = self.student()

    def student(self) -> CoCoMix:
        shape = self.shape
        return CoCoMix(shape["vocab"], shape["context"], **shape["student"], concepts=shape["concepts"], keep=shape["keep"])

    def tokens(self, rows: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(rows)
        return torch.randint(0, self.shape["vocab"], (rows, self.shape["context"] + 1), generator=draw)

    def made(self, names: list[str], rows: int) -> dict[str, Callable[[], None]]:
        """The step of each arm, as a function."""
        tokens, found = self.tokens(rows), {}
        batch = {"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)}
        ours = lambda labels: self.net(batch | {"concepts": F.pad(labels(), (0, 0, 0, 1), value=NONE)})["loss"]
        update = _update(self.net) if set(names) - {"released/fp32", "next/fp32"} else None
        for name in names:
            kind, _, form = name.partition("/")
            if kind == "released":
                found[name] = self._released(tokens[:, :-1])
            elif kind == "next":
                base = NextToken(self.shape["vocab"], self.shape["context"], **self.shape["matched"], flavour="gpt2")
                found[name] = _step(_update(base), lambda base=base: base(batch)["loss"], form)
            else:
                labels = lambda: self.extractor(tokens)
                if kind == "cached":
                    known = self.extractor(tokens)
                    labels = lambda known=known: known
                found[name] = _step(update, lambda labels=labels: ours(labels), form)
        return found

    def _released(self, tokens: torch.Tensor) -> Callable[[], None]:
        extraction, student = Extraction(self.extractor), Student(self.net)
        update = _update(student)

        def loss() -> torch.Tensor:
            labels, attribution = extraction(tokens)
            next_token, concept = student(tokens, labels)
            whole = next_token + student.lam * concept
            whole.register_hook(lambda _, held=attribution: None)  # it lives until the backward pass
            return whole

        return _step(update, loss, "fp32")


def _update(net: torch.nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def _step(update: Callable[[], None], loss: Callable[[], torch.Tensor], form: str) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "bf16"):
            value = loss()
        value.backward()
        update()

    return step


def peak(name: str, shape: dict) -> float:
    """MiB that are resident at most in an arm's second step, libraries included; run it in a process of its own."""
    steps = Steps(shape)
    step = steps.made([name], 1)[name]
    if name.startswith("released"):
        del steps.extractor, steps.net
    step()
    gc.collect()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak starts anew from here
    step()
    return status("VmHWM") / MIB


def ceiling(seconds: float = 1.0) -> float:
    """GFLOP per CPU second of the fp32 product 2048 x 512 x 2048."""
    a, b, count = torch.randn(2048, 512), torch.randn(512, 2048), 0
    for _ in range(3):
        a @ b
    began = time.process_time()
    while time.process_time() - began < seconds:
        a @ b
        count += 1
    return count * 2 * 2048 * 512 * 2048 / 1e9 / (time.process_time() - began)


def work(steps: Steps, rows: int) -> dict[str, float]:
    """GFLOP of a step with labels at hand and of one that makes them: all products, attention over all pairs."""
    from zoo.cocomix.teacher import reading_flops
    from zoo.meter import training_flops

    shape, width = steps.shape, (rows, steps.shape["context"] + 1)
    batch = {"tokens": torch.empty(width, dtype=torch.int64), "mask": torch.empty(width, dtype=torch.bool)}
    student = training_flops(steps.student, batch | {"concepts": torch.empty(*width, 4, dtype=torch.int64)}) / 1e9
    teacher = rows * reading_flops(steps.extractor.teacher, steps.extractor, shape["context"]) / 1e9
    return {"online/fp32": student + teacher, "cached/fp32": student}


def main(quick: bool = False, rounds: int = 3) -> list[dict]:
    """Measure everything: rows {name, ours, anchor, ratio, target, unit, ok}. Four minutes; `quick` seconds."""
    torch.set_num_threads(2)
    shape, rounds = (QUICK, 1) if quick else (FULL, rounds)
    used = memory(["released/fp32", "online/fp32"], quick, "bench_cocomix")
    steps, fast, rows = Steps(shape), ceiling(0.1 if quick else 2.0), []
    for windows in (1, 4):
        taken = times(steps.made([name for name in ARMS if windows > 1 or name != "next/fp32"], windows), rounds)
        rows += _rows(taken, work(steps, windows), fast, windows * shape["context"], quick)
    name = f"CoCoMix step, {shape['context']} tokens, fp32, online labels: peak memory beside "
    rows.append(row(name + "the released way", used["online/fp32"], used["released/fp32"], "MiB"))
    if not quick:
        rows.append(row(name + "the released code's", used["online/fp32"], RELEASED["mib"], "MiB", "<= 0.66"))
    return rows


def _rows(taken: dict, needed: dict[str, float], fast: float, tokens: int, quick: bool) -> list[dict]:
    """Of one number of tokens a step. fast: GFLOP per CPU second of a matrix product; needed: GFLOP of an arm's step."""
    seconds = lambda name, clock=0: statistics.median(x[clock] for x in taken[name])
    paired = lambda a, b, clock=0: statistics.median(x[clock] / y[clock] for x, y in zip(taken[a], taken[b]))
    head, rows = f"CoCoMix step, {tokens:,} tokens, ", []
    for name, clock, target in (
        ("online/fp32", 0, ">= 1.8"),
        ("online/fp32", 1, ""),
        ("online/bf16", 0, ">= 2.7"),
        ("cached/fp32", 0, ">= 3.3"),
        ("cached/bf16", 0, ""),
    ):
        labels, form = name.split("/")
        told = f"{head}{form}, {labels} labels: {('CPU', 'wall')[clock]} s beside the released way"
        given = (seconds(name, clock), seconds("released/fp32", clock), "s", target)
        rows.append(row(told, *given, ratio=paired("released/fp32", name, clock)))
    if "next/fp32" in taken:
        told = f"{head}fp32, cached labels: CPU s beside the next-token net of its size"
        given = (seconds("cached/fp32"), seconds("next/fp32"), "s", "<= 1.45")
        rows.append(row(told, *given, ratio=paired("cached/fp32", "next/fp32")))
    elif not quick:
        theirs = RELEASED["seconds"] * RELEASED["gflop_per_second"] / fast
        for name in ("online/fp32", "online/bf16", "cached/fp32"):
            labels, form = name.split("/")
            told = f"{head}{form}, {labels} labels: CPU s beside the released code's on another machine, scaled"
            rows.append(row(told, seconds(name), theirs, "s", ratio=theirs / seconds(name)))
    for name, each in needed.items():
        told = f"{head}fp32, {name.split('/')[0]} labels: speed beside the matrix product's"
        rows.append(row(told, each / seconds(name), fast, "GFLOP/s"))
    return rows


if __name__ == "__main__":  # a child process of `memory`; the report is `python -m benchmarks.bench`
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", metavar="ARM", required=True, help="print the peak MiB of one arm")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(2)
    print(json.dumps(peak(given.memory, QUICK if given.quick else FULL)))
