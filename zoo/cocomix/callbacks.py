"""What a run shows and measures of its concepts: which ones are predicted, and how well they steer."""

from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from zoo.cocomix.cards import Cards, prepared
from zoo.cocomix.mass import picks, score
from zoo.cocomix.predicted import concepts_of, table
from zoo.cocomix.prompts import PROMPTS
from zoo.cocomix.sae import SparseAutoencoder
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher
from zoo.cocomix.teacher import opened_teacher
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
    (whose difference it is), and of the teacher steering_teacher, steering_teacher_interval, …; and the counts
    steering_concepts, steering_others and steering_prompts.
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

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("SteeringScore measures in one process: test the saved net with --trainer.devices=1.")
        data = trainer.datamodule
        student = SteerableCoCoMix(module.net)
        nets: dict[str, tuple[SteerableCoCoMix | SteerableTeacher, str]] = {"steering": (student, self.labels)}
        prepared(self.labels, data, student.concepts)  # refused before anything is measured
        if self.teacher is not None:
            sae = SparseAutoencoder.opened(self.sae)
            for folder in {self.labels, self.teacher_labels}:
                belongs(Path(folder), {"autoencoder": sae.digest[:16], "layer": self.layer})
            teacher = SteerableTeacher(opened_teacher(self.teacher, data).net, sae, self.layer)
            nets["steering_teacher"] = teacher.to(module.device), self.teacher_labels
        prompts = [data.encode(text) or [data.tokenizer.eos] for text in self.prompts]
        for name, (net, labels) in nets.items():
            picked = picks(prepared(labels, data, net.concepts), self.concepts, self.others, self.least, self.seed)
            found = score(net, prompts, picked, self.factor, self.everywhere, self.rows)
            measured = {"": found.mean, "_interval": found.interval, "_own": found.own.mean(), "_other": found.other.mean()}
            for key, value in measured.items():
                module.log(f"test/{name}{key}", float(value))
        counts = {"concepts": self.concepts, "others": self.others, "prompts": len(prompts)}
        for key, value in counts.items():
            module.log(f"test/steering_{key}", float(value))
