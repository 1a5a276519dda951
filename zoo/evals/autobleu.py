"""AutoBLEU: how well sentences survive the way into one vector and back (LCM paper, sec. 2.2 and table 7)."""

import os
import sys
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from zoo.data.sources import Source
from zoo.sonar.corpus import Sentences
from zoo.sonar.space import Space

SHOWN = 2  # round trips of each length that TensorBoard shows


class AutoBLEU(L.Callback):
    """At test, encodes held-out sentences, decodes their vectors and compares the text with what it was, by length; at validation
    too, where it is asked to, of a few sentences.

    Logs, in percent, for edges (30, 60, 100): `test/autobleu_30` (of up to 30 characters), `_60` (31 to 60), `_100`;
    `test/autobleu`, up to the second edge, each length weighted as it is in the corpus; `test/exact_30` and on, sentences that
    come back as they were; for each noise `test/autobleu_60@0.1`, with vectors moved by a tenth of each dimension's deviation;
    for each of `corpora`, `test/autobleu_NAME`, of its first sentences, whatever their length. At validation, to TensorBoard:
    `val/autobleu_30` and on, without noise, and as text two round trips of each length.

    Args:
        edges: characters of the longest sentence of each group.
        sentences: per group at most, spread evenly over the split.
        beam: 1 is greedy.
        noise: standard deviations of the normal noise, in those of each dimension.
        seed: of the noise; None takes the run's.
        corpora: other texts by name (the paper's: FLORES, CNN DailyMail, Gutenberg, C4), cut up as the data are.
        most: sentences of each of them (the paper's 10,000).
        validation: sentences per group at each validation, decoded greedily; 0: none. A sharded net has none.
    """

    def __init__(
        self,
        edges: Sequence[int] = (30, 60, 100),
        sentences: int = 300,
        beam: int = 1,
        noise: Sequence[float] = (0.05, 0.1, 0.2),
        seed: int | None = None,
        corpora: dict[str, Source] | None = None,
        most: int = 10_000,
        validation: int = 0,
    ):
        self.corpora, self.most, self.validation = corpora or {}, most, validation
        self.edges, self.sentences, self.beam, self.noise, self.seed = tuple(edges), sentences, beam, tuple(noise), seed

    def on_validation_end(self, trainer, module) -> None:
        sharded = any(hasattr(p, "full_tensor") for p in module.net.parameters())  # it answers to forward alone
        if not self.validation or trainer.sanity_checking or not trainer.is_global_zero or sharded:
            return
        space, texts, references = _asked(module.net, trainer.datamodule, "validation")
        few = AutoBLEU(self.edges, self.validation, noise=())
        found = few.measured(space, texts, "val/", references)
        print("  ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
        for logger in trainer.loggers:
            logger.log_metrics(found, trainer.global_step)
        if isinstance(trainer.logger, TensorBoardLogger):
            shown = [text for group in grouped(texts, self.edges) for text in spread(group, SHOWN)]
            lines = [f"    {text}\n    {back}" for text, back in zip(shown, round_trips(space, shown))]
            trainer.logger.experiment.add_text("round trips", "\n\n".join(lines), trainer.global_step)

    def on_test_epoch_end(self, trainer, module) -> None:
        data = trainer.datamodule
        space, texts, references = _asked(module.net, data, "test")
        found = self.measured(space, texts, references=references)
        for name, source in self.corpora.items():
            texts = first_sentences(source, data, self.most)
            found[f"test/autobleu_{name}"] = bleu(round_trips(space, texts, self.beam), texts)
        module.log_dict(found)

    def measured(
        self, space: Space, texts: Sequence[str], prefix: str = "test/", references: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The numbers above for these sentences, named after `prefix`. references: what is to come back, where the decoder writes
        another language; default the texts."""
        found, weighed = {}, []
        said = dict(zip(texts, references or texts))
        for group, edge in zip(grouped(texts, self.edges), self.edges):
            chosen = spread(group, self.sentences)
            if not chosen:
                continue
            back, wanted = round_trips(space, chosen, self.beam), [said[text] for text in chosen]
            found[f"{prefix}autobleu_{edge}"] = bleu(back, wanted)
            found[f"{prefix}exact_{edge}"] = 100 * sum(a == b for a, b in zip(back, wanted)) / len(chosen)
            for level in self.noise:
                moved = round_trips(space, chosen, self.beam, level, seed_of(self.seed))
                found[f"{prefix}autobleu_{edge}@{level}"] = bleu(moved, wanted)
            weighed.append((len(group), found[f"{prefix}autobleu_{edge}"]))
        short = weighed[:2]
        if short:
            found[f"{prefix}autobleu"] = sum(n * score for n, score in short) / sum(n for n, _ in short)
        return found


def _asked(net: nn.Module, data, split: str) -> tuple[Space, list[str], list[str] | None]:
    """The space that is a net, held-out sentences of its data, and what is to come back where that is another language."""
    space = Space(net.encoder, net.decoder, getattr(data, "source_tokenizer", data.tokenizer), data.tokenizer)
    return space, data.sentences(split), data.references(split) if hasattr(data, "references") else None


def first_sentences(source: Source, data, most: int) -> list[str]:
    """The first sentences of another text, cut up as the data are, whatever their length. Raises ValueError where it has none."""
    own = Sentences(source, data.corpus.segmenter, data.corpus.lang, 1, sys.maxsize, 0.0)
    texts = [document.text for document in islice(own.documents(), most)]
    if not texts:
        raise ValueError(f"corpora: {source.description} holds no sentence: give it text, or leave it out.")
    return texts


def seed_of(seed: int | None) -> int:
    """The seed that is given, or that of the run."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


def grouped(texts: Iterable[str], edges: Sequence[int]) -> list[list[str]]:
    """Texts by their length in characters: up to the first edge, up to the second, …; longer ones are left out."""
    texts = list(texts)
    return [[t for t in texts if low < len(t) <= high] for low, high in pairwise((0, *edges))]


def spread(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the texts, evenly spread."""
    return [texts[i * len(texts) // count] for i in range(count)] if len(texts) > count else list(texts)


def round_trips(
    space: Space,
    texts: Sequence[str],
    beam: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    lang: str | None = None,
    into: str | None = None,
) -> list[str]:
    """The texts after they were encoded and decoded. noise: of the vectors, in standard deviations of each dimension. lang, into:
    languages of the texts and of what comes back."""
    vectors = space.encode(texts, lang)  # (N, E)
    if noise:
        generator = torch.Generator(vectors.device).manual_seed(seed)
        vectors = vectors + noise * vectors.std(0) * torch.randn(vectors.shape, generator=generator, device=vectors.device)
    return space.decode(vectors, into or lang, beam=beam)


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in percent, as sacrebleu computes it by default."""
    import sacrebleu

    return sacrebleu.corpus_bleu(list(texts), [list(references)]).score
