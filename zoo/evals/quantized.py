"""What is left of sentences whose vectors are quantized (LCM paper, sec. 2.3.5 and figure 9)."""

import lightning as L

from zoo.data.sources import Source
from zoo.evals.autobleu import bleu, first_sentences, spread
from zoo.sonar.adapted import open_quantizer
from zoo.sonar.space import Space

PARTS = 8  # the quantizer's codebooks are counted in eighths, whatever their number


class QuantizedScores(L.Callback):
    """At test: held-out sentences through the encoder, the quantizer and the decoder, with more and more of the codebooks.

    Logs, in percent: `test/quantized_1of8` … `test/quantized_8of8`, BLEU with that share of the codebooks; `test/unquantized`;
    `test/quantized_share`, what all codebooks keep of it; `test/variance_left_1of8` and on, of the vectors; and
    `test/codebooks_1of8` and on, how many codebooks that is.

    Args:
        quantizer: file or folder of the codebooks; of 8 codebooks or a multiple of that, none is counted in part.
        sentences: held-out ones, at most, spread evenly over the split.
        longest: characters of a sentence that is taken.
        beam: 1 is greedy.
        corpora: other texts by name, as in `zoo.evals.autobleu.AutoBLEU` (the paper's: FLORES devtest), whose first sentences, of
            any length, are taken instead of held-out ones.
    """

    def __init__(
        self,
        quantizer: str,
        sentences: int = 600,
        longest: int = 100,
        beam: int = 1,
        corpora: dict[str, Source] | None = None,
    ):
        self.quantizer, self.sentences, self.longest, self.beam = quantizer, sentences, longest, beam
        self.corpora = corpora or {}

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        net, data = module.net, trainer.datamodule
        found = self.measured(Space(net.encoder, net.decoder, data.tokenizer), self._texts(data))
        module.log_dict({f"test/{name}": value for name, value in found.items()})

    def _texts(self, data) -> list[str]:
        others = [text for source in self.corpora.values() for text in first_sentences(source, data, self.sentences)]
        return others or [text for text in data.sentences("test") if len(text) <= self.longest]

    def measured(self, space: Space, texts: list[str]) -> dict[str, float]:
        """The numbers above, less "test/", of these sentences.

        Raises ValueError, in a sentence, where the codebooks are too few for eighths or of other vectors.
        """
        quantizer = open_quantizer(self.quantizer, space.width).to(space.device)
        if quantizer.books < PARTS:
            raise ValueError(f"{self.quantizer} has {quantizer.books} codebooks, too few for eighths: fit {PARTS} or more.")
        texts = spread(texts, self.sentences)
        vectors = space.encode(texts)  # (N, E)
        counts = [round(quantizer.books * part / PARTS) for part in range(1, PARTS + 1)]
        total = (vectors - vectors.mean(0)).square().sum()
        found = {"unquantized": bleu(space.decode(vectors, beam=self.beam), texts)}
        for part, (count, coarse) in enumerate(zip(counts, quantizer.prefixes(quantizer.encode(vectors), counts)), 1):
            found[f"codebooks_{part}of{PARTS}"] = float(count)
            found[f"quantized_{part}of{PARTS}"] = bleu(space.decode(coarse, beam=self.beam), texts)
            found[f"variance_left_{part}of{PARTS}"] = 100 * float((vectors - coarse).square().sum() / total)
        found["quantized_share"] = 100 * found[f"quantized_{PARTS}of{PARTS}"] / max(found["unquantized"], 1e-9)
        return found
