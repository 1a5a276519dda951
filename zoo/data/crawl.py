"""`CommonCrawlSentences`: web documents as sentence vectors for Large Concept Models, or as tokens for any token net.

Chunk c of a split is up to `context` sentences of one document, the same for any batch size, number of processes and net.
Training reads chunks in an order that is a pure function of (seed, position); a resumed run needs only the number of chunks that
were trained on.
"""

import os
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from zoo.data.chunks import ByLength, Filled, SentenceBatches
from zoo.data.duplicates import Distinct
from zoo.data.language import LANG
from zoo.data.loader import Loader, spread
from zoo.data.modules import TokenData
from zoo.data.order import permute
from zoo.data.segment import Capped, Cleaned, Segmenter, Sentencex
from zoo.data.sentence_store import SentenceStore, complete, read_manifest, report
from zoo.data.sentences import Encoder, SentenceShards, build, fingerprint, write_normalizer
from zoo.data.shards import write_json
from zoo.data.warc import WARC
from zoo.nn.normalizer import Normalizer
from zoo.saved import NORMALIZER, opened


class CommonCrawlSentences(TokenData):
    """Documents of Common Crawl, or of anything else, as sentences or as tokens.

    Batches of the sentence view are dicts: `vec` (batch, S, E) float32, S the longest chunk of the batch, zero behind each end;
    `length` (batch,) long; `role` (batch, S) long, TARGET for a sentence that is learnt and PADDING behind the end; `mask`
    (batch,) False for rows that only fill the last batch of a pass; `window` (batch,), the number of each chunk in its split; and
    `tokens` (1, sentences), the roles that are no padding, by which a run counts what it has read.
    Those of the token view are OpenWebText's.

    Args:
        view: "sentences" or "tokens": what batches hold.
        source: "hub" streams a data set, "files" reads text, .jsonl, .jsonl.gz and .parquet, "warc" web archives (WARC, WET and
            ARC), "installed" the documentation of installed packages, "stories" tells `documents` stories from templates
            (zoo.data.stories), "store" takes a store that is already built.
        files: paths or globs for files and warc; for source store, its one folder. The sentence view leaves out what is empty or
            cannot be read, says of which files, and counts it in its manifest; the token view of source files stops there.
        hub: name of the data set: allenai/c4 (configuration en), HuggingFaceFW/fineweb-edu (sample-10BT) or wikimedia/wikipedia
            (20231101.en).
        hub_config: its configuration.
        column: field of the text, or of a list of strings, which are its lines (such as the sentences of a document).
        megabytes: at most so much text (10⁶ bytes), for hub and installed.
        documents: how many stories.
        lang: language of the documents; source warc keeps no others, unless `all_languages`, which are then all cut and encoded
            as if they were of this one.
        share: of the documents of hub, files, warc and stories that are held out, for validation and for test each; 0 holds out
            none, which a handful of documents may need; None: what makes about 1 MB of hub, 0.05 of stories, 0.01 of the others.
            What is installed holds out packages, and a store has what it was built with, whatever the share.
        segmenter: cuts documents into sentences; None: sentencex, capped at 200 characters and cleaned.
        similar: Jaccard similarity from which on a document repeats an earlier one and is left out (`zoo.data.duplicates`), which
            takes a pass over all documents before the first is cut; None: 0.8 for warc, and nothing is left out of the others.
        repetitions: keep the pages of warc that repeat others, exactly or nearly; the others keep theirs anyway.
        encoder: turns sentences into vectors; where the store is there, only its fingerprint counts; source store needs none.
        context: sentences of a chunk (LCM §2.4.1: 128; §3: 2048), or tokens of a window.
        batch: chunks or windows per device and micro-step.
        sentences: training batches hold not `batch` chunks but as many of similar length as fit into so many sentences, padding
            counted: all weigh about the same, however long documents are (the released code: 7168). Scored batches have `batch`
            chunks in any case.
        similar_lengths: chunks of similar length come together, which saves padding; False shuffles them all.
        tokenizer, vocab_size: of the token view, as for OpenWebText.
        eval_bytes: about so much text is scored per validation or test pass; None: all.
        root: folder that holds the stores.
        prepare_workers: processes that build a token store.
        loader_workers: processes that load batches.
        seed: of the order.
        exclude, verify: for source installed, as for OpenWebText.
    """

    def __init__(
        self,
        view: Literal["sentences", "tokens"] = "sentences",
        source: Literal["hub", "files", "warc", "installed", "stories", "store"] = "hub",
        files: list[str] | None = None,
        hub: str = "allenai/c4",
        hub_config: str | None = "en",
        column: str | None = None,
        megabytes: float | None = None,
        documents: int = 20_000,
        share: float | None = None,
        lang: str = LANG,
        all_languages: bool = False,
        similar: float | None = None,
        repetitions: bool = False,
        segmenter: Segmenter | None = None,
        encoder: Encoder | None = None,
        context: int = 128,
        batch: int = 8,
        sentences: int | None = None,
        similar_lengths: bool = True,
        tokenizer: str = "bpe",
        vocab_size: int = 32000,
        eval_bytes: int | None = None,
        root: str = "data",
        prepare_workers: int | None = None,
        loader_workers: int = 0,
        seed: int = 0,
        exclude: list[str] | None = None,
        verify: bool = True,
    ):
        if source == "warc" and not files:
            raise ValueError("data.files and `data.source: warc` go together: give both, or neither")
        stored = source == "store" and view == "sentences"
        own = source in ("warc", "stories") or stored  # sources that token data do not know
        known = ("hub", None) if own else (source, files)
        super().__init__("prose", *known, hub, hub_config, column, megabytes, tokenizer, vocab_size, context, batch, eval_bytes,
                         root, prepare_workers, loader_workers, seed, exclude, verify)  # fmt: skip
        if source == "store" and not files:
            raise ValueError("data.files and `data.source: store` go together: give the one folder of the store")
        if share is not None and not 0 <= share < 0.5:
            raise ValueError(f"data.share is {share}: hold out less than half for validation and for test each, or 0 for none")
        if repetitions and similar is not None:
            raise ValueError("data.repetitions keeps what data.similar leaves out: give one of them")
        if sentences is not None and sentences < context:
            raise ValueError(f"data.sentences ({sentences}) is less than one chunk of data.context ({context}): give more")
        self.view, self.source, self.lang, self.similar_lengths = view, source, lang, similar_lengths
        self.sentences = sentences if view == "sentences" else None
        self.corpus.forgiving = view == "sentences"  # what cannot be read is left out and counted, as of web archives
        self.segmenter, self.encoder = segmenter or Cleaned(Capped(Sentencex())), encoder
        if source == "warc":
            near = 0.8 if similar is None else similar
            kept = None if all_languages else lang
            self.corpus = WARC(files, kept, not repetitions, near, cache=self.root / "web-archives")
        elif stored:
            self.corpus = Encoded(files[0])
        elif source == "stories":
            from zoo.data.stories import Stories

            self.corpus = Stories(documents)
        if share is not None and source in ("hub", "files", "warc", "stories"):
            self.corpus.validation = self.corpus.test = share
        if similar is not None and source in ("hub", "files", "installed"):
            self.corpus = Distinct(self.corpus, similar)

    # -- what it is -----------------------------------------------------------------------------------------------
    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the corpus and of what its documents are made into."""
        if self.view == "tokens":
            return super().fingerprint
        if self.source == "store":
            return read_manifest(self.corpus.folder)["fingerprint"]
        return fingerprint(self.corpus, self.segmenter, self._needed(), self.lang)

    @cached_property
    def folder(self) -> Path:
        """Where the store is."""
        if self.view == "tokens":
            return super().folder
        if self.source == "store":
            return self.corpus.folder
        label = re.sub(r"[^\w.]+", "-", self.lang)
        return self.root / f"{type(self).__name__}-{self.source}-{label}-{self.fingerprint[:8]}"

    @property
    def vocab(self) -> int:
        """What a net has to know of a position: how many numbers are in a sentence's vector, or how many token ids there are."""
        return self.width if self.view == "sentences" else super().vocab

    @property
    def width(self) -> int:
        """Numbers in a sentence's vector (E)."""
        if (self.folder / "manifest.json").exists():
            return read_manifest(self.folder)["width"]
        return self._needed().width

    def _needed(self) -> Encoder:
        if self.encoder is None:
            raise ValueError(
                "data.encoder is missing: give what turns sentences into vectors, or `source: store` with its folder"
            )
        return self.encoder

    @property
    def unit(self) -> str:
        return self.view

    @property
    def tokenizer_fingerprint(self) -> str:
        return super().tokenizer_fingerprint if self.view == "tokens" else ""  # of vectors there is none

    def save_tokenizer(self, folder: str | os.PathLike) -> None:
        """What is needed to read a net's inputs again: the tokenizer; of the sentence view, what its store says of the space."""
        if self.view == "tokens":
            return super().save_tokenizer(folder)
        Path(folder).mkdir(parents=True, exist_ok=True)
        known, manifest = ("encoder", "segmenter", "lang", "end", "width"), read_manifest(self.folder)
        write_json(Path(folder) / "space.json", {name: manifest[name] for name in known})

    # -- preparing ------------------------------------------------------------------------------------------------
    def shards(self) -> SentenceShards:
        """The work of the sentence store, for an executor of zoo.data.scale; `prepare_data` finds the store then."""
        return SentenceShards(self.corpus, self.segmenter, self._needed(), self.folder, self.lang)

    @property
    def normalizer(self) -> Normalizer:
        """The store's own, fitted to its training vectors when it was prepared; on the CPU."""
        return opened(Normalizer, self.folder / NORMALIZER)

    def _fit_normalizer(self) -> None:
        try:
            write_normalizer(self.folder)
        except OSError as error:
            if self.source != "store":
                raise
            self._tell(f"data: {self.folder} has no {NORMALIZER} and takes none ({error.strerror}): fit one on a copy of it")

    def prepare_data(self) -> None:
        """Build the store where it is missing; prints where it is, what it holds, and what was left out of it."""
        if self.view == "sentences":
            if self.source != "store" and not complete(self.folder, self.fingerprint):
                build(self.shards())
            self._tell(f"data: {self.description} in {self.folder}: {report(read_manifest(self.folder))}")
            return self._fit_normalizer()
        there = (self.folder / "manifest.json").exists()
        super().prepare_data()
        if self.source == "warc" and not there:  # a token store's manifest does not say
            self._tell(f"data: {self.corpus.report()}")

    def setup(self, stage: str | None = None) -> None:
        """Open the store (memory-mapped)."""
        if self.view == "tokens":
            return super().setup(stage)
        splits = ("train", "validation", "test")
        self.stores = {split: SentenceStore(self.folder, split, self.context, self.fingerprint) for split in splits}

    # -- loaders --------------------------------------------------------------------------------------------------
    def windows(self, split: str) -> int:
        """Number of chunks, or of windows, in a split; ValueError if there is none."""
        count = len(self.stores[split])
        if not count and split != "train":
            raise ValueError(
                f"nothing is held out: {self.folder} has no {split} documents to score; build a store with data.share above 0 "
                "and more documents, or fit without validation (--trainer.limit_val_batches=0)"
            )
        if not count:
            raise ValueError(f"the train split in {self.folder} is empty: give it more documents")
        return super().windows(split) if self.view == "tokens" else count

    def epochs_seen(self, tokens: int) -> float:
        """How often the training text has been read after so many tokens, or sentences."""
        return super().epochs_seen(tokens) if self.view == "tokens" else tokens / self.stores["train"].sentences

    def train_dataloader(self) -> Loader:
        """All micro-steps of the run (max_steps), or one pass over the text where the Trainer counts epochs."""
        if self.sentences is None:
            return super().train_dataloader()
        trainer, count = self.trainer, self.windows("train")
        batches = self._batches("train", partial(permute, n=count, seed=self.seed))
        if trainer is None or trainer.max_steps < 0:
            return self._loader(batches, max(1, batches.window.count(0) // batches.world))
        return self._loader(batches, trainer.max_steps * trainer.accumulate_grad_batches)

    def _evaluation(self, split: str):
        if self.view == "tokens":
            return super()._evaluation(split)
        count, size = self.windows(split), self.stores[split].manifest["splits"][split]["bytes"]
        scored = count if self.eval_bytes is None else min(count, max(1, self.eval_bytes * count // max(1, size)))
        batches = self._batches(split, partial(spread, count=count, scored=scored), scored)
        return self._loader(batches, -(-scored // (batches.world * self.batch)))

    def _batches(self, split: str, window: Callable, scored: int | None = None):
        if self.view == "tokens":
            return super()._batches(split, window, scored)
        share = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        store = self.stores[split]
        if scored is None and self.sentences is not None:
            return SentenceBatches(
                store, 1, Filled(window, store.lengths, self.sentences), None, share["rank"], share["num_replicas"]
            )
        if scored is None and self.similar_lengths:
            window = ByLength(window, store.lengths)
        return SentenceBatches(store, self.batch, window, scored, share["rank"], share["num_replicas"])


class Encoded:
    """A sentence store that stands for its corpus."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    @property
    def description(self) -> str:
        return read_manifest(self.folder)["description"]

    @property
    def fingerprint(self) -> str:
        return read_manifest(self.folder)["source"]

    def documents(self, split: str | None = None):
        """Its documents, their sentences joined by spaces and without the end marker."""
        from zoo.data.sources import Document, identity

        for each in [split] if split else ["train", "validation", "test"]:
            store = SentenceStore(self.folder, each, wrap=1 << 40)
            for number in range(len(store)):
                texts = store.texts(number)
                text = " ".join(texts[:-1] if texts[-1] == store.end else texts)
                yield Document(text, identity(text), each)
