"""Speed and memory of the nets beside what others would run: the nets' part of `python -m benchmarks.bench [--quick]`.

Times are medians of interleaved rounds in one process (CPU seconds of the process, and wall); CPU seconds are the figure to
compare, for wall moves with whatever else the machine does. Set OMP_WAIT_POLICY=PASSIVE, or waiting threads count as work on a
busy machine. Memory is taken in one child process per variant: the highest resident size during the second step minus the
resident size between steps, with an allocator that hands freed memory back at once: what the step holds, not what malloc keeps.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from zoo.mtp import MTP
from zoo.nn.losses import linear_cross_entropy
from zoo.ntp import NextToken

BASE = {"layers": 8, "dim": 512, "heads": 8, "vocab": 50257, "context": 1024, "rows": 2}
QUICK = {"layers": 6, "dim": 128, "heads": 4, "vocab": 8192, "context": 256, "rows": 2}
MIB = 2**20


def stacked(net: MTP, batch: dict) -> torch.Tensor:
    """All logits of all heads, then the loss: what one writes first."""
    tokens, n = batch["tokens"], net.n
    length = tokens.shape[1] - n
    h = net.trunk.blocks(net.trunk.embed(tokens[:, :length]))
    logits = net.trunk.unembed(net.trunk.norm(torch.stack([net._head(i, h) for i in range(n)], 2)))  # (B, T, n, V)
    targets = torch.stack([tokens[:, i : i + length] for i in range(1, n + 1)], 2)
    return n * F.cross_entropy(logits.flatten(0, 2), targets.flatten())


def one_graph(net: MTP, batch: dict) -> torch.Tensor:
    """Our own chunked loss for each head, one graph and one backward pass for all: what head-by-head must not be slower than."""
    tokens, n = batch["tokens"], net.n
    length = tokens.shape[1] - n
    h = net.trunk.blocks(net.trunk.embed(tokens[:, :length]))
    loss = 0.0
    for i in range(n):
        head = net.trunk.norm(net._head(i, h))
        loss = loss + linear_cross_entropy(head, net.trunk.unembedding, tokens[:, i + 1 : i + 1 + length])[0] / (
            len(tokens) * length
        )
    return loss


def variant(name: str, shape: dict) -> Callable[[], None]:
    """One whole training step (forward, backward, clipping, AdamW) of a named variant, as a function."""
    torch.manual_seed(0)
    kind, _, form = name.partition("/")
    sizes = {k: shape[k] for k in ("vocab", "context", "dim", "layers", "heads")}
    ahead = 4 if kind == "mtp4" else 1
    batch = {"tokens": torch.randint(0, shape["vocab"], (shape["rows"], shape["context"] + ahead))}
    batch["mask"] = torch.ones_like(batch["tokens"], dtype=torch.bool)
    if kind == "transformers":
        from transformers import GPT2Config, GPT2LMHeadModel

        net = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape["vocab"],
                n_positions=shape["context"],
                n_embd=shape["dim"],
                n_layer=shape["layers"],
                n_head=shape["heads"],
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                attn_implementation="sdpa",
            )
        )
        tokens = batch["tokens"][:, :-1].contiguous()
        loss = lambda: net(input_ids=tokens, labels=tokens).loss
    else:
        net = NextToken(**sizes, flavour="gpt2") if kind == "next" else MTP(n=ahead, **sizes, flavour="gpt2")
        loss = {"stacked": lambda: stacked(net, batch), "one graph": lambda: one_graph(net, batch)}.get(
            form, lambda: net(batch)["loss"]
        )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    precision = (lambda: torch.autocast("cpu", torch.bfloat16)) if form == "bf16" else nullcontext

    def step() -> None:
        with precision():
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def times(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU seconds, wall seconds) of each step and round, the steps taking turns; each runs once before."""
    for step in steps.values():
        step()
    taken = {name: [] for name in steps}
    for turn in range(rounds):
        for name in list(steps) if turn % 2 == 0 else list(steps)[::-1]:
            cpu, wall = time.process_time(), time.perf_counter()
            steps[name]()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return taken


