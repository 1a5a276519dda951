"""Multi-token prediction: n one-layer heads over one trunk, each predicting a token further ahead (arXiv 2404.19737)."""

import torch
from torch import Tensor, nn

from zoo.nn.cache import Cache
from zoo.nn.heads import FutureHeads
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Transformer


class MTP(nn.Module):
    """P(x_{t+i} | x_{<=t}) = softmax(f_u(f_{h_i}(f_s(x)))), i = 1..n (sec. 2): trunk f_s, heads f_{h_i}, shared unembedding f_u.

    Parameter-matched (sec. 3): of `layers` blocks, layers - n are trunk and n are heads; n = 1 is `NextToken`.
    vocab: number of token ids; context: tokens per training window; n: heads; dim, layers, heads: width, depth, attention heads
    (defaults: the 0.3B row of Table S14).
    reduction: the loss is the "sum" (eq. 2) or the "mean" over the heads' mean nll.
    within_documents: in training, do not count targets that lie in another document than the position that predicts them. In
    evaluation every target is scored, so that all nets are scored on the same ones.
    backward: "head-by-head", "joint" or "naive", see `FutureHeads`. The other arguments are those of `NextToken`.
    Raises ValueError where the sizes cannot work.
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        n: int = 4,
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
        reduction: str = "sum",
        within_documents: bool = False,
        backward: str = "head-by-head",
        checkpoint: bool = False,
        compile: bool = False,
        chunk: int | None = None,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if not 1 <= n <= layers or n == layers > 1:
            raise ValueError(f"n = {n} heads of {layers} layers leave no trunk: choose n between 1 and {max(layers - 1, 1)}.")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is 'sum' or 'mean', not {reduction!r}.")
        self.config, self.vocab, self.context, self.n, self.ahead, self.chunk = config, vocab, context, n, n, chunk
        self.reduction, self.within_documents = reduction, within_documents
        self.trunk = Transformer(
            vocab,
            dim,
            layers - n,
            heads,
            positions=positions or context,
            flavour=flavour,
            hidden=hidden,
            tied=tied,
            theta=theta,
            eps=eps,
            dropout=dropout,
            checkpoint=checkpoint,
            depth=layers,
        )
        self.trunk.fits(context)
        self.heads = FutureHeads((self.trunk.block() for _ in range(n)), backward=backward, chunk=chunk)
        if compile:
            for block in self.modules():
                if isinstance(block, Block):
                    block.compile()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: tokens (B, T + n) int64, mask (B, T + n) bool of counted targets, doc (B, T + n) int64 where within_documents.

        Returns loss (sum or mean over heads of the mean nll per counted token, with graph) and parts, without graph:
        {"next": (sum, count), "head2": ..., ...} in nats; "next" is head 1.
        """
        hidden = self._trunk(batch["tokens"])
        length = hidden.shape[1]
        targets = self._shifted(batch["tokens"], length)  # (n, B, T)
        counted = self._shifted(batch["mask"], length)
        if self.within_documents and self.training:
            counted = counted & (self._shifted(batch["doc"], length) == batch["doc"][:, :length])
        counts = counted.sum((1, 2))
        weights = counted.to(torch.promote_types(hidden.dtype, torch.float32)) / counts.clamp(min=1)[:, None, None]
        if self.reduction == "mean":
            weights = weights / self.n
        loss, nll = self.heads(hidden, self._head, self.trunk.norm, self.trunk.unembedding, targets, weights)
        sums = (nll * counted).sum((1, 2)).float()
        names = ["next", *(f"head{i}" for i in range(2, self.n + 1))]
        return {"loss": loss, "parts": {name: (s, c.float()) for name, s, c in zip(names, sums, counts)}}

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of the next tokens under head 1; batch: tokens (B, T + n)."""
        tokens = batch["tokens"]
        h = self.trunk.norm(self._head(0, self._trunk(tokens)))
        return linear_cross_entropy(h, self.trunk.unembedding, tokens[:, 1 : h.shape[1] + 1], chunk=self.chunk)[1].float()

    def _trunk(self, tokens: Tensor) -> Tensor:
        return self.trunk.blocks(self.trunk.embed(tokens[:, : tokens.shape[1] - self.n]))  # (B, T, D)

    def _head(
        self, i: int, hidden: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Head i (from 0) on the trunk's output (B, T, D); in a cache the heads' layers follow the trunk's."""
        return self.trunk.through([self.heads.blocks[i]], hidden, len(self.trunk.layers) + i, positions, mask, cache)

    def _shifted(self, x: Tensor, length: int) -> Tensor:
        """x (B, T + n) -> (n, B, T): what lies 1..n places ahead."""
        return torch.stack([x[:, i : i + length] for i in range(1, self.n + 1)])

    @torch.no_grad()
    def states(
        self, tokens: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """What the first `heads` heads make of each of the new tokens (B, t), which the cache then holds: (B, t, heads, D), normed.

        positions (t,) or (B, t), default the next free ones; mask (t, t) or (B, t, t) bool among the new tokens, default causal.
        Every head has its own cache: heads that sat out a step cannot come back later.
        """
        if not 1 <= heads <= self.n:
            raise ValueError(f"This net has {self.n} heads, {heads} were asked for.")
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        h = self.trunk.blocks(self.trunk.embed(tokens, positions), positions=positions, mask=mask, cache=cache)
        outputs = [self._head(i, h, positions, mask, cache) for i in range(heads)]
        cache.advance(tokens.shape[1])
        return self.trunk.norm(torch.stack(outputs, dim=2))

    @torch.no_grad()
    def logits(self, states: Tensor, head: int = 0) -> Tensor:
        """Head `head`'s (from 0) logits (..., V) of its `states` (..., D)."""
        return self.trunk.unembed(states)

    @torch.no_grad()
    def next(
        self, tokens: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """Logits of what follows each of the new tokens (B, t), which the cache then holds; arguments as of `states`.

        Head 1's alone (B, t, V), or with heads > 1 those of the first `heads` (B, t, heads, V).
        """
        states = self.states(tokens, cache, positions, mask, heads)
        outputs = [self.logits(states[:, :, i], i) for i in range(heads)]
        return outputs[0] if heads == 1 else torch.stack(outputs, dim=2)

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
        return self.trunk.cache(batch_size, capacity, dtype, device, extra=self.n)
