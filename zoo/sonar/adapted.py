"""Decoders that read what a model writes: a space's own, trained on with vectors that were moved by noise or by quantization."""

import math
from pathlib import Path

import torch
from torch import Tensor

from zoo.nn.normalizer import Normalizer
from zoo.nn.rvq import ResidualQuantizer
from zoo.saved import opened
from zoo.sonar.autoencoder import OnFrozen
from zoo.sonar.named import open_named
from zoo.sonar.net import TextDecoder, TextEncoder

KINDS = {"encoder": TextEncoder, "decoder": TextDecoder, "normalizer": Normalizer}
CODEBOOKS = "quantizer.safetensors"


class Adapted(OnFrozen):
    """The decoder of a space, to be trained on while the rest stays. Subclasses say how vectors are moved.

    parts: what of the space is kept, by name. Other arguments: see `RobustDecoder`.
    """

    def _take(
        self, vocab: int, context: int, space: str, parts: tuple[str, ...], dropout: float, sizes: dict | None, config: dict
    ) -> None:
        found = None
        if sizes is None:
            with torch.device("cpu"):  # also where the rest is only counted
                opened_space = open_named(space)
            found = {name: getattr(opened_space, name) for name in parts}
            if lost := [name for name, part in found.items() if part is None]:
                raise ValueError(f"{space} has no {lost[0]}: give the folder of a whole space, as `zoo prepare space` makes it.")
            sizes = {name: part.config for name, part in found.items()}
            sizes["decoder"] = sizes["decoder"] | {"dropout": dropout}
        self.vocab, self.context, self.config = vocab, context, config | {"sizes": sizes}
        for name in parts:
            setattr(self, name, KINDS[name](**sizes[name]))
        self.encoder.requires_grad_(False)
        if self.decoder.vocab != vocab:
            raise ValueError(
                f"{space} has {self.decoder.vocab} token ids and the data {vocab}: give data.tokenizer the same folder."
            )
        if found is not None and not self.decoder.unembedding.is_meta:
            for name, part in found.items():
                getattr(self, name).load_state_dict(part.state_dict())


class RobustDecoder(Adapted):
    """A decoder that stands noise: it reads vectors that were noised (LCM paper, sec. 2.5.2, eq. 27, and table 7).

    Args:
        vocab, context: of the space's tokenizer; the longest sentence in pieces.
        space: folder of the space, with a normalizer (`zoo prepare space` makes one), or sources of it joined by "+", as in
            "FOLDER+text_sonar_finetuned_decoder" (zoo.sonar.named).
        level: the largest share of noise; that of a sentence is drawn from [0, level]. 0 only trains on, a control.
        dropout: of the decoder.
        sizes: of the parts, where the weights come from elsewhere (a saved net); then `space` is not read.
    """

    normalizer: Normalizer

    def __init__(
        self, vocab: int, context: int, space: str, *, level: float = 1.0, dropout: float = 0.1, sizes: dict | None = None
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if not 0 <= level <= 1:
            raise ValueError(f"level ({level}) is a share of noise, from 0 to 1.")
        self.level = level
        self._take(vocab, context, space, ("encoder", "decoder", "normalizer"), dropout, sizes, config)

    def moved(self, vectors: Tensor) -> Tensor:
        return self.normalizer.noised(vectors, self.level * torch.rand(len(vectors), 1, device=vectors.device))


class QuantizedDecoder(Adapted):
    """A decoder of quantized vectors: it reads sums of centroids, at times of the first codebooks alone (LCM paper, sec. 2.3.5).

    Args:
        vocab, context, space, dropout, sizes: as in `RobustDecoder`; the space needs no normalizer.
        quantizer: file or folder of the codebooks (`zoo prepare codebooks` makes it). It stays there: the net keeps no copy, and
            one that is opened to write reads none.
        share: of the sentences that are cut down to fewer codebooks, their number drawn from [fewest · K, K].
        fewest: share of the codebooks that are kept at least.
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        space: str,
        quantizer: str,
        *,
        share: float = 0.3,
        fewest: float = 2 / 3,
        dropout: float = 0.1,
        sizes: dict | None = None,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if not 0 <= share <= 1 or not 0 < fewest <= 1:
            raise ValueError(f"share ({share}) lies in [0, 1] and fewest ({fewest}) in (0, 1].")
        self.share, self.fewest, self._codebooks = share, fewest, None
        self._take(vocab, context, space, ("encoder", "decoder"), dropout, sizes, config)
        if sizes is None:
            self._codebooks = (open_quantizer(quantizer, self.encoder.dim),)  # in a tuple, so that it is no part of the net

    def moved(self, vectors: Tensor) -> Tensor:
        if self._codebooks is None:
            self._codebooks = (open_quantizer(self.config["quantizer"], vectors.shape[1]),)
        quantizer = self._codebooks[0].to(vectors.device)
        kept = torch.full((len(vectors),), quantizer.books, device=vectors.device)  # (B,)
        fewest = math.ceil(self.fewest * quantizer.books - 1e-9)  # 2/3 of 6 is 4
        drawn = torch.randint(fewest, quantizer.books + 1, kept.shape, device=vectors.device)
        kept = kept.where(torch.rand(kept.shape, device=vectors.device) >= self.share, drawn)
        return quantizer.decode(quantizer.encode(vectors.float()), kept).to(vectors.dtype)


def open_quantizer(place: str | Path, width: int) -> ResidualQuantizer:
    """The codebooks of a file, or of the folder that `zoo prepare codebooks` wrote, for vectors of `width` numbers.

    Raises FileNotFoundError or ValueError, in a sentence.
    """
    path = Path(place) / CODEBOOKS if Path(place).is_dir() else Path(place)
    with torch.device("cpu"):
        found = opened(ResidualQuantizer, path)
    if found.width != width:
        raise ValueError(f"the codebooks in {path} are for vectors of {found.width} numbers, not {width}: fit them again.")
    return found
