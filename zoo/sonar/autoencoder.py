"""A sentence through one vector and back: what SONAR's text encoder and decoder are trained by (LCM paper, sec. 2.1 and 5.1)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.nn.losses import linear_cross_entropy
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import PAD, UNK


class AutoEncoder(nn.Module):
    """Encoder, decoder, and their loss: denoising auto-encoding, translation, and the distance of a pair's two vectors.

    vocab: number of token ids; context: pieces of the longest sentence (the language and the end come on top); dim, heads,
        hidden, dropout: of both halves, whose depths are encoder_layers and decoder_layers; defaults are SONAR's "basic" sizes.
    mask: share of a source's pieces that training replaces by the unknown piece; languages and ends stay.
    noise: training adds normal noise to the vector, of a strength drawn per sentence from [0, noise] times each dimension's
        standard deviation in the batch, so that the decoder stands vectors that no encoder made (LCM paper, sec. 2.5.2).
    alignment: weight of the mean squared distance between the vectors of a pair (SONAR, sec. 3; 0.1 is not stated there for
        certain).
    """

    ahead = 1

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 1024,
        encoder_layers: int = 24,
        decoder_layers: int = 24,
        heads: int = 16,
        hidden: int = 8192,
        *,
        dropout: float = 0.1,
        mask: float = 0.1,
        noise: float = 0.0,
        alignment: float = 0.1,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if not 0 <= mask < 1 or min(noise, alignment) < 0:
            raise ValueError(f"mask ({mask}) lies in [0, 1), noise ({noise}) and alignment ({alignment}) are at least 0.")
        self.config, self.vocab, self.context = config, vocab, context
        self.mask, self.noise, self.alignment = mask, noise, alignment
        positions = context + 2  # the language and the end of a source; the end and the language before a target
        self.encoder = TextEncoder(vocab, dim, encoder_layers, heads, hidden, positions, PAD, "mean", dropout)
        self.decoder = TextDecoder(vocab, dim, decoder_layers, heads, hidden, positions, PAD, dim, dropout)

    @property
    def trunk(self) -> TextDecoder:
        """Where the table of the logits is."""
        return self.decoder

    @property
    def part_weights(self) -> dict[str, float]:
        return {"alignment": self.alignment}

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: source (B, S) and tokens (B, T + 1) int64, mask (B, T + 1) bool of counted targets; source_length (B,) where
        sources are padded; other (B, S') and other_length (B,), the same sentences in another language, where there are any.

        Returns loss (mean nll per counted token plus `alignment` times the distance, with graph) and parts, without graph: next
        (nats, count) and, with pairs, alignment (sum of squared distances per dimension, count of pairs)."""
        vectors = self.encoder(self.masked(batch["source"], batch.get("source_length")), batch.get("source_length"))  # (B, E)
        loss, parts = written(self.decoder, noised(vectors, self.noise if self.training else 0.0), batch)
        if "other" in batch:
            theirs = self.encoder(batch["other"], batch["other_length"])  # (B, E)
            distance = (vectors.float() - theirs.float()).square().mean(1)  # (B,)
            loss = loss + self.alignment * distance.mean()
            parts["alignment"] = (distance.detach().sum(), distance.new_tensor(len(distance)))
        return {"loss": loss, "parts": parts}

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of tokens[:, 1:] given the source's vector; batch as for the loss."""
        vectors = self.encoder(batch["source"], batch.get("source_length"))
        hidden = self.decoder.hidden(vectors, batch["tokens"][:, :-1])
        return linear_cross_entropy(hidden, self.decoder.unembedding, batch["tokens"][:, 1:])[1].float()

    def masked(self, source: Tensor, length: Tensor | None = None) -> Tensor:
        """source (B, S) with some of its pieces unknown, in training."""
        if not (self.training and self.mask):
            return source
        place = torch.arange(source.shape[1], device=source.device)
        end = source.shape[1] if length is None else length[:, None]
        inner = (place > 0) & (place < end - 1)  # the language stands first, the end last
        return source.masked_fill(inner & (torch.rand(source.shape, device=source.device) < self.mask), UNK)


class OnFrozen(nn.Module):
    """A decoder to be trained on the vectors of an encoder that never changes.

    Subclasses set encoder, decoder, vocab, context and config; their `moved` says what training does to vectors (B, E).
    """

    ahead = 1
    encoder: TextEncoder
    decoder: TextDecoder
    moved: Callable[[Tensor], Tensor]

    @property
    def trunk(self) -> TextDecoder:
        """Where the table of the logits is."""
        return self.decoder

    def train(self, mode: bool = True) -> "OnFrozen":
        """The encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch, loss and parts as `AutoEncoder`'s: source in pieces of the encoder, tokens in those of the decoder."""
        with torch.no_grad():
            vectors = self.encoder(batch["source"], batch.get("source_length"))  # (B, E)
            if self.training:
                vectors = self.moved(vectors)
        loss, parts = written(self.decoder, vectors, batch)
        return {"loss": loss, "parts": parts}


def written(decoder: TextDecoder, vectors: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """Mean nll of a batch's counted tokens given its sentences' vectors (B, E), with graph; and the part "next" (nats, count)."""
    tokens, counted = batch["tokens"], batch["mask"][:, 1:]
    hidden = decoder.hidden(vectors, tokens[:, :-1])  # (B, T, D)
    count = counted.sum()
    weights = counted.to(torch.promote_types(hidden.dtype, torch.float32)) / count.clamp(min=1)
    loss, nll = linear_cross_entropy(hidden, decoder.unembedding, tokens[:, 1:], weights)
    return loss, {"next": ((nll * counted).sum().float(), count.float())}


def noised(vectors: Tensor, noise: float) -> Tensor:
    """vectors (B, E) with normal noise, of a strength drawn per sentence from [0, noise] times each dimension's deviation."""
    if not noise or len(vectors) < 2:
        return vectors
    spread = vectors.detach().float().std(0)  # (E,)
    level = noise * torch.rand(len(vectors), 1, device=vectors.device)
    return vectors + (level * spread * torch.randn(vectors.shape, device=vectors.device)).to(vectors.dtype)
