"""What a run shows and measures of its concepts: which ones are predicted, and how well they steer."""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from zoo.cocomix.attribution import NONE, ConceptExtractor
from zoo.cocomix.cards import Cards, prepared
from zoo.cocomix.mass import picks, score
from zoo.cocomix.predicted import concepts_of, table
from zoo.cocomix.prompts import PROMPTS
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher
from zoo.cocomix.teacher import opened_sae, opened_teacher
from zoo.data.labels import belongs
from zoo.data.loader import spread
from zoo.generate import generate


class ConceptTable(L.Callback):
    """At validation: TensorBoard text of greedy continuations of held-out prompts, with the likeliest concepts behind each token.

    Args:
        prompts: how many, the first tokens of windows spread evenly over the validation split.
        prompt_tokens, tokens: how long a prompt is, and how much is added.
        top: concepts per token.
        cards: folder of cards (`zoo cards`), to say what the concepts stand for.
    """

    def __init__(self, prompts: int = 3, prompt_tokens: int = 32, tokens: int = 16, top: int = 4, cards: str | None = None):
        if min(prompts, prompt_tokens, tokens, top) < 1:
            raise ValueError("ConceptTable: prompts, prompt_tokens, tokens and top are at least 1.")
        self.prompts, self.prompt_tokens, self.tokens, self.top, self.folder = prompts, prompt_tokens, tokens, top, cards
        self.cards: Cards | None = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        concepts = concepts_of(module.net)
        self.cards = Cards.load(self.folder, concepts) if self.folder else None

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        net, data = module.net, trainer.datamodule
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        if any(hasattr(p, "full_tensor") for p in net.parameters()):
            return  # a sharded net answers to forward alone
        count = data.windows("validation")
        chosen = spread(np.arange(min(self.prompts, count)), count, min(self.prompts, count))
        starts, length = chosen * data.context, min(self.prompt_tokens, data.context)
        prompts = data.stores["validation"].windows(starts, length).tolist()
        texts = generate(net, prompts, self.tokens).tokens
        for i, (prompt, new) in enumerate(zip(prompts, texts)):
            shown = table(net, data.tokenizer, prompt, new, self.top, self.cards)
            text = f"```\n{data.decode(prompt)}\n\n{shown}\n```"
            trainer.logger.experiment.add_text(f"concepts/{i}", text, trainer.global_step)


class SteeringScore(L.Callback):
    """At test: how much more a concept, when it is set, raises the probability of its own tokens than random ones do.

    `zoo.cocomix.mass` says what is measured. Concepts, their tokens and the random ones are picked from the cards of the training
    text (`picks`), which are made where they are missing. Everything is computed in the weights' own type, without autocast.

    Args:
        labels: folder that `zoo prepare concepts` wrote for these data.
        teacher, sae, layer: of the labels, as `zoo.cocomix.teacher.Teacher` takes them: the teacher is scored too, through its
            autoencoder. None: CoCoMix alone.
        teacher_labels: the labels whose cards say what the teacher's concepts stand for; None takes `labels`. Labels chosen by
            +attribution stand where a concept makes the next token less likely in the teacher: it is to be asked with those that
            are chosen by activation.
        prompts: texts; the score is what is predicted right after them.
        concepts, others, least: how many are scored, beside how many random ones each, and in how many places of the training
            text they stand at least.
        factor, everywhere, rows: of `score`.
        seed: of the random ones.

    Logs, in nats: steering, its steering_interval (half of the 95 % interval over concepts), steering_own and steering_other
    (whose difference it is), and of the teacher steering_teacher, steering_teacher_interval, …; where `teacher_labels` are other
    labels, steering_teacher_same, … are the teacher's for the very concepts and tokens that CoCoMix is scored on (the paper sets
    the same concept in both); and the counts steering_concepts, steering_others and steering_prompts.
    """

    def __init__(
        self,
        labels: str,
        teacher: str | None = None,
        sae: str | None = None,
        layer: int = 6,
        prompts: tuple[str, ...] = PROMPTS,
        concepts: int = 50,
        others: int = 20,
        least: int = 100,
        factor: float = 4.0,
        everywhere: bool = True,
        rows: int = 64,
        seed: int = 0,
        teacher_labels: str | None = None,
    ):
        if (teacher is None) != (sae is None):
            raise ValueError("SteeringScore: `teacher` and `sae` go together: give both, or neither.")
        if min(concepts, others, least, rows, len(prompts)) < 1:
            raise ValueError("SteeringScore: concepts, others, least, rows and the number of prompts are at least 1.")
        self.labels, self.teacher, self.sae, self.layer = labels, teacher, sae, layer
        self.prompts, self.concepts, self.others, self.least = prompts, concepts, others, least
        self.factor, self.everywhere, self.rows, self.seed = factor, everywhere, rows, seed
        self.teacher_labels = teacher_labels or labels

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """What cannot be measured is refused here, before a test that would be lost with it."""
        if trainer.world_size > 1:
            raise ValueError("SteeringScore measures in one process: test the saved net with --trainer.devices=1.")
        data = trainer.datamodule
        student = SteerableCoCoMix(module.net)
        nets: dict[str, tuple[SteerableCoCoMix | SteerableTeacher, str]] = {"steering": (student, self.labels)}
        if self.teacher is not None:
            opened = opened_teacher(self.teacher, data)
            sae = opened_sae(self.sae, self.layer, opened)
            for folder in {self.labels, self.teacher_labels}:
                belongs(Path(folder), {"autoencoder": sae.digest[:16], "layer": self.layer})
            teacher = SteerableTeacher(opened.net, sae, self.layer)
            nets["steering_teacher"] = teacher.to(module.device), self.teacher_labels
            if self.teacher_labels != self.labels:
                nets["steering_teacher_same"] = teacher, self.labels
        choice = self.concepts, self.others, self.least, self.seed
        self.wanted = {name: (net, picks(prepared(labels, data, net.concepts), *choice)) for name, (net, labels) in nets.items()}

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data = trainer.datamodule
        prompts = [data.encode(text) or [data.tokenizer.eos] for text in self.prompts]
        for name, (net, picked) in self.wanted.items():
            found = score(net, prompts, picked, self.factor, self.everywhere, self.rows)
            measured = {"": found.mean, "_interval": found.interval, "_own": found.own.mean(), "_other": found.other.mean()}
            measured["_none"] = 0.0  # what a concept's tokens gain where nothing is set
            for key, value in measured.items():
                module.log(f"test/{name}{key}", float(value))
        counts = {"concepts": self.concepts, "others": self.others, "prompts": len(prompts)}
        for key, value in counts.items():
            module.log(f"test/steering_{key}", float(value))


