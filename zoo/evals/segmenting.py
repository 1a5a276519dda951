"""How well segmenters suit a sentence space (LCM paper, sec. 2.2 and figure 3), and how long documents are (its table 2)."""

from collections.abc import Sequence

import lightning as L
import numpy as np

from zoo.data.language import LANG
from zoo.data.segment import Cleaned, Segmenter
from zoo.data.tokenizer import load_tokenizer
from zoo.evals.autobleu import bleu, grouped, round_trips, spread
from zoo.sonar.space import Space


class SegmenterScores(L.Callback):
    """At test: cuts held-out documents with a segmenter, and sends the sentences through the space and back.

    Logs `test/segment_bleu`, AutoBLEU in percent over sentences of all lengths, and for edges (30, 60, …) `test/segment_bleu_30`
    and on, by length in characters; `test/segments`, sentences per document; `test/segment_length`, their mean length;
    `test/segment_long`, the share in percent that is longer than `cap`; `test/segment_cut`, the share that lost its end, because
    the space has no positions for it; and the edges, as `test/segment_edge1` and on.

    Args:
        segmenter: as in `zoo.data.segment`; it is cleaned up after (`Cleaned`), each paragraph alone.
        documents: of the test split, at most, before they are cut.
        sentences: that are scored per length at most, and three times as many over all lengths.
        edges: characters of the longest sentence of each group.
        cap: what counts as long.
        lang: of the text.
        beam: 1 is greedy.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        documents: int = 2000,
        sentences: int = 1000,
        edges: Sequence[int] = (30, 60, 100, 150, 250),
        cap: int = 60,
        lang: str = "eng_Latn",
        beam: int = 1,
    ):
        self.segmenter, self.documents, self.sentences, self.edges = Cleaned(segmenter), documents, sentences, tuple(edges)
        self.cap, self.lang, self.beam = cap, lang, beam

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        net, data = module.net, trainer.datamodule
        found = self.measured(Space(net.encoder, net.decoder, data.tokenizer), texts_of(data, self.documents))
        module.log_dict({f"test/{name}": value for name, value in found.items()})

    def measured(self, space: Space, documents: Sequence[str]) -> dict[str, float]:
        """The numbers above, less "test/", of these documents.

        Raises ValueError where they hold no sentence.
        """
        pieces = [piece for document in documents for piece in self.segmenter(document, self.lang)]
        if not pieces:
            raise ValueError(f"the segmenter found no sentence in {len(documents)} documents: give it text.")
        lengths = np.array(list(map(len, pieces)))
        found = {
            "segments": len(pieces) / len(documents),
            "segment_length": lengths.mean(),
            "segment_long": 100 * (lengths > self.cap).mean(),
        }
        chosen, before = spread(pieces, 3 * self.sentences), space.truncated
        found["segment_bleu"] = bleu(round_trips(space, chosen, self.beam), chosen)
        found["segment_cut"] = 100 * (space.truncated - before) / len(chosen)
        for number, (edge, group) in enumerate(zip(self.edges, grouped(pieces, self.edges)), 1):
            found[f"segment_edge{number}"] = edge
            if group := spread(group, self.sentences):
                found[f"segment_bleu_{edge}"] = bleu(round_trips(space, group, self.beam), group)
        return {name: float(value) for name, value in found.items()}


class SentenceStatistics(L.Callback):
    """At test: how many documents, sentences and tokens a split has, as the paper's table 2 says it of its own.

    Logs `test/documents`, `test/all_sentences`, and per document `test/tokens_q1`, `_q2`, `_q3` (quartiles; the paper's are
    Llama 2's tokens) and `test/sentences_q1`, `_q2`, `_q3`, as the segmenter cuts.

    Args:
        split: "test", "validation" or "train".
        documents: at most; None: all.
        segmenter: None takes the data's.
        tokenizer: as in `zoo.data.tokenizer.load_tokenizer`; None takes the data's, of sentences or of tokens.
    """

    def __init__(
        self,
        split: str = "test",
        documents: int | None = None,
        segmenter: Segmenter | None = None,
        tokenizer: str | None = None,
    ):
        self.split, self.documents, self.segmenter, self.tokenizer = split, documents, segmenter, tokenizer

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data = trainer.datamodule
        found = self.measured(data, self.segmenter or getattr(data, "segmenter", None) or data.corpus.segmenter)
        module.log_dict({f"test/{name}": value for name, value in found.items()})

    def measured(self, data: L.LightningDataModule, segmenter: Segmenter) -> dict[str, float]:
        """The numbers above, less "test/"."""
        sentences, tokens, lang = [], [], getattr(data, "lang", LANG)
        tokenizer = load_tokenizer(self.tokenizer) if self.tokenizer else data.tokenizer
        for text in texts_of(data, self.documents, self.split):
            pieces = segmenter(text, lang)
            sentences.append(len(pieces))
            tokens.append(_tokens(tokenizer, text, pieces))
        if not sentences:
            raise ValueError(f"{data.description} has no document in its {self.split} split: give it more text.")
        found = {"documents": float(len(sentences)), "all_sentences": float(sum(sentences))}
        for name, counts in (("tokens", tokens), ("sentences", sentences)):
            for number, quartile in enumerate(np.percentile(counts, (25, 50, 75)), 1):
                found[f"{name}_q{number}"] = float(quartile)
        return found


def _tokens(tokenizer, text: str, pieces: list[str]) -> int:
    """Of a text, in a token net's tokenizer, or of its sentences in a space's."""
    if not hasattr(tokenizer, "prefix"):
        return len(tokenizer.encode(text))
    around = len(tokenizer.prefix()) + 1  # the language and the end, which are no tokens of the text
    return sum(map(len, tokenizer.encode(pieces))) - around * len(pieces) if pieces else 0


def texts_of(data: L.LightningDataModule, most: int | None = None, split: str = "test") -> list[str]:
    """The text of a data module's documents as they were before they were cut, `most` of a split at most, spread evenly."""
    whole = getattr(data.corpus, "corpus", data.corpus)  # sentences are a corpus of their own, cut out of this one
    found = [document.text for document in whole.documents(split)]
    return spread(found, len(found) if most is None else most)