def status(field: str) -> int:
    """A size in bytes from this process's /proc status, e.g. VmRSS or VmHWM."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def transient(name: str, shape: dict) -> float:
    """MiB that the second step needs beyond what is resident between steps; run it in a process of its own."""
    step = variant(name, shape)
    step()
    gc.collect()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak starts anew from here
    between = status("VmRSS")
    step()
    return (status("VmHWM") - between) / MIB


def memory(names: list[str], quick: bool, module: str = "bench_nets") -> dict[str, float]:
    """MiB per variant as `module`, run with --memory, prints them: each in a child process."""
    found = {}
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{module}", "--memory", name, *(["--quick"] if quick else [])]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(
    name: str, ours: float, anchor: float, unit: str, target: str = "", measured: float | None = None, ratio: float | None = None
) -> dict:
    """A line of the report; `target` is a limit such as "<= 1.1" on `measured`, by default the ratio of ours to the anchor."""
    ratio = ours / anchor if ratio is None else ratio
    measured = ratio if measured is None else measured
    sign, _, rest = target.partition(" ")
    ok = not target or (measured >= float(rest.split()[0]) if sign == ">=" else measured <= float(rest.split()[0]))
    return {"name": name, "ours": ours, "anchor": anchor, "ratio": ratio, "target": target, "unit": unit, "ok": ok}


def main(quick: bool = False, rounds: int = 3) -> list[dict]:
    """Measure everything: rows {name, ours, anchor, ratio, target, unit, ok}. Some minutes; `quick` one, to see that it works."""
    torch.set_num_threads(2)
    shape = QUICK if quick else BASE
    made = lambda names: {name: variant(name, shape) for name in names}
    taken = times(made(["next/fp32", "transformers/fp32", "next/bf16", "transformers/bf16"]), rounds)
    taken |= times(made(["mtp1/fp32", "mtp4/fp32", "mtp4/one graph"]), max(1, rounds - 1))
    used = memory(["next/fp32", "transformers/fp32", "mtp1/fp32", "mtp4/fp32", "mtp4/one graph", "mtp4/stacked"], quick)
    tokens, rows = shape["rows"] * shape["context"], []

    def seconds(name: str, clock: int) -> float:
        return statistics.median(x[clock] for x in taken[name])

    def paired(a: str, b: str, clock: int) -> float:
        return statistics.median(x[clock] / y[clock] for x, y in zip(taken[a], taken[b]))

    for dtype in ("fp32", "bf16"):
        ours, theirs = f"next/{dtype}", f"transformers/{dtype}"
        for clock, word, target in ((0, "CPU", ">= 1.10"), (1, "wall", "")):
            rows.append(
                row(
                    f"trunk {dtype}: tokens per {word} s beside transformers",
                    tokens / seconds(ours, clock),
                    tokens / seconds(theirs, clock),
                    "tok/s",
                    target,
                    ratio=paired(theirs, ours, clock),
                )
            )
    rows.append(
        row(
            "trunk bf16: tokens per CPU s beside own fp32",
            tokens / seconds("next/bf16", 0),
            tokens / seconds("next/fp32", 0),
            "tok/s",
            ">= 1.6",
            ratio=paired("next/fp32", "next/bf16", 0),
        )
    )
    rows.append(
        row(
            "trunk fp32: transient memory beside transformers",
            used["next/fp32"],
            used["transformers/fp32"],
            "MiB",
            "<= 800 MiB",
            measured=used["next/fp32"],
        )
    )
    for name, beside, target in (
        ("all logits stacked", "mtp4/stacked", "<= 0.12"),
        ("one graph, chunked", "mtp4/one graph", ""),
        ("n=1", "mtp1/fp32", "<= 1.1"),
    ):
        rows.append(row(f"MTP n=4: transient memory beside {name}", used["mtp4/fp32"], used[beside], "MiB", target))
    for name, beside, target in (("one graph, chunked", "mtp4/one graph", "<= 1.05"), ("n=1", "mtp1/fp32", "<= 2.7")):
        rows.append(
            row(
                f"MTP n=4: CPU s per step beside {name}",
                seconds("mtp4/fp32", 0),
                seconds(beside, 0),
                "s",
                target,
                ratio=paired("mtp4/fp32", beside, 0),
            )
        )
    return rows


if __name__ == "__main__":  # a child process of `memory`; the report is `python -m benchmarks.bench`
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", metavar="VARIANT", required=True, help="print the transient MiB of one variant")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(2)
    print(json.dumps(transient(given.memory, QUICK if given.quick else BASE)))