class LabelAgreement(L.Callback):
    """At test: how much labels hang on the way in which they are computed, on windows of the test split.

    Args:
        teacher, sae, layer: as `zoo.cocomix.teacher.Teacher` takes them.
        windows: how many are labelled, spread evenly over the split; exact_windows: how many of them position by position too,
            each at the cost of as many backward passes as it has tokens.
        labels: per position.

    Logs, in percent of the labels that are chosen by attribution to the window's whole loss, among the active latents, in the
    teacher's own type: agreement_bf16, how many are chosen in bfloat16 too; agreement_all, among all latents by
    pre-activation (version 1 of the paper); agreement_exact, by each position's own next token (the loss of eq. 1);
    agreement_activation, by activation; and agreement_chance, how many of the active latents labels are. In percent of the
    labels by each position's own next token: exact_window, how many are chosen by the whole window's loss too, and
    exact_activation, by activation. labelled: percent of places that have any.
    """

    def __init__(self, teacher: str, sae: str, layer: int = 6, windows: int = 64, exact_windows: int = 4, labels: int = 4):
        if not 1 <= exact_windows <= windows or labels < 1:
            raise ValueError("LabelAgreement: labels is at least 1, exact_windows too and at most windows.")
        self.teacher, self.sae, self.layer, self.labels = teacher, sae, layer, labels
        self.windows, self.exact_windows = windows, exact_windows

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with torch.inference_mode(False), torch.no_grad():  # a gradient wants weights that were not made in inference mode
            opened = opened_teacher(self.teacher, trainer.datamodule)
            self.pair = opened.net, opened_sae(self.sae, self.layer, opened)

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for name, share in self._measured(trainer.datamodule, module.device).items():
                module.log(f"test/{name}", 100 * share)

    def _measured(self, data, device: torch.device) -> dict[str, float]:
        teacher, sae = self.pair

        def extractor(**settings) -> ConceptExtractor:
            return ConceptExtractor(teacher, sae, self.layer, self.labels, **settings).to(device)

        count = data.windows("test")
        chosen = spread(np.arange(min(self.windows, count)), count, min(self.windows, count)) * data.context
        tokens = torch.from_numpy(data.stores["test"].windows(chosen, data.context + 1).astype(np.int64)).to(device)
        plain, found = extractor(), {}
        labels = torch.cat([plain(rows) for rows in tokens.split(4)])  # (B, T, K)
        few = min(self.exact_windows, len(tokens))
        some = torch.from_numpy(spread(np.arange(few), len(tokens), few))
        found["all"] = torch.cat([extractor(candidates="all")(rows) for rows in tokens.split(4)])
        found["activation"] = torch.cat([extractor(score="activation")(rows) for rows in tokens.split(4)])
        exact = torch.cat([plain.exact(row[None]) for row in tokens[some]])  # (some, T, K)
        with torch.autocast(device.type, torch.bfloat16):
            found["bf16"] = torch.cat([plain(rows) for rows in tokens.split(4)])
        shares = {name: overlap(labels, other) for name, other in found.items()} | {"exact": overlap(labels[some], exact)}
        shares["chance"] = float((labels != NONE).sum(-1).float().mean()) / sae.keep
        labelled = float((labels != NONE).any(-1).float().mean())
        told = {f"agreement_{name}": share for name, share in shares.items()} | {"labelled": labelled}
        return told | {
            "exact_window": overlap(exact, labels[some]),
            "exact_activation": overlap(exact, found["activation"][some]),
        }


def overlap(labels: Tensor, others: Tensor) -> float:
    """The share of `labels` (B, T, K) that are among the `others` (B, T, J) of their place."""
    there = labels != NONE
    return float(((labels[..., None] == others[..., None, :]).any(-1) & there).sum() / there.sum().clamp(min=1))
