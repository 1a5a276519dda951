"""The baseline: a transformer that predicts the next token."""

import torch
from torch import Tensor, nn

from zoo.nn.cache import Cache
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Transformer


class NextToken(nn.Module):
    """A decoder-only language model with the next-token loss (MTP, eq. 1).

    vocab: number of token ids; context: tokens per training window; dim, layers, heads: width, depth, attention heads
    (defaults: the 0.3B row of MTP's Table S14); positions: longest sequence, default context. The other arguments are
    `Transformer`'s, except compile (torch.compile each block) and chunk (rows whose logits exist at a time).
    Raises ValueError where the sizes cannot work.
    """

    ahead = 1  # tokens of a window that lie behind the last input

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 1024,
        layers: int = 18,
        heads: int = 16,
        *,
        flavour: str = "llama",
        hidden: int | None = None,
        tied: bool | None = None,
        positions: int | None = None,
        theta: float = 10000.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
        checkpoint: bool = False,
        compile: bool = False,
        chunk: int | None = None,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config, self.vocab, self.context, self.chunk = config, vocab, context, chunk
        if layers < 1:
            raise ValueError(f"layers must be at least 1, not {layers}.")
        self.trunk = Transformer(
            vocab,
            dim,
            layers,
            heads,
            positions=positions or context,
            flavour=flavour,
            hidden=hidden,
            tied=tied,
            theta=theta,
            eps=eps,
            dropout=dropout,
            checkpoint=checkpoint,
        )
        self.trunk.fits(context)
        if compile:
            for block in self.modules():
                if isinstance(block, Block):
                    block.compile()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: tokens (B, T + 1) int64, mask (B, T + 1) bool of counted targets. Returns loss (mean nll per counted token, with
        graph) and parts {"next": (sum, count)} in nats, without."""
        h = self._hidden(batch["tokens"])
        counted = batch["mask"][:, 1:]
        count = counted.sum()
        weights = counted.to(torch.promote_types(h.dtype, torch.float32)) / count.clamp(min=1)
        loss, nll = linear_cross_entropy(h, self.trunk.unembedding, batch["tokens"][:, 1:], weights, chunk=self.chunk)
        return {"loss": loss, "parts": {"next": ((nll * counted).sum().float(), count.float())}}

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of tokens[:, 1:] given all before; batch: tokens (B, T + 1)."""
        h = self._hidden(batch["tokens"])
        return linear_cross_entropy(h, self.trunk.unembedding, batch["tokens"][:, 1:], chunk=self.chunk)[1].float()

    def _hidden(self, tokens: Tensor) -> Tensor:
        return self.trunk.norm(self.trunk.blocks(self.trunk.embed(tokens[:, :-1])))  # (B, T, D)

    @torch.no_grad()
    def states(
        self, tokens: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """What the net makes of each of the new tokens (B, t), which the cache then holds: (B, t, 1, D), normed.

        positions (t,) or (B, t), default the next free ones; mask (t, t) or (B, t, t) bool among the new tokens, default causal.
        """
        if heads != 1:
            raise ValueError(f"This net has one head, {heads} were asked for: train MTP with n >= {heads}.")
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        h = self.trunk.blocks(self.trunk.embed(tokens, positions), positions=positions, mask=mask, cache=cache)
        cache.advance(tokens.shape[1])
        return self.trunk.norm(h)[:, :, None]

    @torch.no_grad()
    def logits(self, states: Tensor, head: int = 0) -> Tensor:
        """Logits (..., V) of `states` (..., D); there is head 0 only."""
        return self.trunk.unembed(states)

    @torch.no_grad()
    def next(
        self, tokens: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """Logits (B, t, V) of what follows each of the new tokens (B, t), which the cache then holds; see `states`."""
        return self.logits(self.states(tokens, cache, positions, mask, heads)[:, :, 0])

    def cache(
        self,
        batch_size: int,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Cache:
        """An empty cache for `capacity` tokens per row (default: all positions), of the weights' type and device by default."""
        capacity = capacity or self.trunk.positions
        self.trunk.fits(capacity)
        return self.trunk.cache(batch_size, capacity, dtype, device)

    def next_token_weights(self) -> dict[str, Tensor]:
        """The weights of this net, as every net with a next-token model in it hands them out."""
        return self.state_dict()
