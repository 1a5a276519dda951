"""Fragility: how fast a sentence is lost when its vector moves (LCM paper, sec. 2.5.2, eq. 26-28; figures 14 and 15)."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.evals.autobleu import grouped, seed_of, spread
from zoo.explain import Told
from zoo.nn.fragility import FragilityModel
from zoo.nn.normalizer import Normalizer
from zoo.sonar.folder import open_folder
from zoo.sonar.space import Space

LEVELS = tuple(i / 10 for i in range(1, 10))  # the paper's nine
TENTHS = 10  # of the range of a score


class Fragility(NamedTuple):
    """Scores of N sentences at L levels of noise, in [0, 1]: `bleu` and `cosine` (N, L), and the decoded texts [L][N]; without
    noise, `still_bleu` and `still_cosine` (N,)."""

    levels: tuple[float, ...]
    bleu: Tensor
    cosine: Tensor
    texts: list[list[str]]
    still_bleu: Tensor
    still_cosine: Tensor

    def of(self, score: str) -> Tensor:
        """(N,) fragility: minus the mean score over the levels, between -1 (nothing is lost) and 0."""
        return -getattr(self, score).mean(1)

    def kept(self, score: str, part: slice = slice(None)) -> Tensor:
        """Mean score over levels and sentences, over that without noise: what noise leaves of what the space can say at all."""
        return getattr(self, score)[part].mean() / getattr(self, f"still_{score}")[part].mean().clamp(min=1e-9)


def fragility(
    space: Space,
    normalizer: Normalizer,
    texts: Sequence[str],
    reader: Callable[[Sequence[str]], Tensor],
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    beam: int = 1,
) -> Fragility:
    """Noise each sentence's vector at each level, and not at all, decode it, and score the text against the sentence.

    reader: texts -> vectors (N, D) of an encoder that has nothing to do with the space; cosines are taken there.
    """
    vectors, theirs = space.encode(texts), reader(texts)
    bleu, cosine, decoded = [], [], []
    for number, level in enumerate((*levels, None)):
        generator = torch.Generator(vectors.device).manual_seed(seed * 1000 + number)
        moved = vectors if level is None else normalizer.noised(vectors, level, generator)
        decoded.append(space.decode(moved, beam=beam))
        bleu.append(torch.tensor([sentence_bleu(text, reference) for text, reference in zip(decoded[-1], texts)]))
        cosine.append(F.cosine_similarity(reader(decoded[-1]), theirs, dim=1).float().cpu())
    *bleu, still_bleu = bleu
    *cosine, still_cosine = cosine
    return Fragility(tuple(levels), torch.stack(bleu, 1), torch.stack(cosine, 1), decoded[:-1], still_bleu, still_cosine)


def sentence_bleu(text: str, reference: str) -> float:
    """BLEU of one sentence in [0, 1], smoothed as sacrebleu smooths."""
    return _metric().sentence_score(text, [reference]).score / 100


@lru_cache(maxsize=1)
def _metric():
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


class CharacterNgrams:
    """A stand-in for a real sentence encoder where there is none: hashed character n-grams, weighted by how rare they are.

    It is no neural encoder and knows no meaning; two texts are close when they are spelled alike. Pages that use it say so.

    texts: that the rareness is counted in. width: of the vectors; sizes: of the n-grams, word ends included.
    """

    name = "hashed character n-grams"

    def __init__(self, texts: Sequence[str], width: int = 4096, sizes: Sequence[int] = (3, 4, 5)):
        self.width, self.sizes = width, tuple(sizes)
        seen = torch.zeros(width)
        for text in texts:
            seen[list(self._counts(text))] += 1
        self.weights = torch.log((1 + len(texts)) / (1 + seen)) + 1  # (width,)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, width), of length 1; zeros for a text without letters or digits."""
        out = torch.zeros(len(texts), self.width)
        for row, text in zip(out, texts):
            for place, count in self._counts(text).items():
                row[place] = 1 + math.log(count)
        return F.normalize(out * self.weights, dim=1)

    def _counts(self, text: str) -> Counter:
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        spelled = [f" {word} " for word in words]
        grams = (word[i : i + size] for word in spelled for size in self.sizes for i in range(len(word) - size + 1))
        return Counter(_place(gram, self.width) for gram in grams)


