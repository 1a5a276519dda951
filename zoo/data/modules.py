"""The token DataModules: OpenWebText and Code. They prepare themselves on first use and give any token net the same windows.

Window p of a split is tokens [p·T, p·T + T + ahead) of its store, whatever the batch size, the number of processes and the net:
the last 64 tokens are set aside, so nets that look up to 64 tokens ahead all have the same windows. Training reads them in the
order of `zoo.data.order`, a pure function of (seed, position): a resumed run needs to know only how many windows were trained
on.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from zoo.data.installed import Installed
from zoo.data.labels import WindowLabels
from zoo.data.loader import Batches, Loader, spread
from zoo.data.order import permute
from zoo.data.sources import Document, Files, Hub
from zoo.data.store import Prepared, TokenStore, build, locked
from zoo.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from zoo.explain import Told

RESERVE = 64  # tokens at the end of a store that are targets only, so that `ahead` does not change the windows
SAMPLE = 50_000_000  # characters of training text that a BPE is trained on
ARGUMENTS = """
    Args:
        source: "hub" streams a data set of the Hugging Face hub, "files" reads local files, "installed" reads the text
            of pinned installed packages and needs no network, "store" takes a token store that is already built.
        files: paths or globs for source files: text, .jsonl, .jsonl.gz, .parquet, .py; for source store, its one folder.
        hub: name of the data set for source hub.
        hub_config: its configuration, if it has several.
        column: field of the text in hub data sets, .jsonl and .parquet; None takes the usual one.
        megabytes: at most so much text (10⁶ bytes); None takes everything. For hub and installed; files are taken whole.
        tokenizer: "bytes", "bpe" (trained on the corpus), a hub name, or the path of a tokenizer.json or its folder.
        vocab_size: number of ids of tokenizer bpe, the end token included.
        context: tokens per window (T).
        batch: windows per device and micro-step.
        eval_bytes: about so much text is scored per validation or test pass, in windows spread over the split, the same amount
            for any tokenizer; None: all.
        root: folder that holds the token stores.
        prepare_workers: processes that build the store; None takes one per core.
        loader_workers: processes that load batches; 0 loads them in the training process, which is fast enough.
        seed: of the order of the training windows.
        exclude: benchmark files (.jsonl, .jsonl.gz), for source installed: what shares 13 words in a row with them is dropped.
        verify: False accepts other versions of the installed packages than the pinned ones: another corpus.
    """


class TokenData(LightningDataModule):
    """Windows of tokens from a corpus; what OpenWebText and Code share.

    Batches are dicts of (batch, T + ahead) tensors: `tokens`, `doc` (number of the document inside the window; an end token
    belongs to the document it ends), `mask` (counted as a target) and `bytes` (utf-8 bytes of each token); and `window` (batch,),
    the number of each window in its split. `sidecars` add what else belongs to windows, such as `concepts` (batch, T + ahead, K).
    """

    def __init__(
        self,
        kind: Literal["code", "prose"],
        source: str,
        files: list[str] | None,
        hub: str,
        hub_config: str | None,
        column: str | None,
        megabytes: float | None,
        tokenizer: str,
        vocab_size: int,
        context: int,
        batch: int,
        eval_bytes: int | None,
        root: str,
        prepare_workers: int | None,
        loader_workers: int,
        seed: int,
        exclude: list[str] | None,
        verify: bool,
    ):
        super().__init__()
        if (source in ("files", "store")) != bool(files):
            raise ValueError("data.files and `data.source: files` (or store) go together: give both, or neither")
        if exclude and source != "installed":
            raise ValueError("data.exclude works with `data.source: installed` only: remove it, or filter the text yourself")
        if min(context, batch) < 1:
            raise ValueError(f"data.context ({context}) and data.batch ({batch}) must be at least 1")
        self.source, self.context, self.batch, self.eval_bytes, self.seed = source, context, batch, eval_bytes, seed
        self.tokenizer_name, self.vocab_size, self.root = tokenizer, vocab_size, Path(root)
        self.prepare_workers, self.loader_workers, self.megabytes = prepare_workers, loader_workers, megabytes
        if source == "files":
            self.corpus = Files(files, column)
        elif source == "store":
            self.corpus = Prepared(files[0])
        elif source == "hub":
            self.corpus = Hub(hub, hub_config, column or "text", megabytes=megabytes)
        else:
            self.corpus = Installed(kind, megabytes, exclude, verify)
        self.stores: dict[str, TokenStore] = {}
        self.sidecars: dict[str, dict[str, WindowLabels]] = {}  # by their name in a batch, then by split
        self._told: set[str] = set()

    # -- what it is -----------------------------------------------------------------------------------------------
    @property
    def description(self) -> str:
        """What the text is, for pages."""
        return self.corpus.description

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of corpus and tokenizer, known before anything is prepared."""
        name = self.tokenizer_name
        if name == "bpe":
            name = f"bpe {self.vocab_size} {SAMPLE}"
        elif Path(name).expanduser().exists():
            name = load_tokenizer(name).fingerprint  # the content of a file counts, not its place
        return hashlib.sha256(json.dumps([self.corpus.fingerprint, name]).encode()).hexdigest()[:32]

    @cached_property
    def folder(self) -> Path:
        """Where the token store is: a function of the corpus and the tokenizer."""
        if self.source == "store":
            return self.corpus.folder
        label = f"bpe{self.vocab_size}" if self.tokenizer_name == "bpe" else self.tokenizer_name.removesuffix("/tokenizer.json")
        label = re.sub(r"[^\w.]+", "-", Path(label).stem)
        return self.root / f"{type(self).__name__}-{self.source}-{label}-{self.fingerprint[:8]}"

    @property
    def vocab(self) -> int:
        """Number of token ids, known before the store is built; a BPE that was trained on little text may use fewer."""
        return {"bytes": 257, "bpe": self.vocab_size}.get(self.tokenizer_name) or self.tokenizer.vocab

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: the one in the store if it is there, so that a prepared store needs no network."""
        if (self.folder / "tokenizer.json").exists():
            return load_tokenizer(self.folder)
        if self.tokenizer_name == "bpe":
            raise Told("the BPE of this corpus is not trained yet: call prepare_data() first (or `zoo prepare`)")
        return load_tokenizer(self.tokenizer_name)

    @property
    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer whose ids a net learns: checkpoints remember it."""
        return self.tokenizer.fingerprint

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def save_tokenizer(self, folder: str | os.PathLike) -> None:
        self.tokenizer.save(folder)

    def documents(self, split: str | None = None) -> Iterator[Document]:
        """The documents of the corpus, or of one split, as text."""
        return self.corpus.documents(split)

    # -- preparing ------------------------------------------------------------------------------------------------
    def prepare_data(self) -> None:
        """Train the tokenizer and build the token store where they are missing; prints where the store is and what it holds."""
        if self.source == "files" and self.megabytes is not None:
            self._tell("data: megabytes is for hub and installed; the files are taken whole")
        if self.source != "store":
            if self.tokenizer_name == "bpe":
                self._train_tokenizer()
            build(self.corpus, self.tokenizer, self.folder, self.prepare_workers)
        manifest = TokenStore(self.folder, "train", self.tokenizer.fingerprint).manifest
        counts = ", ".join(
            f"{split} {n['tokens']:,} tokens of {n['documents']:,} documents" for split, n in manifest["splits"].items()
        )
        self._tell(f"data: {self.description} in {self.folder}: {counts}")

    def _train_tokenizer(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".tokenizer.lock"):
            if not (self.folder / "tokenizer.json").exists():
                self._tell(f"data: training a BPE of {self.vocab_size} ids on up to {SAMPLE // 10**6} MB of the training text")
                train_bpe(sample(self.corpus, SAMPLE), self.vocab_size).save(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Open the store (memory-mapped)."""
        self.stores = {
            split: TokenStore(self.folder, split, self.tokenizer.fingerprint) for split in ("train", "validation", "test")
        }
        if self.stores["train"].manifest["vocab"] > self.vocab:
            raise ValueError(
                f"the store in {self.folder} has ids up to {self.stores['train'].manifest['vocab'] - 1}, but data.tokenizer "
                f"({self.tokenizer_name}) only {self.vocab}: give the tokenizer and vocab_size that it was made with"
            )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            print(text, flush=True)

    # -- loaders --------------------------------------------------------------------------------------------------
    def windows(self, split: str) -> int:
        """Number of windows in a split; ValueError if there is none."""
        count = (len(self.stores[split]) - RESERVE) // self.context
        if count < 1:
            raise ValueError(
                f"the {split} split has {len(self.stores[split])} tokens, too few for one window of {self.context} and the "
                f"{RESERVE} that are kept aside: give it more text or a smaller data.context"
            )
        return count

    def epochs_seen(self, tokens: int) -> float:
        """How often the training text has been read after so many tokens."""
        return tokens / (self.windows("train") * self.context)

    def train_dataloader(self) -> Loader:
        """All micro-steps of the run (max_steps), or one pass over the text where the Trainer counts epochs."""
        trainer, count = self.trainer, self.windows("train")
        batches = self._batches("train", partial(permute, n=count, seed=self.seed))
        stride = batches.world * self.batch
        if trainer is None or trainer.max_steps < 0:
            return self._loader(batches, max(1, count // stride))
        length = trainer.max_steps * trainer.accumulate_grad_batches
        if length * stride > count and trainer.is_global_zero:
            self._tell(f"data: this run reads the training text {length * stride / count:.1f} times")
        return self._loader(batches, length)

    def val_dataloader(self) -> Loader:
        return self._evaluation("validation")

    def test_dataloader(self) -> Loader:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Loader:
        count = self.windows(split)
        total = self.stores[split].manifest["splits"][split]
        tokens = count * self.context if self.eval_bytes is None else self.eval_bytes * total["tokens"] // max(1, total["bytes"])
        scored = min(count, max(1, tokens // self.context))
        batches = self._batches(split, partial(spread, count=count, scored=scored), scored)
        return self._loader(batches, math.ceil(scored / (batches.world * self.batch)))

    def _batches(self, split: str, window: Callable, scored: int | None = None) -> Batches:
        share = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        ahead = getattr(getattr(self.trainer and self.trainer.lightning_module, "net", None), "ahead", 1)
        if ahead > RESERVE:
            raise ValueError(f"the net looks {ahead} tokens ahead, further than the {RESERVE} kept aside: use fewer heads")
        store, rank, world = self.stores[split], share["rank"], share["num_replicas"]
        sidecars = {name: labels[split] for name, labels in self.sidecars.items()}
        return Batches(store, self.tokenizer, self.context, ahead, self.batch, window, scored, rank, world, sidecars)

    def _loader(self, batches: Batches, length: int) -> Loader:
        trainer = self.trainer
        pin = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Loader(batches, length, self.loader_workers, pin, trainer, self.fingerprint)


class OpenWebText(TokenData):
    __doc__ = f"""OpenWebText (Gokaslan & Cohen 2019), or other prose: files, or the documentation of installed packages.
    {ARGUMENTS}"""

    def __init__(
        self,
        source: Literal["hub", "files", "installed", "store"] = "hub",
        files: list[str] | None = None,
        hub: str = "Skylion007/openwebtext",
        hub_config: str | None = None,
        column: str | None = None,
        megabytes: float | None = None,
        tokenizer: str = "gpt2",
        vocab_size: int = 32000,
        context: int = 1024,
        batch: int = 8,
        eval_bytes: int | None = None,
        root: str = "data",
        prepare_workers: int | None = None,
        loader_workers: int = 0,
        seed: int = 0,
        exclude: list[str] | None = None,
        verify: bool = True,
    ):
        super().__init__("prose", source, files, hub, hub_config, column, megabytes, tokenizer, vocab_size, context, batch,
                         eval_bytes, root, prepare_workers, loader_workers, seed, exclude, verify)  # fmt: skip


class Code(TokenData):
    __doc__ = f"""Python code: a hub data set, files, or the code of installed packages.
    {ARGUMENTS}"""

    def __init__(
        self,
        source: Literal["hub", "files", "installed", "store"] = "hub",
        files: list[str] | None = None,
        hub: str = "codeparrot/codeparrot-clean",
        hub_config: str | None = None,
        column: str | None = None,
        megabytes: float | None = None,
        tokenizer: str = "bpe",
        vocab_size: int = 32000,
        context: int = 4096,
        batch: int = 2,
        eval_bytes: int | None = None,
        root: str = "data",
        prepare_workers: int | None = None,
        loader_workers: int = 0,
        seed: int = 0,
        exclude: list[str] | None = None,
        verify: bool = True,
    ):
        column = "content" if source == "hub" and column is None else column
        super().__init__("code", source, files, hub, hub_config, column, megabytes, tokenizer, vocab_size, context, batch,
                         eval_bytes, root, prepare_workers, loader_workers, seed, exclude, verify)  # fmt: skip


def sample(corpus, size: int) -> Iterator[str]:
    """Training texts from all over a corpus, `size` characters at most.

    A sixteenth of that, or more of few parts, comes from each part, in a shuffled order that is always the same.
    """
    parts = corpus.parts()
    left = size
    for index in permute(np.arange(len(parts)), len(parts), 0):
        room = max(size // 16, size // len(parts))
        for document in corpus.read(parts[index]):
            if document.split != "train":
                continue
            room -= len(document.text)
            left -= len(document.text)
            if left < 0:
                return
            yield document.text
            if room < 0:
                break
