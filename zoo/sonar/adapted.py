"""A decoder that stands noise: a space's own, trained on with vectors that were moved (LCM paper, sec. 2.5.2 and table 7)."""

import torch
from torch import Tensor

from zoo.nn.normalizer import Normalizer
from zoo.sonar.autoencoder import OnFrozen
from zoo.sonar.folder import open_folder
from zoo.sonar.net import TextDecoder, TextEncoder


class RobustDecoder(OnFrozen):
    """The decoder of a space, to be trained on while its encoder and normalizer stay: it reads noised vectors (eq. 27).

    Args:
        vocab, context: of the space's tokenizer; the longest sentence in pieces.
        space: folder of the space, with a normalizer (`zoo prepare space` makes one).
        level: the largest share of noise; that of a sentence is drawn from [0, level].
        dropout: of the decoder.
        sizes: of the parts, where the weights come from elsewhere (a saved net); then `space` is not read.
    """

    def __init__(
        self, vocab: int, context: int, space: str, *, level: float = 1.0, dropout: float = 0.1, sizes: dict | None = None
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if not 0 < level <= 1:
            raise ValueError(f"level ({level}) is a share of noise, above 0 and up to 1.")
        found = None
        if sizes is None:
            with torch.device("cpu"):  # also where the rest is only counted
                found = open_folder(space)
            parts = {"encoder": found.encoder, "decoder": found.decoder, "normalizer": found.normalizer}
            if lost := [name for name, part in parts.items() if part is None]:
                raise ValueError(f"{space} has no {lost[0]}: give the folder of a whole space, as `zoo prepare space` makes it.")
            sizes = {name: part.config for name, part in parts.items()}
            sizes["decoder"] = sizes["decoder"] | {"dropout": dropout}
        self.vocab, self.context, self.level, self.config = vocab, context, level, config | {"sizes": sizes}
        self.encoder = TextEncoder(**sizes["encoder"]).requires_grad_(False)
        self.decoder = TextDecoder(**sizes["decoder"])
        self.normalizer = Normalizer(**sizes["normalizer"])
        if self.decoder.vocab != vocab:
            raise ValueError(
                f"{space} has {self.decoder.vocab} token ids and the data {vocab}: give data.tokenizer the same folder."
            )
        if found is not None and not self.decoder.unembedding.is_meta:
            for name, part in parts.items():
                getattr(self, name).load_state_dict(part.state_dict())

    def moved(self, vectors: Tensor) -> Tensor:
        return self.normalizer.noised(vectors, self.level * torch.rand(len(vectors), 1, device=vectors.device))