@lru_cache(maxsize=1_000_000)
def _place(gram: str, width: int) -> int:
    return int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little") % width


class Encoder:
    """A sentence encoder of the hub or a local folder through transformers, such as the paper's mGTE: the first token's vector.

    trust: mGTE brings its own modelling code, which runs only where this is true. device: "auto" is a GPU where the process has
    one.
    Raises RuntimeError, in a sentence, where the model cannot be had.
    """

    def __init__(
        self, name: str = "Alibaba-NLP/gte-multilingual-base", trust: bool = False, batch: int = 64, device: str = "auto"
    ):
        from transformers import AutoModel, AutoTokenizer

        self.name, self.batch = name, batch
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
            self.model = AutoModel.from_pretrained(name, trust_remote_code=trust).eval().to(device)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise Told(
                f"the sentence encoder {name!r} could not be read ({reason}): give a local folder, set trust: true if it brings "
                "modelling code that may run, or take CharacterNgrams."
            ) from error

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, D), of length 1."""
        found = []
        for first in range(0, len(texts), self.batch):
            given = self.tokenizer(list(texts[first : first + self.batch]), padding=True, truncation=True, return_tensors="pt")
            found.append(self.model(**given.to(self.model.device)).last_hidden_state[:, 0].float())
        return F.normalize(torch.cat(found), dim=1)


class FragilityScores(L.Callback):
    """At test: how much of held-out sentences is left when their vectors move, by level of noise and by length (figures 14, 15).

    Logs, in [0, 1]: `test/bleu@0.1` … and `test/cosine@0.1` …, means over sentences at each level (`test/level1` …), and
    `test/bleu_sd@0.1` …, deviations; `test/bleu_30`, `test/cosine_30` and on, means over all levels of sentences up to each edge
    of length (`test/edge1` …); `test/bleu@0`, `test/cosine@0`, without noise, and what noise leaves of these, `test/kept_bleu`,
    `test/kept_cosine`, and of BLEU by length `test/kept_30` and on; `test/fragility_bleu` and `test/fragility_cosine`, between -1
    and 0; `test/fragility_r2`, how much of the former's variance over these sentences a small net tells from the vector that
    learnt from others (absent where they hardly vary or are too few); `test/bleu_bin1` … `_bin10` and `test/cosine_bin1` …, the
    share of sentences in percent whose mean score lies in each tenth of [0, 1], whose middle is `test/score_at1` …; and the
    quartiles of that score over sentences, `test/bleu_q1` to `_q3` and `test/cosine_q1` to `_q3`.

    Args:
        normalizer: folder of the space whose normalizer scales the noise; None: the net's own, or one fitted to 20,000 training
            sentences.
        sentences: per group of lengths at most, spread evenly over the split; edges: as in `zoo.evals.autobleu.AutoBLEU`.
        encoder: of the cosines: a name of the hub or a folder (the paper's: "Alibaba-NLP/gte-multilingual-base"); None takes
            `CharacterNgrams`, which knows spelling alone. trust: lets an encoder run the modelling code that it brings.
        learnt: sentences of the validation split that the small net learns from; 0 leaves it out.
        levels, seed, beam: as in `fragility`; seed None takes the run's.
    """

    def __init__(
        self,
        normalizer: str | None = None,
        sentences: int = 200,
        edges: Sequence[int] = (30, 60, 100),
        encoder: str | None = None,
        trust: bool = False,
        learnt: int = 3000,
        levels: Sequence[float] = LEVELS,
        seed: int | None = None,
        beam: int = 1,
    ):
        self.normalizer, self.sentences, self.edges, self.encoder = normalizer, sentences, tuple(edges), encoder
        self.trust, self.learnt = trust, learnt
        self.levels, self.seed, self.beam = tuple(levels), seed, beam

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        net, data = module.net, trainer.datamodule
        space = Space(net.encoder, net.decoder, data.tokenizer)
        module.log_dict({f"test/{name}": value for name, value in self.measured(space, net, data).items()})

    def measured(self, space: Space, net: nn.Module, data) -> dict[str, float]:
        """The numbers above, less "test/"."""
        groups = [spread(group, self.sentences) for group in grouped(data.sentences("test"), self.edges)]
        texts = [text for group in groups for text in group]
        normalizer = self._normalizer(space, net, data)
        reader = Encoder(self.encoder, self.trust) if self.encoder else CharacterNgrams(texts)
        scores = fragility(space, normalizer, texts, reader, self.levels, seed_of(self.seed), self.beam)
        found: dict[str, float] = {}
        found |= {"bleu@0": scores.still_bleu.mean(), "cosine@0": scores.still_cosine.mean()}
        found |= {f"kept_{score}": scores.kept(score) for score in ("bleu", "cosine")}
        for place, level in enumerate(self.levels):
            found[f"level{place + 1}"] = level
            bleu, cosine = scores.bleu[:, place], scores.cosine[:, place]
            found |= {f"bleu@{level}": bleu.mean(), f"cosine@{level}": cosine.mean(), f"bleu_sd@{level}": bleu.std()}
        first = 0
        for place, (edge, group) in enumerate(zip(self.edges, groups), 1):
            part = slice(first, first + len(group))
            found[f"edge{place}"] = edge
            if group:
                found |= {f"bleu_{edge}": scores.bleu[part].mean(), f"cosine_{edge}": scores.cosine[part].mean()}
                found[f"kept_{edge}"] = scores.kept("bleu", part)
            first += len(group)
        found |= {f"fragility_{score}": scores.of(score).mean() for score in ("bleu", "cosine")}
        for score in ("bleu", "cosine"):
            tenth = (-TENTHS * scores.of(score)).long().clamp(0, TENTHS - 1)  # (N,) a score of 1 is in the last
            shares = 100 * torch.bincount(tenth, minlength=TENTHS) / len(texts)
            found |= {f"{score}_bin{number}": share for number, share in enumerate(shares, 1)}
            quartiles = torch.quantile(-scores.of(score).double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
            found |= {f"{score}_q{number}": quartile for number, quartile in enumerate(quartiles, 1)}
        found |= {f"score_at{number}": (number - 0.5) / TENTHS for number in range(1, TENTHS + 1)}
        if self.learnt and (told := self._told(space, normalizer, reader, texts, scores, data)) is not None:
            found["fragility_r2"] = told
        return {name: float(value) for name, value in found.items()}

    def _told(self, space: Space, normalizer: Normalizer, reader, texts: list[str], scores: Fragility, data) -> float | None:
        others = spread([text for text in data.sentences("validation") if len(text) <= self.edges[-1]], self.learnt)
        if len(others) < 20:
            return None
        known = fragility(space, normalizer, others, reader, self.levels, seed_of(self.seed) + 1, self.beam)
        with torch.inference_mode(False), torch.random.fork_rng():
            torch.manual_seed(seed_of(self.seed))
            model = FragilityModel(space.width, 256)
            vectors = lambda of: normalizer.normalize(space.encode(of)).cpu().clone()
            model.fit(vectors(others), known.of("bleu").clone(), seed=seed_of(self.seed))
            return model.told(vectors(texts), scores.of("bleu").clone())

    def _normalizer(self, space: Space, net: nn.Module, data) -> Normalizer:
        if self.normalizer is None:
            found = getattr(net, "normalizer", None) or Normalizer.fitted(data.vectors(space.encoder, 20_000))
            return found.to(space.device)
        found = open_folder(self.normalizer).normalizer
        if found is None:
            raise ValueError(f"{self.normalizer} has no normalizer: `zoo prepare space` makes a folder with one.")
        return found.to(space.device)
