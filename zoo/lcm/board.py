"""What TensorBoard shows of a Large Concept Model beside its losses: sentences, codebooks, and what guidance does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from zoo.evals.sentence_scores import Sums, add_vector_scores, places, set_sampler
from zoo.sonar.space import Space


class SentenceBoard(L.Callback):
    """At each validation, of the first batch of it: `sentence`, each sentence of its first chunk beside what was predicted of it
    given those before; for nets with codebooks, histograms `codebook/<k>` of the units that predictions fall on, and
    `codebook/used`, the share of units that any of them took. At the end of a fit, for nets with guidance, the figure `guidance`:
    distance to the truth, contrastive accuracy and likeness to earlier sentences against g.

    The space is opened when a fit starts, which raises what `Space.opened` raises, or ValueError, in a sentence, where it has no
    decoder or is none of the data's vectors.

    Args:
        space: folder of the sentence space, or several sources as `Space.opened` takes them; None shows no sentences.
        sentences: of the chunk, at most.
        guidance: values of g.
        beam: of the decoder.
        sampler: settings of the net's sampler that are other than its own, such as {guidance: 1.5}; Base-LCM, whose sampler has
            no guidance, keeps its own, as recipes share a board.
    """

    def __init__(
        self,
        space: str | list[str] | None = None,
        sentences: int = 8,
        guidance: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 4.0),
        beam: int = 1,
        sampler: dict[str, int | float | str | None] | None = None,
    ):
        self.sources = [space] if isinstance(space, str) else list(space or ())
        self.sentences, self.guidance, self.beam, self.sampler = sentences, tuple(guidance), beam, dict(sampler or {})
        self.space: Space | None = None
        self.batch: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with self._sampled(module.net):
            pass
        if self.sources and self._shows(trainer, module):
            self._open(module.device)
            if self.space.decoder is None:
                raise ValueError(f"SentenceBoard: {' and '.join(self.sources)} has no decoder: give one as well, or space: null.")
            if self.space.width != module.vocab:
                raise ValueError(
                    f"SentenceBoard: the space has vectors of {self.space.width} numbers, and those of the data have "
                    f"{module.vocab}: give the space that the data were encoded with."
                )

    def on_validation_batch_start(self, trainer, module, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self.batch = {name: value.clone() for name, value in batch.items()}

    @torch.no_grad()
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.batch is None or not self._shows(trainer, module):
            return
        net, batch, board = module.net, self.batch, trainer.logger.experiment
        with self._sampled(net):
            said = net.predict(batch)  # (B, S, E)
        if self.sources:
            board.add_text("sentence", self._beside(trainer.datamodule, said[0]), trainer.global_step)
        if (quantizer := getattr(net, "quantizer", None)) is not None:
            codes = quantizer.encode(said[batch["role"] > 0].float())  # (N, K)
            for book in sorted({0, quantizer.books // 2, quantizer.books - 1}):
                board.add_histogram(f"codebook/{book + 1}", codes[:, book], trainer.global_step, bins=min(64, quantizer.units))
            used = torch.stack([torch.bincount(column, minlength=quantizer.units) > 0 for column in codes.T]).float().mean()
            board.add_scalar("codebook/used", float(used), trainer.global_step)

    def _beside(self, data, said: Tensor) -> str:
        """A table of the first chunk's sentences, in Markdown."""
        self._open(said.device)
        texts = data.stores["validation"].texts(int(self.batch["window"][0]))[: self.sentences]
        written = self.space.decode(said[: len(texts)].float(), getattr(data, "lang", None), beam=self.beam)
        cell = lambda text: text.replace("|", "\\|")
        return "\n".join(["| true | predicted |", "|---|---|", *(f"| {cell(a)} | {cell(b)} |" for a, b in zip(texts, written))])

    @torch.no_grad()
    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.batch is not None and self._shows(trainer, module) and hasattr(module.net.sampler, "guidance"):
            with self._sampled(module.net):
                figure = self.sweep(module.net.eval(), self.batch)
            trainer.logger.experiment.add_figure("guidance", figure, trainer.global_step)

    def sweep(self, net, batch: dict[str, Tensor]):
        """A figure of scores of one batch against g. The net's sampler is left as it was."""
        from matplotlib.figure import Figure

        kept, found = net.sampler, []
        at = places(batch["role"], batch["mask"], torch.zeros_like(batch["role"], dtype=torch.bool))
        for g in self.guidance:
            net.sampler, sums = replace(kept, guidance=g), Sums()
            add_vector_scores(sums, net.predict(batch), batch["vec"], at, batch["window"])
            found.append({name: total / max(count, 1) for name, (total, count) in sums.pairs.items()})
        net.sampler = kept
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        titles = {"l2": "ℓ2 to the truth", "contrastive": "contrastive accuracy", "par_pooled": "likeness to earlier sentences"}
        for axes, (name, title) in zip(figure.subplots(1, 3), titles.items()):
            axes.plot(self.guidance, [each[name] for each in found], marker="o")
            axes.set(title=title, xlabel="guidance")
        return figure

    def _shows(self, trainer: L.Trainer, module: L.LightningModule) -> bool:
        whole = not any(hasattr(p, "full_tensor") for p in module.net.parameters())  # a sharded net answers to forward alone
        logs = isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero and not trainer.sanity_checking
        return whole and logs

    def _open(self, device: torch.device) -> None:
        if self.space is None:
            self.space = Space.opened(*self.sources, device=device)

    @contextmanager
    def _sampled(self, net) -> Iterator[None]:
        """Within this context the net's sampler has the board's settings."""
        kept = net.sampler
        if hasattr(kept, "guidance"):
            set_sampler(net, self.sampler, "SentenceBoard")
        try:
            yield
        finally:
            net.sampler = kept
