"""Sentences for auto-encoding: a LightningDataModule whose batches hold sentences of equal length, so that nothing is padded."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.installed import Installed
from zoo.data.loader import Loader
from zoo.data.order import mix, permute
from zoo.data.segment import Cleaned, Segmenter, Sentencex
from zoo.data.shards import write_json
from zoo.data.sources import Files, Hub, Source, digest
from zoo.data.store import TokenStore, build, locked
from zoo.sonar.corpus import Cipher, Joined, Pairs, Pieces, Sentences, Translated
from zoo.sonar.tokens import EOS, MARKERS, MODEL, PAD, Tokenizer, train_sentencepiece

SAMPLE = 1_000_000  # sentences that SentencePiece is trained on, at most
SPLITS = ("train", "validation", "test")


class Side:
    """The sentences of one side of a corpus as rows of pieces: row i is what lies between the end tokens i - 1 and i.

    tokens (N,); langs: id of the language's symbol, of all rows or (R,) of each.
    """

    def __init__(self, tokens: np.ndarray, langs: int | np.ndarray):
        self.tokens = tokens
        self.ends = np.flatnonzero(tokens == EOS)  # (R,)
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])[: len(self.ends)]  # (R,)
        self.lengths = self.ends - self.starts  # (R,) pieces of each sentence
        self.langs = np.broadcast_to(np.asarray(langs), len(self.ends))  # (R,)

    @classmethod
    def of(cls, store: TokenStore, langs: int | np.ndarray) -> "Side":
        """The rows of a token store, whose sentences each end in an end token."""
        tokens = store.windows(np.zeros(1, np.int64), len(store))[0] if len(store) else np.zeros(0, np.int64)
        return cls(tokens.astype(np.uint16 if tokens.max(initial=0) < 2**16 else np.int32), langs)

    def row(self, i: int) -> np.ndarray:
        return self.tokens[self.starts[i] : self.ends[i]]

    def rows(self, numbers: np.ndarray, target: bool) -> tuple[np.ndarray, np.ndarray]:
        """These rows (B, S) int64 as sources, [language] … [end], or as targets, with an end token in front too; padded on the
        right. And their lengths (B,)."""
        front = 2 if target else 1
        lengths = self.lengths[numbers] + front + 1  # (B,)
        out = np.full((len(numbers), lengths.max()), PAD, np.int64)
        out[:, 0] = EOS
        out[:, front - 1] = self.langs[numbers]
        for line, number, length in zip(out, numbers, lengths):
            line[front : length - 1] = self.row(number)
            line[length - 1] = EOS
        return out, lengths


class Group:
    """Rows that make batches with each other: all of one corpus, whose sides are the same sentences in one or more languages.

    rows (R,): numbers of those that count. tokens: in a batch at most, end and language included; its rows have one length on the
    first side.
    """

    def __init__(self, sides: list[Side], rows: np.ndarray, tokens: int):
        self.sides, self.rows = sides, rows
        lengths, counts = np.unique(sides[0].lengths[rows], return_counts=True)
        sizes, starts = np.maximum(1, tokens // (lengths + 2)), np.cumsum(counts) - counts
        cuts = [np.arange(start, start + count, size) for start, count, size in zip(starts, counts, sizes)]
        self.cuts = np.append(np.concatenate(cuts), len(rows)) if cuts else np.zeros(1, np.int64)  # (M + 1,) where batches begin
        self._key, self._order = None, rows

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.cuts) - 1

    def batch(self, number: int, epoch: int, seed: int | None) -> np.ndarray:
        """(B,) the rows of a batch; with a seed, those of one length fall into other batches in each epoch."""
        if self._key != (epoch, seed):
            rows = self.rows
            if seed is not None:
                rows = rows[permute(np.arange(len(rows)) + epoch * len(rows), len(rows), seed)]
            self._order = rows[np.argsort(self.sides[0].lengths[rows], kind="stable")]
            self._key = (epoch, seed)
        return self._order[self.cuts[number] : self.cuts[number + 1]]


class Batches(Dataset):
    """Batch k of one process, a pure function of k. Where a group has several sides, it translates from one of them to one of
    them, which its position draws.

    scored: None trains, in an order of `seed`; True goes through all rows once, and repeats the last batch uncounted.
    one_way: whether it translates from the first side to the second alone.
    """

    batch = 1  # what `Loader` counts in

    def __init__(
        self,
        groups: list[Group],
        token_bytes: np.ndarray,
        seed: int = 0,
        scored: bool | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.groups, self.token_bytes, self.seed, self.scored = groups, token_bytes, seed, scored
        self.rank, self.world, self.offset, self.one_way = rank, world, 0, False
        self.starts = np.cumsum([0, *map(len, groups)])

    def __len__(self) -> int:
        """Batches in one pass."""
        return int(self.starts[-1])

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        position, count = self.offset + k * self.world + self.rank, len(self)
        if self.scored is None:
            counted, epoch, number = True, position // count, int(permute(np.array([position]), count, self.seed + 1)[0])
        else:
            counted, epoch, number = position < count, 0, min(position, count - 1)
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        group = self.groups[place]
        numbers = group.batch(number - int(self.starts[place]), epoch, self.seed if self.scored is None else None)
        draw = int(mix(np.uint64(position) + (np.uint64(self.seed % 2**31) << np.uint64(33)))) >> 8
        return self._batch(group.sides, numbers, 1 if self.one_way else draw % len(group.sides) ** 2, counted)

    def _batch(self, sides: list[Side], numbers: np.ndarray, direction: int, counted: bool) -> dict[str, Tensor]:
        from_, to = divmod(direction, len(sides))
        source, source_length = sides[from_].rows(numbers, target=False)  # (B, S)
        tokens, length = sides[to].rows(numbers, target=True)  # (B, T + 1)
        place = np.arange(tokens.shape[1])
        mask = counted & (place != 1) & (place < length[:, None])  # nothing is learnt from the language's symbol
        batch = {"source": source, "tokens": tokens, "mask": mask, "bytes": self.token_bytes[tokens], "sentence": numbers}
        if len(sides) > 1 and not self.one_way:
            batch["source_length"] = source_length
            batch["other"], batch["other_length"] = sides[(from_ + 1) % len(sides)].rows(numbers, target=False)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}


class AutoEncoding(LightningDataModule):
    """Sentences of documents, cut up, tokenized and kept in a store, in batches of equally long ones.

    Args:
        source: "installed" is the prose of installed packages, "files" reads `files`, "hub" streams a data set of the hub.
        files: paths or globs (text, .jsonl, .jsonl.gz, .parquet); with source installed, they come on top of it.
        column: field of the text in hub data sets, .jsonl and .parquet. hub, hub_config: the data set. megabytes: at most so much
            text (10⁶ bytes) of hub or installed.
        segmenter: cuts documents into sentences; None: sentencex, cleaned; a line is a paragraph.
        shortest, longest: characters of a sentence that is kept.
        cipher: whether a second language is made of the first, `zoo.sonar.corpus.Cipher`, to be translated from and to.
        pairs: .jsonl files (.gz too) of aligned sentences, in rows of `eng`, `text` and `lang`, the language of `text`; they are
            translated in both directions and their vectors drawn together. fewest: there must be so many.
        lang: of the text, as SONAR names languages.
        vocab_size: number of token ids; SentencePiece trains as many pieces as that leaves.
        tokenizer: folder of a tokenizer that is there already, of a saved space for instance, and is taken instead.
        context: pieces of the longest sentence that is kept.
        tokens: in a batch, at most.
        eval_sentences: of a split that are scored per validation or test pass.
        root: folder that holds the stores.
        seed: of the order of training.
        exclude, verify: as in `zoo.data.Code`, for source installed.
    """

    def __init__(
        self,
        source: Literal["hub", "files", "installed"] = "hub",
        files: list[str] | None = None,
        column: str | None = None,
        hub: str = "HuggingFaceFW/fineweb-edu",
        hub_config: str | None = "sample-10BT",
        megabytes: float | None = None,
        segmenter: Segmenter | None = None,
        shortest: int = 8,
        longest: int = 100,
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
        parts += [Hub(hub, hub_config, column or "text", megabytes=megabytes)] if source == "hub" else []
        parts += [Files(files, column)] if files else []
        corpus = parts[0] if len(parts) == 1 else Joined(parts)
        self.corpus = Sentences(corpus, segmenter or Cleaned(Sentencex()), lang, shortest, longest)
        self.aligned, self.fewest = (Pairs(pairs) if pairs else None), fewest
        self.langs = [lang, *([Cipher.lang] if cipher else [])]
        self.langs += [found for found in (self.aligned.langs if self.aligned else []) if found not in self.langs]
        self.cipher = cipher
        self.source, self.context, self.tokens, self.eval_sentences, self.seed = source, context, tokens, eval_sentences, seed
        self.given = tokenizer and Tokenizer.opened(tokenizer)
        self.vocab, self.root = self.given.vocab if self.given else vocab_size, Path(root)

    @property
    def description(self) -> str:
        return self.corpus.description

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of sentences and tokenizer, known before anything is prepared."""
        pairs = self.aligned and self.aligned.fingerprint
        tokenizer = self.given.fingerprint if self.given else f"{self.vocab} of {SAMPLE}"
        return digest("sentences", self.corpus.fingerprint, self.langs, tokenizer, pairs)

    @property
    def folder(self) -> Path:
        return self.root / f"Sentences-{self.source}-{self.vocab}-{self.fingerprint[:8]}"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if self.given:
            return self.given
        if not (self.folder / MODEL).exists():
            raise RuntimeError("these sentences have no tokenizer yet: call prepare_data() first (or `zoo prepare`)")
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
                Tokenizer(train_sentencepiece(self._sample(), self.vocab - spare), self.langs).save(self.folder / MODEL)
        corpora = self._corpora()
        for name, corpus in corpora.items():
            build(corpus, self._pieces(name), self.folder / name, workers=1)
        for split in SPLITS[1:]:
            path = self.folder / f"{split}.json"
            if not path.exists():
                write_json(path, [sentence.text for sentence in next(iter(corpora.values())).documents(split)])

    def _corpora(self) -> dict[str, Source]:
        """What is stored, by the name of its folder."""
        found: dict[str, Source] = {"text": self.corpus}
        if self.cipher:
            found["cipher"] = Translated(self.corpus, Cipher())
        if self.aligned:
            found |= {"eng": self.aligned, "pairs": self.aligned.other}
        return found

    def _sample(self) -> Iterator[str]:
        """Sentences of the training text, every 2nd, 4th, … once there are too many; in all languages."""
        kept: list[str] = []
        step = 1
        for i, sentence in enumerate(self.corpus.documents("train")):
            if i % step == 0:
                kept.append(sentence.text)
                if len(kept) > SAMPLE:
                    kept, step = kept[::2], step * 2
        yield from kept
        if self.cipher:
            yield from map(Cipher(), kept)
        if self.aligned:
            for side in (self.aligned, self.aligned.other):
                yield from (sentence.text for sentence in side.documents("train"))

    def setup(self, stage: str | None = None) -> None:
        """Open the stores; training sentences that come again, and held-out ones that were trained on, are left out."""
        token, side = self.tokenizer.lang_id, self._side
        self._token_bytes, seen, seen_pairs = self._pieces("text").token_bytes, set(), set()
        self.sides: dict[str, list[Side]] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.groups: dict[str, list[Group]] = {}
        for split in SPLITS:
            sides = [side("text", split, token(self.langs[0]))]
            sides += [side("cipher", split, token(Cipher.lang))] if self.cipher else []
            self._take(split, sides, seen)
            if self.aligned:
                langs = np.array([token(lang) for lang in self.aligned.languages(split)], np.int64)
                pair = [side("eng", split, token(self.langs[0])), side("pairs", split, langs)]
                self.groups[split].append(Group(pair, self._fresh(pair, seen_pairs), self.tokens))

    def _pieces(self, name: str) -> Pieces:
        """Of the store of this name."""
        return Pieces(self.tokenizer)

    def _side(self, name: str, split: str, langs: int | np.ndarray) -> Side:
        return Side.of(TokenStore(self.folder / name, split, self._pieces(name).fingerprint), langs)

    def _take(self, split: str, sides: list[Side], seen: set[bytes]) -> None:
        """The split's sentences on these sides; of held-out ones, as many as are scored."""
        self.sides[split], self.rows[split] = sides, self._fresh(sides, seen)
        rows = self.rows[split]
        if not len(rows):
            raise ValueError(f"no sentence of the {split} split fits in data.context ({self.context}): give it more text.")
        if split != "train":
            count = min(len(rows), self.eval_sentences)
            rows = rows[np.arange(count) * len(rows) // count]
        self.groups[split] = [Group(sides, rows, self.tokens)]

    def _fresh(self, sides: list[Side], seen: set[bytes]) -> np.ndarray:
        """(R,) rows that fit and were not seen before."""
        fits = np.all([(side.lengths <= self.context) & (side.lengths > 0) for side in sides], axis=0)
        rows = []
        for i in np.flatnonzero(fits).tolist():
            key = b"".join(side.row(i).tobytes() for side in sides)
            if key not in seen:
                seen.add(key)
                rows.append(i)
        return np.array(rows, np.int64)

    def sentences(self, split: str) -> list[str]:
        """The text of the held-out sentences that count, as it was before it was tokenized."""
        texts = json.loads((self.folder / f"{split}.json").read_text(encoding="utf-8"))
        return [texts[i] for i in self.rows[split]]

    # -- loaders --------------------------------------------------------------------------------------------------
    def epochs_seen(self, tokens: int) -> float:
        """How often the training text has been read after so many tokens."""
        return tokens / max(1, int(self.sides["train"][0].lengths[self.rows["train"]].sum()))

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
