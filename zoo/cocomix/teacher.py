"""A frozen teacher that reads every batch before the student does (CoCoMix, secs. 2.1 and 3)."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cocomix.attribution import NONE, ConceptExtractor, Score
from zoo.cocomix.sae import SETTINGS, SparseAutoencoder
from zoo.data.labels import WindowLabels, belongs, differences, read_about
from zoo.data.order import permute
from zoo.evals.checkpoint import Checkpoint, open_checkpoint
from zoo.meter import training_flops
from zoo.pretrained import CONFIG, NextToken

MEANING = ("teacher", "layer", "autoencoder", "score", "candidates", "labels")  # what a concept's number means hangs on
USUAL = {"layer": 6, "labels": 4, "score": "attribution", "candidates": "active"}
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt"]


class Teacher(L.Callback):
    """Adds to each batch what a teacher makes of it, in training, validation and test.

    Args:
        net: the teacher: a run folder, a folder of save_pretrained or of transformers' GPT-2 or Llama, or a name of the hub (the
            paper's: "openai-community/gpt2"), with the data's tokenizer. None, with `cached`: those labels are taken as they are.
        gives: what is added, for `zoo.cocomix.CoCoMix`: "concepts" (B, T + ahead, K), labels as `ConceptExtractor` finds them;
            "states" (B, T, E), hidden states after `layer` blocks; "logits": teacher (B, T, F) and unembedding (V, F).
        sae: for concepts, the autoencoder of the states after `layer` blocks: a folder that sae-lens saved, or one of its
            releases (the paper's: "gpt2-small-resid-post-v5-32k/blocks.5.hook_resid_post").
        layer: blocks below the states (6 of GPT-2's 12: "layer index 5").
        labels, score, candidates: of `ConceptExtractor`.
        cached: folder of labels that `zoo prepare concepts` wrote for these windows: concepts are read there, not computed, and
            a `layer`, `labels`, `score` or `candidates` other than the default is to be theirs.

    The teacher is no part of the student, its parameters or its checkpoints. Under autocast its products run in the same type as
    the student's.
    """

    def __init__(
        self,
        net: str | None,
        gives: list[Literal["concepts", "states", "logits"]],
        sae: str | None = None,
        layer: int = 6,
        labels: int = 4,
        score: Score = "attribution",
        candidates: Literal["active", "all"] = "active",
        cached: str | None = None,
    ):
        if net is None and not (cached and gives == ["concepts"] and sae is None):
            raise ValueError("Teacher: without a net there are cached concepts only: give `cached` and no `sae`, or a net.")
        if net is not None and ("concepts" in gives) != (sae is not None):
            raise ValueError("Teacher: `sae` and concepts among `gives` go together: give both, or neither.")
        if not gives:
            raise ValueError("Teacher: `gives` is empty: name concepts, states or logits, or leave the teacher out.")
        self.net, self.gives, self.sae, self.layer, self.cached = net, gives, sae, layer, cached
        self.choice = {"labels": labels, "score": score, "candidates": candidates}
        self.teacher: nn.Module | None = None
        self.extractor: ConceptExtractor | None = None
        self.kept: dict[str, WindowLabels] = {}
        self.flops: tuple[float, float] | None = None
        self.of: dict = {}  # what is given, as plain values

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Raises FileNotFoundError or ValueError, in a sentence, where the teacher cannot be had or does not fit the data."""
        if self.teacher is not None or self.kept:
            return
        if self.cached is not None:
            self.kept = {split: WindowLabels(self.cached, split) for split in ("train", "validation", "test")}
            data = trainer.datamodule
            given = {key: value for key, value in {"layer": self.layer, **self.choice}.items() if value != USUAL[key]}
            belongs(Path(self.cached), {"corpus": data.fingerprint, "context": data.context, **given})
            self.of = read_about(Path(self.cached))
            if "concepts" in self.gives:
                data.sidecars["concepts"] = self.kept  # they come with the batch: no GPU is asked which windows it reads
        if self.net is None:
            return
        opened, device = opened_teacher(self.net, trainer.datamodule), trainer.strategy.root_device  # the module moves later
        if "logits" in self.gives and opened.net.vocab != module.vocab:
            raise ValueError(
                f"The teacher in {self.net} has {opened.net.vocab} token ids and the student {module.vocab}: their logits cannot "
                "be compared, leave logits out of `gives`."
            )
        self.teacher = opened.net.requires_grad_(False).eval().to(device)
        self.of = self.of or {"teacher": _identity(opened), "layer": self.layer}
        if self.sae is not None:
            sae = opened_sae(self.sae, self.layer, opened).to(device)
            self.extractor = ConceptExtractor(self.teacher, sae, self.layer, **self.choice)
            made = about(trainer.datamodule, opened, self.extractor, self.of.get("products") == "bfloat16")
            if self.cached is None:
                self.of = made
            else:
                belongs(Path(self.cached), made)
                if self.gives == ["concepts"]:
                    self.teacher = self.extractor = None  # it has nothing left to do

    def state_dict(self) -> dict:
        return {"of": {key: self.of[key] for key in MEANING if key in self.of}}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError where a checkpoint was trained on what another teacher, autoencoder or score gives."""
        if wrong := differences(self.of, {key: value for key, value in state["of"].items() if key in self.of}):
            raise ValueError(
                f"the checkpoint was trained with another teacher than this one, of {wrong}: give the teacher it had."
            )

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Raises ValueError, in a sentence, where labels are of other concepts than the net's, or missing."""
        self._refuse_others(module.net)
        if self.kept and trainer.max_steps > 0:
            micro_batches = trainer.max_steps * trainer.accumulate_grad_batches * trainer.world_size
            for split, numbers in windows(trainer.datamodule, [trainer.datamodule.seed], micro_batches).items():
                self.kept[split].refuse_missing(numbers)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._refuse_others(module.net)

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._refuse_others(module.net)

    def _refuse_others(self, net: nn.Module) -> None:
        mixer = getattr(net, "mixer", None)
        theirs = getattr(getattr(mixer, "predictor", None), "num_embeddings", None)
        if "concepts" in self.gives and theirs is not None and theirs != self.of.get("concepts", theirs):
            raise ValueError(
                f"The labels are of {self.of['concepts']} concepts and the net predicts {theirs}: give "
                "model.init_args.net.init_args.concepts the size of the autoencoder."
            )

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if self.flops is None:
            self.flops = self._window_flops(trainer.datamodule.context)
        self._read(trainer, batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Leaves teacher_flops for the benchmark runner: what the teacher took so far, of cached labels each window once."""
        windows = (trainer.fit_loop.total_batch_idx + 1) * len(batch["tokens"]) * trainer.world_size  # of all epochs
        online, cached = self.flops
        most = trainer.datamodule.windows("train")
        module.measured = {**getattr(module, "measured", {}), "teacher_flops": online * windows + cached * min(windows, most)}

    def _window_flops(self, context: int) -> tuple[float, float]:
        """Floating-point operations for a window: what runs here, and what was spent when its cached labels were made."""
        cached = float(self.kept["train"].about.get("flops", 0.0)) if self.kept else 0.0
        if self.teacher is None:
            return 0.0, cached
        extractor = None if self.kept or "concepts" not in self.gives else self.extractor
        layers = len(self.teacher.trunk.layers) if "logits" in self.gives else self.layer
        reads = "logits" in self.gives or "states" in self.gives
        unembedding = 2 * context * self.teacher.trunk.unembedding.numel() if "logits" in self.gives else 0
        return unembedding + reading_flops(self.teacher, extractor, context, layers if reads else 0), cached

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        self._read(trainer, batch)

    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        self._read(trainer, batch)

    def _read(self, trainer: L.Trainer, batch: dict[str, Tensor]) -> None:
        length, tokens = trainer.datamodule.context, batch["tokens"]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            if "concepts" in self.gives and not self.kept:
                labels = self.extractor(tokens[:, : length + 1])  # (B, T, K)
                batch["concepts"] = F.pad(labels, (0, 0, 0, tokens.shape[1] - length), value=NONE)
            if "states" in self.gives or "logits" in self.gives:
                trunk = self.teacher.trunk
                states = trunk.blocks(trunk.embed(tokens[:, :length]), stop=self.layer)
                if "states" in self.gives:
                    batch["states"] = states
                if "logits" in self.gives:
                    batch |= {"teacher": trunk.norm(trunk.blocks(states, start=self.layer)), "unembedding": trunk.unembedding}


class _Reading(nn.Module):
    """What a teacher does to a window, in the form that `training_flops` counts."""

    def __init__(self, teacher: nn.Module, extractor: ConceptExtractor | None, layers: int):
        super().__init__()
        self.teacher, self.extractor, self.layers = teacher, extractor, layers

    def forward(self, batch: dict[str, Tensor]) -> dict:
        with torch.no_grad():
            if self.extractor is not None:
                self.extractor(batch["tokens"])
            if self.layers:
                self.teacher.trunk.blocks(self.teacher.trunk.embed(batch["tokens"][:, :-1]), stop=self.layers)
        return {"loss": torch.zeros((), requires_grad=True)}


def reading_flops(teacher: nn.Module, extractor: ConceptExtractor | None, context: int, layers: int = 0) -> float:
    """Floating-point operations for one window of `context` tokens: of labelling it, if there is an extractor, and of sending it
    through `layers` blocks of the teacher."""
    reading = _Reading(teacher, extractor, layers)

    def make() -> _Reading:
        """A copy without weights: a teacher may be large."""
        empty = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in reading.parameters()}
        return copy.deepcopy(reading, empty)

    return float(training_flops(make, {"tokens": torch.empty(1, context + 1, dtype=torch.int64)}))


def about(data, teacher: Checkpoint, extractor: ConceptExtractor, bf16: bool) -> dict:
    """What labels are of: all that they depend on, as plain values."""
    return {
        "corpus": data.fingerprint,
        "context": data.context,
        "teacher": _identity(teacher),
        "products": "bfloat16" if bf16 else "float32",
        "layer": extractor.layer,
        "autoencoder": extractor.sae.digest[:16],
        "concepts": extractor.sae.latents,
        "score": extractor.score,
        "candidates": extractor.candidates,
        "labels": extractor.labels,
    }


def _identity(teacher: Checkpoint) -> str:
    return hashlib.sha256((teacher.digest + (teacher.folder / CONFIG).read_text()).encode()).hexdigest()[:16]


def windows(data, seeds: list[int] | None, micro_batches: int) -> dict[str, np.ndarray]:
    """The numbers of the windows that runs with these seeds read in so many micro-batches, and what they are scored on.

    seeds None: all windows of the training split.
    """
    count = data.windows("train")
    if seeds is None:
        train = np.arange(count)
    else:
        train = np.unique(np.concatenate([permute(np.arange(micro_batches * data.batch), count, seed) for seed in seeds]))
    scored = {"validation": data.val_dataloader().batches, "test": data.test_dataloader().batches}
    return {"train": train, **{split: each.window(np.arange(each.scored)) for split, each in scored.items()}}


def opened_sae(name: str, layer: int, teacher: Checkpoint) -> SparseAutoencoder:
    """The autoencoder of this name (`SparseAutoencoder.opened`), for the states that the teacher has after `layer` blocks.

    Raises FileNotFoundError or ValueError, in a sentence, also where it is known to be of other states.
    """
    made, place = SparseAutoencoder.opened(name), Path(name).expanduser() / SETTINGS
    theirs: dict = {}
    if place.is_file():
        theirs = json.loads(place.read_text(encoding="utf-8"))
    elif hook := re.search(r"blocks\.(\d+)\.hook_resid_(pre|post)$", name):
        theirs = {"layer": int(hook[1]) + (hook[2] == "post")}
    if wrong := differences(
        theirs, {key: value for key, value in (("layer", layer), ("teacher", teacher.digest[:16])) if key in theirs}
    ):
        raise ValueError(f"The autoencoder {name} was trained on other states, of {wrong}: give the layer and teacher it is of.")
    return made


def opened_teacher(name: str, data) -> Checkpoint:
    """The net in the folder of this name, or that the hub has under it, for windows of a DataModule.

    Raises FileNotFoundError or ValueError, in a sentence, where it cannot be had or does not fit the data.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and name.count("/") < 2:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=FILES))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"There is no folder {name}, and the hub does not give it ({type(error).__name__}): give a folder of the teacher."
            ) from None
    opened = open_checkpoint(folder)
    if not isinstance(opened.net, NextToken):
        raise ValueError(
            f"The teacher in {name} is a {type(opened.net).__name__}, and a teacher is read as a plain next-token net: give one, "
            "or what zoo.pretrained.to_transformers writes of it."
        )
    if opened.tokenizer.fingerprint != data.tokenizer.fingerprint:
        raise ValueError(f"The teacher in {name} has another tokenizer than the data: give data.tokenizer its own.")
    opened.net.trunk.fits(data.context)
    return opened
