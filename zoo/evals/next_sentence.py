"""Teacher-forced scores of the next sentence (LCM paper, sec. 2.4.1 and table 3), beside those of the truth and of chance.

A whole chunk is scored in one call of the net's `predict`, which reads its context once.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from zoo.data.order import mix
from zoo.data.sentence_store import SentenceStore
from zoo.evals.information import CausalScorer, is_name
from zoo.evals.judge import FEWEST, Judge
from zoo.evals.sentence_scores import Places, Sums, add_vector_scores, l2, places, set_sampler
from zoo.sonar.encoder import fingerprints
from zoo.sonar.folder import located
from zoo.sonar.space import Space

ROWS = ("", "truth_", "shuffled_")
CONSTANT = "mean_"
MEANT = 20_000  # sentences that the mean is taken of, at most, evenly spread over the split
VECTORS = ("l2", "contrastive", "contrastive_others", "par", "par_pooled")
TEXTS = ("l2_roundtrip", "gap", "gap_share", "moved", "mi", "coherence")
NAMES = [row + name for row in ROWS for name in (*VECTORS, *TEXTS)] + ["distractors", "par_kept"]
NAMES += [CONSTANT + name for name in VECTORS]


class Kept(NamedTuple):
    """A chunk that is decoded. priority: those of the lowest are; number: of the chunk; true (P, E): its sentences; scored (P,);
    said, shuffled (M, E): what was predicted of the M scored ones, and true sentences of other places."""

    priority: int
    number: int
    true: Tensor
    scored: Tensor
    said: Tensor
    shuffled: Tensor


class NextSentence(L.Callback):
    """At test: how good a net's predictions of each sentence are, given the true ones before it.

    The net is any with `predict(batch, seed) -> (B, S, E)`, in the space; batches are those of a sentence view
    (`CommonCrawlSentences`). Scored are target sentences that have `first` sentences or more before them in their chunk. The end
    marker is none: it is the same in every document. All numbers are sums over counts of the whole split.

    Logs `test/l2`, ‖x̂ - x‖; `test/contrastive` and `test/contrastive_others`, contrastive accuracy as the paper and as the
    released code define it, in [0, 1], among a batch's sentences, `test/distractors` of them on average, so that it is compared
    between arms of equal data.batch only; `test/par`, the cosine to the nearest earlier sentence over that of the truth, and
    `test/par_pooled`, the same of means (`zoo.evals.sentence_scores` says more); `test/scored`, how many sentences.

    Of some documents, the same ones for arms of equal data.batch and number of processes, with a space: `test/l2_roundtrip`,
    ‖encode(decode(x̂)) - x‖; `test/gap`, that less ‖x̂ - x‖ of the same sentences, and `test/gap_share`, over it; `test/moved`,
    ‖encode(decode(x̂)) - x̂‖, small where what is said is a sentence of the space; with a scorer `test/mi`, mutual information
    with the 10 true sentences before, in nats per token; with a judge `test/coherence`, the mean probability that a document is
    coherent whose scored sentences are replaced by the predictions, after their round trip where there is a space;
    `test/decoded`, how many sentences.

    And the same of two predictors that know no context, `test/truth_l2` … (x̂ = x: what the space and the scorers leave at best)
    and `test/shuffled_l2` … (x̂ is a true sentence of another place, drawn from the batch). Of vectors alone `test/mean_l2` … (x̂
    is the mean of the split's sentences: what a regression says that knows no context).

    Args:
        space: folder of the sentence space, or several sources, as `Space.opened` takes them; None: no round trips.
        scorer: a causal language model, as `CausalScorer` takes it; it needs a space.
        judge: folder of `zoo prepare judge`.
        decode_sentences: scored sentences of the documents that are decoded, at most.
        beam: of the decoder; 1 is greedy.
        seed: of the predictions, and of what is shuffled.
        first: sentences before a scored one, at least.
        sampler: settings of the net's sampler that are other than its own, such as {guidance: 2}.
    """

    def __init__(
        self,
        space: str | list[str] | None = None,
        scorer: str | None = None,
        judge: str | None = None,
        decode_sentences: int = 1000,
        beam: int = 1,
        seed: int = 0,
        first: int = 1,
        sampler: dict[str, int | float | str | None] | None = None,
    ):
        if scorer and not space:
            raise ValueError("NextSentence: a scorer reads text, and without a space there is none: give space, its folder.")
        if min(decode_sentences, beam) < 1 or first < 0:
            raise ValueError(
                f"NextSentence: decode_sentences ({decode_sentences}) and beam ({beam}) are 1 or more, first ({first}) 0 or more."
            )
        self.sources = [space] if isinstance(space, str) else list(space or ())
        self.scorer_name, self.judge_name, self.decode_sentences = scorer, judge, decode_sentences
        self.beam, self.seed, self.first, self.sampler = beam, seed, first, dict(sampler or {})
        self.space: Space | None = None
        self.scorer: CausalScorer | None = None
        self.judge: Judge | None = None
        self.limit = decode_sentences
        self._forget()

    def _forget(self) -> None:
        self.sums, self.kept = Sums(), list[Kept]()
        self.mean: Tensor | None = None
        self.bound = 1 << 64  # the lowest priority that was too much: nothing behind it is kept

    # -- Lightning's hooks ----------------------------------------------------------------------------------------
    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for place in (*self.sources, self.scorer_name, self.judge_name):  # what is not there is told before the training
            if place and not located(place).is_dir() and (place == self.judge_name or not is_name(place)):
                raise FileNotFoundError(f"NextSentence: there is no folder {place}: make it first, or leave it out.")

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if any(hasattr(p, "full_tensor") for p in module.net.parameters()):
            raise ValueError(
                "NextSentence asks whole nets, and this one is sharded: run `zoo test` on the checkpoint with "
                "--trainer.strategy=auto, one whole net per device."
            )
        set_sampler(module.net, self.sampler, "NextSentence")
        self.open(module.device, self._store(trainer))
        self.limit = max(1, self.decode_sentences // trainer.world_size)
        if trainer.is_global_zero:
            if self.scorer:
                print(f"mutual information: by {self.scorer.name}", flush=True)
            if self.judge:
                print(f"coherence: by {self.judge_name}, {self.judge.about.get('measured', 'never measured')}", flush=True)

    def on_test_batch_end(self, trainer, module, outputs, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.add(module.net, batch, self._store(trainer))

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data = trainer.datamodule
        self.add_texts(self._store(trainer), getattr(data, "lang", None))
        pairs = [self.sums.pairs.get(name, (0.0, 0.0)) for name in NAMES]
        exact = torch.float32 if module.device.type == "mps" else torch.float64
        pairs = trainer.strategy.reduce(torch.tensor(pairs, dtype=exact, device=module.device), reduce_op="sum").tolist()
        module.log_dict({f"test/{name}": value for name, value in means(dict(zip(NAMES, pairs))).items()})

    @staticmethod
    def _store(trainer: L.Trainer) -> SentenceStore | None:
        return getattr(trainer.datamodule, "stores", {}).get("test")

    # -- scoring --------------------------------------------------------------------------------------------------
    def measured(
        self, net: nn.Module, batches: Iterable[dict[str, Tensor]], store: SentenceStore | None = None, lang: str | None = None
    ) -> dict[str, float]:
        """The numbers above, less "test/". store: where the batches are from, if from one; it tells texts, documents and ends."""
        device = next((p.device for p in getattr(net, "parameters", list)()), torch.device("cpu"))
        self.open(device, store)
        with torch.inference_mode():
            for batch in batches:
                self.add(net, {name: value.to(device) for name, value in batch.items()}, store)
            self.add_texts(store, lang)
        return means(self.sums.pairs)

    def open(self, device: torch.device | str, store: SentenceStore | None = None) -> None:
        """Begin anew: open what scores, once, and forget all sums. Raises in a sentence where the parts do not fit each other."""
        self._forget()
        if self.sources and self.space is None:
            self.space = Space.opened(*self.sources, device=device)
        if self.scorer_name and self.scorer is None:
            self.scorer = CausalScorer(self.scorer_name, device)
        if self.judge_name and self.judge is None:
            self.judge = Judge.opened(self.judge_name).to(device)
        for what, width in (("space", self.space and self.space.width), ("judge", self.judge and self.judge.width)):
            if store is not None and width not in (None, store.width):
                raise ValueError(
                    f"The {what} is for vectors of {width} numbers, and those of the data have {store.width}: give the {what} of "
                    "the space that the data were encoded with."
                )
        if store is None:
            if self.scorer:
                raise ValueError("NextSentence: the scorer reads the true sentences, and these data have no text: leave it out.")
            return
        made = store.manifest["encoder"]
        if self.judge and self.judge.about.get("encoder", made) != made:
            raise ValueError(
                f"The judge in {self.judge_name} learnt from another space than the data's: `zoo prepare judge` makes one."
            )
        if self.judge and self.judge.about.get("split") == "all" and self.judge.about["store"] == store.manifest["fingerprint"]:
            raise ValueError(
                f"The judge in {self.judge_name} learnt from the documents that it is to judge: run `zoo prepare judge` without "
                "--split all."
            )
        if self.space and self.space.encoder is not None and not self._is_of(made):
            rank_zero_warn("The data were encoded by another space than the one that round trips take.")

    def _is_of(self, made: str) -> bool:
        """Whether an encoder of this fingerprint is the space's, by its weights or by the files or cards it may be named with."""
        return made in {self.space.fingerprint, *fingerprints(self.sources, self.space.tokenizer.langs)}

    @torch.inference_mode()
    def add(self, net: nn.Module, batch: dict[str, Tensor], store: SentenceStore | None = None) -> None:
        """Score the vectors of a batch, and keep what is to be decoded. Raises ValueError for predictions that are no numbers."""
        true, numbers = batch["vec"], batch["window"].tolist()
        ends = torch.zeros_like(batch["role"], dtype=torch.bool)
        if store is not None and store.end is not None:
            for row, length, number in zip(ends, batch["length"].tolist(), numbers):
                row[length - 1] = store.texts(number)[-1] == store.end
        at = places(batch["role"], batch["mask"], ends, self.first)
        if not bool(at.scored.any()):
            return
        said = net.predict(batch, self.seed).to(true.dtype)  # (B, S, E)
        if not bool(said[at.scored].isfinite().all()):
            raise ValueError(
                "The net's predictions hold NaN or infinite numbers: its weights diverged, take an earlier checkpoint."
            )
        other = elsewhere(true, at, self.seed * 1_000_003 + numbers[0])
        documents = batch["window"] if store is None else torch.from_numpy(store.document[numbers]).to(true.device)
        told = dict(zip(ROWS, (said, true, other)))
        if store is not None:
            self.mean = mean_of(store) if self.mean is None else self.mean
            told[CONSTANT] = self.mean.to(true).expand_as(true)
        for row, vectors in told.items():
            add_vector_scores(self.sums, vectors, true, at, documents, row)
        if self.space or self.judge:
            self._keep(numbers, at, true, said, other)

    def _keep(self, numbers: list[int], at: Places, true: Tensor, said: Tensor, other: Tensor) -> None:
        """Of all chunks so far those that are first by a hash, as many as fit: the same in whatever order they come."""
        priorities, fresh = mix(np.array(numbers)).tolist(), []
        for b in at.scored.any(1).nonzero()[:, 0].tolist():
            if priorities[b] < self.bound:
                sentences, chosen = at.present[b], at.scored[b]
                parts = (true[b][sentences].float(), chosen[sentences], said[b][chosen].float(), other[b][chosen].float())
                fresh.append(Kept(priorities[b], numbers[b], *(part.cpu() for part in parts)))
        total, self.kept = 0, sorted((*self.kept, *fresh), key=lambda each: each.priority)
        for place, each in enumerate(self.kept):
            total += len(each.said)
            if total > self.limit and place:  # the first one is kept in any case, and cut
                self.kept, self.bound = self.kept[:place], each.priority
                break

    @torch.inference_mode()
    def add_texts(self, store: SentenceStore | None = None, lang: str | None = None) -> None:
        """Decode what was kept and score it."""
        chosen = [cut(each, self.limit) for each in self.kept]
        if not chosen:
            return
        true = torch.cat([each.true[each.scored] for each in chosen])  # (M, E)
        predicted = (torch.cat([each.said for each in chosen]), true, torch.cat([each.shuffled for each in chosen]))
        texts = []
        for row, vectors in zip(ROWS, predicted):
            if self.space:
                texts.append(self.space.decode(vectors, lang, beam=self.beam))
                back = self.space.encode(texts[-1], lang).cpu()
                far = l2(back, true)
                self.sums.mean(f"{row}l2_roundtrip", far)
                near = l2(vectors, true)
                self.sums.mean(f"{row}gap", far - near)
                self.sums.add(f"{row}gap_share", (far - near).sum(), near.sum())
                self.sums.mean(f"{row}moved", l2(back, vectors))
                vectors = back
            if self.judge:
                documents = [each for each in filled(chosen, vectors) if len(each) >= FEWEST]
                self.sums.mean(f"{row}coherence", self.judge.probability(documents))
        if self.scorer and store is not None:
            read = [(store.texts(each.number), place) for each in chosen for place in each.scored.nonzero()[:, 0].tolist()]
            nats, tokens = self.scorer.information([before[:place] for before, place in read], list(zip(*texts)))
            for row, total, count in zip(ROWS, nats.sum(0), tokens.sum(0)):
                self.sums.add(f"{row}mi", total, count)


def mean_of(store: SentenceStore) -> Tensor:
    """The mean (E,) of a split's sentences, less the markers of its documents' ends."""
    vectors = store.sample(MEANT)
    if store.end is not None and store.texts(len(store) - 1)[-1] == store.end:
        chunks, lengths = store.chunks(np.array([len(store) - 1]))
        vectors = vectors[(vectors != chunks[0, lengths[0] - 1]).any(1)]
    return torch.from_numpy(vectors.mean(0))


def elsewhere(true: Tensor, at: Places, seed: int) -> Tensor:
    """true (B, S, E), in which each present sentence is one of another place: they are passed on along one cycle, in random
    order. (Where a batch has one sentence, there is no other place.)"""
    found, count = true.clone(), int(at.present.sum())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(true.device)
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    found[at.present] = true[at.present][following]
    return found


def cut(kept: Kept, limit: int) -> Kept:
    """A chunk up to its `limit`-th scored sentence."""
    if len(kept.said) <= limit:
        return kept
    stop = int(kept.scored.nonzero()[limit - 1, 0]) + 1
    return kept._replace(true=kept.true[:stop], scored=kept.scored[:stop], said=kept.said[:limit], shuffled=kept.shuffled[:limit])


def filled(chosen: Sequence[Kept], vectors: Tensor) -> list[Tensor]:
    """The chunks (P, E) with these vectors (M, E), of all of them, in the places of their scored sentences."""
    found = []
    for each, part in zip(chosen, vectors.split([len(each.said) for each in chosen])):
        found.append(each.true.clone())
        found[-1][each.scored] = part
    return found


def means(pairs: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Sum over count of each, where there is any, and the counts of scored and decoded sentences."""
    found = {name: total / count for name, (total, count) in pairs.items() if count}
    for name, of in (("scored", "l2"), ("decoded", "l2_roundtrip")):
        if pairs.get(of, (0, 0))[1]:
            found[name] = float(pairs[of][1])
    return found
