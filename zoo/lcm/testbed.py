"""The test bed without a decoder: chains over a codebook as data, the nets that know them, and their scores at test."""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from zoo.data.chunks import PADDING, TARGET, SentenceBatches
from zoo.data.loader import Loader, spread
from zoo.data.order import mix, permute
from zoo.data.shards import write_json
from zoo.data.sources import Document, digest, identity
from zoo.evals.sentence_scores import nearest_earlier, set_sampler
from zoo.lcm.chains import NONE, Chains
from zoo.lcm.fragile import item_fragility
from zoo.nn.diffusion import fragility_weights
from zoo.nn.normalizer import Normalizer

COUNTS = ("count", "compared", "earlier", "earlier_true")  # sums that others are divided by, or that are
FITTED = 2048  # training documents whose vectors a normalizer is fitted to


class CodebookChains(LightningDataModule):
    """Documents of `Chains` in batches like those of the sentence view of `zoo.data.CommonCrawlSentences`.

    Document c of a split is a pure function of c, so nothing is stored; training reads them in an order that is a pure function
    of (seed, position).

    Args:
        chains: what documents are made of; None: the defaults of `Chains`.
        documents: of the training split; held_out: of validation and of test, each.
        context: sentences of a document at most; a longer one is cut off, without its end.
        batch: documents per device and micro-step.
        fragility: a and b; batches then have `weight` (B, S), sigmoid(a F + b) of the fragility F of each sentence (eq. 18; the
            paper has -4 and 3.5); None: they have none.
        loader_workers: processes that load batches.
        seed: of the order.
    """

    def __init__(
        self,
        chains: Chains | None = None,
        documents: int = 100_000,
        held_out: int = 512,
        context: int = 32,
        batch: int = 32,
        fragility: tuple[float, float] | None = None,
        loader_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if min(documents, held_out, batch) < 1 or context < 2:
            raise ValueError(
                f"data.documents ({documents}), data.held_out ({held_out}) and data.batch ({batch}) must be at least 1, and "
                f"data.context ({context}) 2."
            )
        self.chains = chains or Chains()
        self.counts = {"train": documents, "validation": held_out, "test": held_out}
        self.context, self.rows, self.fragility = context, batch, fragility
        self.loader_workers, self.seed = loader_workers, seed

    @property
    def description(self) -> str:
        return self.chains.description

    @property
    def fingerprint(self) -> str:
        """Hex digest of the chain and of how many documents there are of it."""
        return digest("codebook", self.chains.fingerprint, self.counts, self.context)

    @property
    def vocab(self) -> int:
        """Numbers in a vector (E)."""
        return self.chains.width

    def optimal(self) -> dict[str, float]:
        """What the best regression and an exact sampler score: `Chains.optimal` of these documents."""
        return self.chains.optimal(self.context)

    def documents(self, split: str | None = None) -> Iterator[Document]:
        """The documents as words, a word a vector."""
        for each in [split] if split else list(self.counts):
            for number in range(self.counts[each]):
                items = self.chains.documents(each, np.array([number]), self.context)[0]
                text = " ".join("end" if item == self.chains.size else f"s{item}" for item in items if item != NONE)
                yield Document(text, identity(text), each)

    @cached_property
    def normalizer(self) -> Normalizer:
        """Fitted to the vectors of some training documents."""
        return Normalizer.fitted(torch.from_numpy(self.some(FITTED)))

    def some(self, documents: int) -> np.ndarray:
        """Vectors (N, E) of the sentences of the first training documents."""
        items = self.chains.documents("train", np.arange(min(documents, self.counts["train"])), self.context)
        return self.chains.vectors[items[items != NONE]]

    def save_tokenizer(self, folder: str | Path) -> None:
        """What a saved net says of the vectors that it reads: `chains.json`, the settings of the chains."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "chains.json", self.chains.settings)

    @cached_property
    def _weights(self) -> Tensor:
        """Of items, the end too: (M + 1,)."""
        fragile = item_fragility(self.chains, self.normalizer)
        return fragility_weights(fragile, *(self.fragility or ())).float()

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Lightning's hook: puts in the weights."""
        if self.fragility is None:
            return batch
        items = self.chains.nearest(batch["vec"].cpu().numpy())  # (B, S)
        return {**batch, "weight": self._weights[torch.from_numpy(items)].to(batch["vec"].device)}

    @cached_property
    def sentences(self) -> int:
        """Of the training split."""
        numbers = np.arange(self.counts["train"])
        blocks = (self.chains.documents("train", numbers[i : i + 8192], self.context) for i in range(0, len(numbers), 8192))
        return sum(int((items != NONE).sum()) for items in blocks)

    def epochs_seen(self, tokens: int) -> float:
        """How often the training documents have been read after so many sentences."""
        return tokens / self.sentences

    # -- loaders ---------------------------------------------------------------------------------------------------
    def train_dataloader(self) -> Loader:
        """All micro-steps of the run (max_steps), or one pass where the Trainer counts epochs."""
        trainer, count = self.trainer, self.counts["train"]
        batches = self._batches("train", partial(permute, n=count, seed=self.seed))
        if trainer is None or trainer.max_steps < 0:
            return self._loader(batches, max(1, count // (batches.world * self.rows)))
        return self._loader(batches, trainer.max_steps * trainer.accumulate_grad_batches)

    def val_dataloader(self) -> Loader:
        return self._evaluation("validation")

    def test_dataloader(self) -> Loader:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Loader:
        count = self.counts[split]
        batches = self._batches(split, partial(spread, count=count, scored=count), count)
        return self._loader(batches, -(-count // (batches.world * self.rows)))

    def _batches(self, split: str, window: Callable, scored: int | None = None) -> SentenceBatches:
        share = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        store = cast(Any, Split(self.chains, split, self.context))
        return SentenceBatches(store, self.rows, window, scored, share["rank"], share["num_replicas"])

    def _loader(self, batches: SentenceBatches, length: int) -> Loader:
        trainer = self.trainer
        pin = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Loader(cast(Any, batches), length, self.loader_workers, pin, trainer, self.fingerprint)


class Split:
    """One split of the documents of a chain, read as a sentence store is."""

    def __init__(self, chains: Chains, split: str, longest: int):
        self.chains, self.split, self.longest = chains, split, longest

    def chunks(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of documents (B,), zero behind each end: (B, S, E) float32, S the longest of them; and their lengths (B,)."""
        items = self.chains.documents(self.split, numbers, self.longest)  # (B, longest)
        lengths = (items != NONE).sum(1)
        items = items[:, : lengths.max(initial=0)]
        return np.where((items != NONE)[..., None], self.chains.vectors[items], np.float32(0)), lengths


class Known(nn.Module):
    """A net that knows the chain: it says the mean of the allowed continuations, or draws one of them. Nothing is learnt.

    Args:
        vocab, context: of the data, as any net has them.
        chains: those of the data.
        sampled: draw a continuation, instead of the mean.
    """

    ahead = 0

    def __init__(self, vocab: int, context: int, chains: Chains | None = None, sampled: bool = False):
        super().__init__()
        self.context, self.chains, self.sampled = context, chains or Chains(), sampled
        if vocab != self.chains.width:
            raise ValueError(
                f"the data's vectors have {vocab} numbers, and this net's chains {self.chains.width}: give it theirs."
            )

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """Loss, the squared error per sentence but the first, and parts {"mse": (sum, sentences)}."""
        counted = scored(batch)
        error = (self.predict(batch) - batch["vec"]).square().sum(-1) * counted  # (B, S)
        count = counted.sum()
        return {"loss": error.sum() / count.clamp(min=1), "parts": {"mse": (error.sum(), count)}}

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
        """(B, S, E) of batch["vec"] (B, S, E); zero where nothing came before."""
        contexts = self.chains.contexts_of(batch["vec"].cpu().numpy())  # (B, S)
        said = self.chains.means[contexts]
        if self.sampled:
            place = np.arange(contexts.shape[1], dtype=np.uint64)
            key = mix(batch["window"].cpu().numpy().astype(np.uint64) ^ mix(np.uint64(seed)))  # (B,)
            choice = (mix(key[:, None] ^ mix(place)) % np.uint64(self.chains.ways)).astype(np.int64)
            said = self.chains.vectors[self.chains.allowed[contexts, choice]]
        return torch.from_numpy(np.where((contexts != NONE)[..., None], said, np.float32(0))).to(batch["vec"])


def scored(batch: dict[str, Tensor]) -> Tensor:
    """Sentences (B, S) that count, bool: targets with at least one sentence before them."""
    counted = (batch["role"] == TARGET) & batch["mask"][:, None]
    counted[:, 0] = False
    return counted


class TestbedScores(L.Callback):
    """At test, on `CodebookChains`: how near a net's predictions come to the true vectors, and whether they are vectors at all.

    Means over sentences but the first of each document (LCM paper, sec. 2.4.1, where the nearest vector of the codebook stands
    for decoding and encoding):
    l2_squared and l2, squared and plain distance to the true vector; l2_optimum, the squared distance that the best regression
    has in the same places, and l2_ratio, l2_squared over it (1 for that, 2 for an exact sampler);
    l2_roundtrip, distance of the nearest codebook vector to the true one, and gap, l2_roundtrip - l2;
    moved, distance of the nearest codebook vector to what was said, none for a vector of the codebook;
    allowed, the share whose nearest vector may follow, and hub, the share whose nearest vector is a hub, in percent;
    contrastive, the share of the batch's other sentences, less the two neighbours, that are farther from the prediction than the
    true one is; sentences that are equal count a half. It depends on the batch size;
    par_pooled, the cosine to the nearest earlier sentence over that of the truth, of means.

    Args:
        seed: of the net's noise.
        sampler: settings of the net's sampler that are other than its own, such as {guidance: 2}.
    """

    __test__ = False  # pytest: this is no test

    def __init__(self, seed: int = 0, sampler: dict[str, int | float | str | None] | None = None):
        self.seed, self.sampler = seed, dict(sampler or {})
        self.sums: dict[str, Tensor] = {}

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if any(hasattr(p, "full_tensor") for p in module.net.parameters()):
            raise ValueError(
                "TestbedScores asks whole nets, and this one is sharded: test its checkpoint with --trainer.strategy=auto."
            )
        set_sampler(module.net, self.sampler, "TestbedScores")

    def on_test_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.sums = {}

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        said = module.net.predict(batch, self.seed).float()
        for name, value in sums(trainer.datamodule.chains, batch, said).items():
            self.sums[name] = self.sums.get(name, 0) + torch.tensor(value, dtype=torch.float64)

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        names = sorted(self.sums)
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        together = torch.stack([self.sums[name] for name in names]).to(module.device, dtype)
        total = dict(zip(names, trainer.strategy.reduce(together, reduce_op="sum").tolist()))
        if not total["count"]:
            raise ValueError("no document of the test split has two sentences: give data.held_out or data.context more.")
        found = {name: total[name] / total["count"] for name in names if name not in COUNTS}
        found["contrastive"] = total["contrastive"] / max(1.0, total["compared"])
        found["par_pooled"] = total["earlier"] / total["earlier_true"] if total["earlier_true"] else 1.0
        found["gap"] = found["l2_roundtrip"] - found["l2"]
        found["l2_ratio"] = found["l2_squared"] / max(found["l2_optimum"], 1e-12)
        module.log_dict({f"test/{name}": value for name, value in found.items()})


def sums(chains: Chains, batch: dict[str, Tensor], said: Tensor) -> dict[str, float]:
    """The scores of predictions (B, S, E), added up over a batch: `count` is of sentences, `compared` of contrasted ones."""
    counted, true = scored(batch).cpu(), batch["vec"].float().cpu()
    said = said.cpu()
    contexts = chains.contexts_of(true.numpy())[counted.numpy()]  # (P,)
    x, y = said[counted].double(), true[counted].double()  # (P, E)
    nearest = chains.nearest(x.numpy())
    back = torch.from_numpy(chains.vectors[nearest]).double()
    squared = (x - y).square().sum(-1)
    real = (batch["role"].cpu() != PADDING) & batch["mask"].cpu()[:, None]
    shares = contrasted(said, true, counted, real)
    found = {
        "count": len(x),
        "l2_squared": squared.sum(),
        "l2": squared.sqrt().sum(),
        "l2_roundtrip": (back - y).square().sum(-1).sqrt().sum(),
        "moved": (back - x).square().sum(-1).sqrt().sum(),
        "l2_optimum": chains.variances[contexts].sum(),
        "allowed": 100 * (nearest[:, None] == chains.allowed[contexts]).any(1).sum(),
        "hub": 100 * chains.is_hub(nearest).sum(),
        "contrastive": shares.sum(),
        "compared": len(shares),
        "earlier": nearest_earlier(said, true, real)[counted].sum(),
        "earlier_true": nearest_earlier(true, true, real)[counted].sum(),
    }
    return {name: float(value) for name, value in found.items()}


def contrasted(said: Tensor, true: Tensor, counted: Tensor, real: Tensor) -> Tensor:
    """For each counted prediction, (P,): the share of the real sentences of the batch that are farther from it than the true one
    is, less that one and its two neighbours; equal distances count a half. Left out where nothing is left to compare.

    said, true: (B, S, E); counted, real: (B, S) bool.
    """
    rows, size = counted.shape
    place = torch.arange(rows * size).view(rows, size)
    mine, others = place[counted], place[real]  # (P,), (Q,)
    x, y = said.flatten(0, 1).double(), true.flatten(0, 1).double()
    distance = (x[mine].square().sum(-1)[:, None] + y[others].square().sum(-1) - 2 * x[mine] @ y[others].T).clamp(min=0)  # (P, Q)
    own = (x[mine] - y[mine]).square().sum(-1)[:, None]
    away = (mine[:, None] - others).abs() > 1
    away |= mine[:, None] // size != others // size
    same = (distance - own).abs() <= 1e-9 * (1 + own)
    share = torch.where(same, 0.5, (distance > own).double()) * away
    left = away.sum(1)
    return (share.sum(1) / left.clamp(min=1))[left > 0]
