"""What a run does, on whatever: its net, batch and budget, found out without building, training or fetching anything."""

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

import zoo.cli
from benchmarks.memory import Memory, training_memory
from benchmarks.spec import ROOT, Run
from zoo.meter import training_flops
from zoo.sonar.named import found_at, sources

TOKENIZERS = {"hf-internal-testing/llama-tokenizer": 32000, "gpt2": 50257}  # ids of hub tokenizers, which a plan does not fetch
WIDTHS = {"text_sonar_basic_encoder": 1024}  # numbers in a vector of cards, which it does not fetch either
MEASURED = ("normalizer", "fragility")  # files that a net of sentences reads numbers from, and no sizes


@dataclass(frozen=True, eq=False)
class Net:
    """A net that is not built yet. ahead: tokens of a window behind its context; guides: windows -> what a teacher gives it;
    width: numbers in a sentence's vector, 0 where it reads tokens."""

    make: Callable[[], nn.Module]
    make_optimizer: Callable[[nn.Module], Optimizer]
    parameters: int
    ahead: int
    guides: Callable[[int], dict[str, Tensor]]
    width: int = 0


@dataclass(frozen=True)
class Work:
    """What a run does, on whatever. devices: how many batch × accumulate is meant for; validate: micro-steps between validations,
    if counted so; flops: of the whole run. Of nets that read sentences, tokens are sentences and windows full chunks;
    by_sentences: data.sentences says how many make a batch."""

    net: Net
    context: int
    batch: int
    accumulate: int
    devices: int
    steps: int
    precision: str
    validate: int | None
    flops: float
    by_sentences: bool = False

    @property
    def windows(self) -> int:
        """Of an optimizer step, over all devices."""
        return self.batch * self.accumulate * self.devices

    @property
    def tokens(self) -> int:
        return self.steps * self.windows * self.context


def workload(run: Run, devices: int) -> Work:
    """The run's net, batch and budget, as `zoo` resolves them; `devices` counts where the trainer's settings name no number."""
    settings = resolved(run)
    trainer, model = settings["trainer"], settings["model"]
    steps, accumulate, every = (trainer[key] for key in ("max_steps", "accumulate_grad_batches", "val_check_interval"))
    if steps < 1:
        raise ValueError(f"{run.row}: a plan needs trainer.max_steps, which is {steps}: set it to the steps of the run.")
    data = _instance(LightningDataModule, settings["data"])
    if not hasattr(data, "batch"):
        raise ValueError(f"{run.row}: batches of sentences in pieces, whose lengths differ, are not planned.")
    parts = {key: model["init_args"][key] for key in ("net", "optimizer")}  # the rest is schedule: nets are shared by specs
    batch, vocab, vectors = data.batch, 0, getattr(data, "view", "tokens") == "sentences"
    by_sentences = vectors and data.sentences is not None
    if vectors:
        batch, vocab = data.sentences // data.context if by_sentences else batch, width(data)
        own = {name: value for name, value in parts["net"]["init_args"].items() if name not in MEASURED}
        parts["net"] = {**parts["net"], "init_args": own}
        if "quantizer" in own and not Path(own["quantizer"]).exists():
            raise ValueError(f"{run.row}: its codebooks decide its sizes, and {own['quantizer']} is not there: make them first.")
    section = json.dumps({"class_path": model["class_path"], "init_args": parts})
    net = built(section, vocab or vocabulary(data), data.context, vectors)
    named = str(trainer["devices"])  # "auto", "8", "[0, 1]"
    if named.isdigit() and (count := int(named) * trainer["num_nodes"]) > 1:
        devices = count
    flops = micro_step_flops(net, batch, data.context) * steps * accumulate * devices
    precision = str(trainer["precision"] or "32-true")
    counted = every if type(every) is int else None
    return Work(net, data.context, batch, accumulate, devices, steps, precision, counted, flops, by_sentences)


def resolved(run: Run) -> dict:
    """Every setting of the run, as `zoo fit … --print_config` prints them."""
    words = replace(run, files=tuple(str(ROOT / file) for file in run.files)).arguments()
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            zoo.cli.main([*words, "--print_config"])
        except SystemExit as end:
            if end.code not in (0, None):
                said = complaint.getvalue().strip() or str(end.code)
                raise ValueError(f"{run.spec}, {run.row}: {said.removeprefix('zoo: ')}") from None
    return yaml.safe_load(text.getvalue())


@functools.cache
def built(model: str, vocab: int, context: int, vectors: bool = False) -> Net:
    """The net of a model section (JSON); vectors: it reads sentences, of `vocab` numbers each."""
    section = json.loads(model)
    section["init_args"] |= {"vocab": vocab, "context": context}
    module = _instance(LightningModule, section)
    make = lambda: module._make_net(vocab, context)
    with torch.device("meta"):
        net = make()
    guides = getattr(net, "guides", lambda windows: {})
    return Net(make, module._make_optimizer, sum(p.numel() for p in net.parameters()), net.ahead, guides, vocab if vectors else 0)


def _instance(kind: type, section: dict) -> Any:
    """The object that a section of a configuration describes."""
    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_subclass_arguments(kind, "it")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    return instantiate(parser.parse_object({"it": section})).it


def vocabulary(data: Any) -> int:
    """Number of ids of a DataModule's tokenizer, without a network."""
    name = data.tokenizer_name
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    if name in ("bytes", "bpe") or Path(name).expanduser().exists() or (data.folder / "tokenizer.json").exists():
        return data.vocab
    raise ValueError(
        f"How many ids the tokenizer {name!r} has is not known without a network: prepare the data first (zoo prepare), or give "
        "the path of its tokenizer.json as data.init_args.tokenizer."
    )


def width(data: Any) -> int:
    """Numbers in a sentence's vector of a DataModule, without a network."""
    first = sources(data.encoder.space)[0] if hasattr(data.encoder, "space") else None
    try:
        if first is None or found_at(first) is not None:
            return data.width
    except FileNotFoundError as error:
        raise ValueError(f"The data's space or store is not there, so nothing is planned yet: {error}") from None
    if first not in WIDTHS:
        raise ValueError(f"How wide the vectors of {first} are is not known without a network: give the folder of a space.")
    return WIDTHS[first]


def windows(net: Net, batch: int, context: int) -> dict[str, Tensor]:
    """A batch without content."""
    if net.width:
        shape = batch, context
        roles, mask = torch.empty(shape, dtype=torch.long, device="meta"), torch.empty(batch, dtype=torch.bool, device="meta")
        return {"vec": torch.empty(*shape, net.width, device="meta"), "role": roles, "mask": mask}
    types = {"tokens": torch.long, "doc": torch.long, "mask": torch.bool}
    shape = batch, context + net.ahead
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, dtype in types.items()} | net.guides(batch)


@functools.cache
def micro_step_flops(net: Net, batch: int, context: int) -> int:
    return training_flops(net.make, windows(net, batch, context))


@functools.cache
def step_memory(net: Net, batch: int, context: int, precision: str, accumulate: int, sharded: bool, gpu: bool) -> Memory:
    like = windows(net, batch, context)
    return training_memory(net.make, net.make_optimizer, like, precision, accumulate, gpu=gpu, sharded=sharded)
