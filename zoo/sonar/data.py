"""Sentences for auto-encoding: a LightningDataModule."""

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.data.installed import Installed
from zoo.data.loader import Loader
from zoo.data.segment import Cleaned, Segmenter, Sentencex
from zoo.data.shards import write_json
from zoo.data.sources import Files, Hub, Source, digest
from zoo.data.store import TokenStore, build, locked
from zoo.data.stories import Stories
from zoo.explain import Told
from zoo.sonar.batches import Batches, Group, Known, Side
from zoo.sonar.corpus import Cipher, Joined, Pairs, Pieces, Sentences, Translated
from zoo.sonar.named import tokenizer_of
from zoo.sonar.net import TextEncoder
from zoo.sonar.tokens import MARKERS, MODEL, Tokenizer, train_sentencepiece

SAMPLE = 1_000_000  # sentences that SentencePiece is trained on, at most
COVERAGE = 0.9999  # of the characters: with SentencePiece's 0.9995, some 3 % of sentences would hold one that cannot come back
SPLITS = ("train", "validation", "test")


class AutoEncoding(LightningDataModule):
    """Sentences of documents, cut up, tokenized and kept in a store, in batches of equally long ones.

    Args:
        source: "installed" is the prose of installed packages, "files" reads `files`, "hub" streams a data set of the hub, and
            "stories" tells 20,000 from templates (zoo.data.stories).
        files: paths or globs (text, .jsonl, .jsonl.gz, .parquet); with source installed, they come on top of it. Each path or
            glob of rows (.jsonl, .parquet) is a source, which holds out documents of its own; plain texts are one together.
        column: field of the text in hub data sets, .jsonl and .parquet. hub, hub_config: the data set. megabytes: at most so much
            text (10⁶ bytes) of hub or installed. share: of the documents of a data set, of the stories, and of each of the files,
            that are held out, for validation and for test each; None: what makes about 1 MB, 0.05 of stories and 0.01 of files.
            What is installed holds out packages, whatever the share.
        segmenter: cuts documents into sentences; None: sentencex, cleaned; a line is a paragraph.
        shortest, longest: characters of a sentence that is kept. lettered: share of them that are letters or spaces, at least.
        cipher: whether a second language is made of the first, `zoo.sonar.corpus.Cipher`, to be translated from and to.
        pairs: .jsonl files (.gz too) of aligned sentences, in rows of `eng`, `text` and `lang`, the language of `text`; they are
            translated in both directions and their vectors drawn together. fewest: there must be so many.
        lang: of the text, as SONAR names languages.
        vocab_size: number of token ids; SentencePiece trains as many pieces as that leaves.
        tokenizer: folder of a tokenizer that is there already, of a saved space for instance, or a card of sonar-space
            (zoo.sonar.named), and is taken instead.
        context: pieces of the longest sentence that is kept.
        tokens: in a batch, at most.
        eval_sentences: of a split that are scored per validation or test pass.
        root: folder that holds the stores.
        seed: of the order of training.
        exclude, verify: as in `zoo.data.Code`, for source installed.
    """

    def __init__(
        self,
        source: Literal["hub", "files", "installed", "stories"] = "hub",
        files: list[str] | None = None,
        column: str | None = None,
        hub: str = "HuggingFaceFW/fineweb-edu",
        hub_config: str | None = "sample-10BT",
        megabytes: float | None = None,
        share: float | None = None,
        segmenter: Segmenter | None = None,
        shortest: int = 8,
        longest: int = 100,
        lettered: float = 0.8,
        cipher: bool = False,
        pairs: list[str] | None = None,
        fewest: int = 50_000,
        lang: str = "eng_Latn",
        vocab_size: int = 2000,
        tokenizer: str | None = None,
        context: int = 64,
        tokens: int = 1024,
        eval_sentences: int = 4096,
        root: str = "data",
        seed: int = 0,
        exclude: list[str] | None = None,
        verify: bool = True,
    ):
        super().__init__()
        if source == "files" and not files:
            raise ValueError("data.source is files, and data.files names none: give paths or globs.")
        parts = [Installed("prose", megabytes, exclude, verify)] if source == "installed" else []
        if source == "hub":
            parts.append(Hub(hub, hub_config, column or "text", megabytes=megabytes, validation=share, test=share))
        rows = [pattern for pattern in files or () if pattern.removesuffix(".gz").endswith((".jsonl", ".json", ".parquet"))]
        held = {} if share is None else {"validation": share, "test": share}
        parts += [Stories(**held)] if source == "stories" else []
        parts += [Files(pattern, column, **held) for pattern in rows]
        parts += [Files(rest, column, **held)] if (rest := [pattern for pattern in files or () if pattern not in rows]) else []
        corpus = parts[0] if len(parts) == 1 else Joined(parts)
        self.corpus = Sentences(corpus, segmenter or Cleaned(Sentencex()), lang, shortest, longest, lettered)
        self.aligned, self.fewest = (Pairs(pairs) if pairs else None), fewest
        self.langs = [lang, *([Cipher.lang] if cipher else [])]
        self.langs += [found for found in (self.aligned.langs if self.aligned else []) if found not in self.langs]
        self.cipher = cipher
        self.source, self.context, self.tokens, self.eval_sentences, self.seed = source, context, tokens, eval_sentences, seed
        self.tokenizer_name, self.vocab_size, self.root = tokenizer, vocab_size, Path(root)

    @property
    def description(self) -> str:
        return self.corpus.description

    @cached_property
    def given(self) -> Tokenizer | None:
        """The tokenizer that is there already, if one is named."""
        return tokenizer_of(self.tokenizer_name) if self.tokenizer_name else None

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.given.vocab if self.given else self.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of sentences and tokenizer, known before anything is prepared."""
        pairs = self.aligned and self.aligned.fingerprint
        tokenizer = self.given.fingerprint if self.given else f"{self.vocab} of {SAMPLE} {COVERAGE}"
        return digest("sentences", self.corpus.fingerprint, self.langs, tokenizer, pairs)

    @property
    def folder(self) -> Path:
        return self.root / f"Sentences-{self.source}-{self.vocab}-{self.fingerprint[:8]}"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if self.given:
            return self.given
        if not (self.folder / MODEL).exists():
            raise Told("these sentences have no tokenizer yet: call prepare_data() first (or `zoo prepare`)")
        return Tokenizer(self.folder / MODEL, self.langs)

    def save_tokenizer(self, folder: str | Path) -> None:
        self.tokenizer.save_to(folder)

    # -- preparing ------------------------------------------------------------------------------------------------
    def prepare_data(self) -> None:
        """Train the tokenizer, build a token store per language and list the held-out sentences, where they are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.aligned and len(self.aligned) < self.fewest:
            raise ValueError(
                f"data.pairs holds {len(self.aligned):,} aligned sentences, fewer than data.fewest ({self.fewest:,}): give more "
                "of them, a smaller data.fewest, or no pairs."
            )
        with locked(self.folder / ".tokenizer.lock"):
            if not (self.given or (self.folder / MODEL).exists()):
                print(f"data: training SentencePiece on up to {SAMPLE:,} sentences of {self.description}", flush=True)
                spare = len(self.langs) + len(MARKERS) + 1
                model = train_sentencepiece(self._sample(), self.vocab - spare, coverage=COVERAGE)
                Tokenizer(model, self.langs).save(self.folder / MODEL)
        corpora = self._corpora()
        for name, corpus in corpora.items():
            build(corpus, self._pieces(name), self.folder / name, workers=1)
        for split in SPLITS[1:]:
            path = self.folder / f"{split}.json"
            if not path.exists():
                first = next(iter(corpora.values()))
                parts = first.apart() if isinstance(first, Sentences) else [first]
                write_json(path, [[one.description, [sentence.text for sentence in one.documents(split)]] for one in parts])

    def _corpora(self) -> dict[str, Source]:
        """What is stored, by the name of its folder."""
        found: dict[str, Source] = {"text": self.corpus}
        if self.cipher:
            found["cipher"] = Translated(self.corpus, Cipher())
        if self.aligned:
            found |= {"eng": self.aligned, "pairs": self.aligned.other}
        return found

    def _sample(self) -> Iterator[str]:
        """Sentences of the training text that SentencePiece is trained on, in all languages."""
        kept = thinned(sentence.text for sentence in self.corpus.documents("train"))
        yield from kept
        if self.cipher:
            yield from map(Cipher(), kept)
        if self.aligned:
            for side in (self.aligned, self.aligned.other):
                yield from (sentence.text for sentence in side.documents("train"))

    def setup(self, stage: str | None = None) -> None:
        """Open the stores; training sentences that come again, and held-out ones that were trained on, are left out."""
        token, side = self.tokenizer.lang_id, self._side
        self._token_bytes, known = self._pieces("text").token_bytes, Known()
        self.sides: dict[str, list[Side]] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.groups: dict[str, list[Group]] = {}
        for split in SPLITS:
            sides = [side("text", split, token(self.langs[0]))]
            sides += [side("cipher", split, token(Cipher.lang))] if self.cipher else []
            self._take(split, sides, known)
            if self.aligned:
                langs = np.array([token(lang) for lang in self.aligned.languages(split)], np.int64)
                pair = [side("eng", split, token(self.langs[0])), side("pairs", split, langs)]
                self.groups[split].append(Group(pair, self._fresh(split, pair, known), self.tokens))

    def _pieces(self, name: str) -> Pieces:
        """Of the store of this name."""
        return Pieces(self.tokenizer)

    def _side(self, name: str, split: str, langs: int | np.ndarray) -> Side:
        return Side.of(TokenStore(self.folder / name, split, self._pieces(name).fingerprint), langs)

    def _take(self, split: str, sides: list[Side], known: Known) -> None:
        """The split's sentences on these sides; of held-out ones, as many as are scored."""
        self.sides[split], self.rows[split] = sides, self._fresh(split, sides, known)
        rows = self.rows[split]
        if not len(rows):
            raise ValueError(f"no sentence of the {split} split fits in data.context ({self.context}): give it more text.")
        if split != "train":
            count = min(len(rows), self.eval_sentences)
            rows = rows[np.arange(count) * len(rows) // count]
        self.groups[split] = [Group(sides, rows, self.tokens)]

    def _fresh(self, split: str, sides: list[Side], known: Known) -> np.ndarray:
        """(R,) rows that fit and were not seen before."""
        fits = np.all([(side.lengths <= self.context) & (side.lengths > 0) for side in sides], axis=0)
        return known.fresh(sides, np.flatnonzero(fits), training=split == "train")

    def sentences(self, split: str) -> list[str]:
        """The text of the held-out sentences that count, as it was before it was tokenized."""
        return [text for texts in self.by_source(split).values() for text in texts]

    def by_source(self, split: str) -> dict[str, list[str]]:
        """`sentences` of each source, by its description."""
        found: dict[str, list[str]] = {}
        first, rows = 0, self.rows[split]
        for name, texts in json.loads((self.folder / f"{split}.json").read_text(encoding="utf-8")):
            own = rows[(rows >= first) & (rows < first + len(texts))]
            found.setdefault(name, []).extend(texts[i - first] for i in own)
            first += len(texts)
        return found

    def stored(self, split: str) -> Iterator[str]:
        """The split's sentences in their first language as the tokenizer writes them, without reading the corpus again."""
        side, rows = self.sides[split][0], self.rows[split]
        for at in range(0, len(rows), 1000):
            yield from self.tokenizer.decode(side.row(i) for i in rows[at : at + 1000])

    def vectors(self, encoder: TextEncoder, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, E) of `dtype`, on the CPU: an encoder's vectors of `count` training sentences at most, in the order of training,
        each in its first language."""
        batches, rows, device = self._batches("train"), 0, next(encoder.parameters()).device
        found = torch.empty(min(count, sum(len(group.rows) for group in self.groups["train"])), encoder.dim, dtype=dtype)
        with torch.inference_mode():
            for position in range(len(batches)):
                if rows >= len(found):
                    break
                part = encoder(batches.first(position).to(device))[: len(found) - rows]
                found[rows : rows + len(part)] = part  # no second copy of them all, as joining parts would take
                rows += len(part)
        return found[:rows]

    # -- checkpoints ----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, str]:
        """What Lightning puts into each checkpoint: of which sentences and tokenizer it is."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raise ValueError, in a sentence, where a training run would go on in other sentences or with another tokenizer."""
        if state["fingerprint"] != self.fingerprint and self.trainer is not None and self.trainer.state.fn == "fit":
            raise ValueError(
                "The checkpoint was trained on other sentences, or with another tokenizer, than these: give the files and "
                "settings of its run, or take another run folder (--trainer.logger.init_args.version), or remove that run."
            )

    # -- loaders --------------------------------------------------------------------------------------------------
    def epochs_seen(self, tokens: int) -> float:
        """How often the training text has been read after so many predicted tokens: pieces, the language and the end."""
        return tokens / self._pass_tokens

    @cached_property
    def _pass_tokens(self) -> int:
        """Predicted tokens of one pass over the training text. (Asked at every step: the sum is taken once.)"""
        return max(1, int((self.sides["train"][0].lengths[self.rows["train"]] + 2).sum()))

    def train_dataloader(self) -> Loader:
        batches, trainer = self._batches("train"), self.trainer
        if trainer is None or trainer.max_steps < 0:
            return self._loader(batches, max(1, len(batches) // batches.world))
        return self._loader(batches, trainer.max_steps * trainer.accumulate_grad_batches)

    def val_dataloader(self) -> Loader:
        return self._evaluation("validation")

    def test_dataloader(self) -> Loader:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Loader:
        batches = self._batches(split, scored=True)
        return self._loader(batches, -(-len(batches) // batches.world))

    def _batches(self, split: str, scored: bool | None = None) -> Batches:
        share = (self.trainer and self.trainer.distributed_sampler_kwargs) or {"num_replicas": 1, "rank": 0}
        rank, world = share["rank"], share["num_replicas"]
        return Batches(self.groups[split], self._token_bytes, self.seed, scored, rank, world)

    def _loader(self, batches: Batches, length: int) -> Loader:
        trainer = self.trainer
        pin = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Loader(batches, length, 0, pin, trainer, self.fingerprint)


def thinned(texts: Iterable[str], most: int = SAMPLE) -> list[str]:
    """Every text, or every 2nd, 4th, … once there are more than `most`."""
    kept: list[str] = []
    step = 1
    for i, text in enumerate(texts):
        if i % step == 0:
            kept.append(text)
            if len(kept) > most:
                kept, step = kept[::2], step * 2
    return kept
