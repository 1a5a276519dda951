"""CoCoMix: a language model that predicts concepts half-way up and goes on with them mixed into its hidden states."""

import torch
from torch import Tensor, nn

from zoo.nn.concepts import ConceptMixer, Concepts
from zoo.nn.doubled import DoubledCache, doubled_mask, interleaved
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Transformer


class CoCoMix(nn.Module):
    """A transformer with continuous concept mixing (arXiv 2502.08524, sec. 2.2; defaults: the 69M row of App. A).

    vocab: number of token ids; context: tokens per training window; dim, layers, heads: width, depth, attention heads.
    insert: blocks below the concepts ("4th layer" of the 69M net: before the block of index 3; 5 for the larger ones).
    concepts: C, latents of the teacher's sparse autoencoder; keep: K_SAE, predicted logits that are mixed in.
    lam: λ, weight of the concept loss (eq. 4). It needs batch["concepts"]; without them, or with λ = 0, concepts are learned
    through the mixing alone (Fig. 6d, ii).
    mixing: "interleave" puts each concept vector behind its state, "add" adds it (Fig. 6e), "none" predicts concepts and mixes
    nothing: the loss alone (Fig. 6d, i).
    dropout: 0; the released code trains with GPT-2's 0.1 unasked. The other arguments are `Transformer`'s, except compile
    (torch.compile each block) and chunk (rows whose logits exist at a time).
    Raises ValueError where the sizes cannot work.
    """

    ahead = 1  # tokens of a window that lie behind the last input

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 512,
        layers: int = 8,
        heads: int = 8,
        *,
        insert: int = 3,
        concepts: int = 32768,
        keep: int = 32,
        lam: float = 0.1,
        mixing: str = "interleave",
        flavour: str = "gpt2",
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
        if not 0 <= insert < layers:
            raise ValueError(f"insert = {insert} of {layers} layers leaves none above the concepts: choose 0 to {layers - 1}.")
        if mixing not in ("interleave", "add", "none"):
            raise ValueError(f"mixing is 'interleave', 'add' or 'none', not {mixing!r}.")
        if lam < 0:
            raise ValueError(f"lam must be at least 0, not {lam}.")
        self.config, self.vocab, self.context, self.chunk = config, vocab, context, chunk
        self.insert, self.lam, self.mixing = insert, lam, mixing
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
        self.mixer = ConceptMixer(dim, concepts, keep, chunk)
        if compile:
            for block in self.modules():
                if isinstance(block, Block):
                    block.compile()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: tokens (B, T + 1) int64, mask (B, T + 1) bool of counted targets, and, for the concept loss, concepts
        (B, T + 1, K) int64: the teacher's at each input token, below 0 where there is none.

        Returns loss (mean nll per counted token + λ · mean concept nll per position with concepts, with graph) and parts, without
        graph: {"next": (sum, count), "concept": (sum, count)} in nats.
        """
        tokens, counted = batch["tokens"], batch["mask"][:, 1:]
        labels = batch["concepts"][:, :-1] if "concepts" in batch else None
        labelled = None if labels is None else (labels >= 0).any(-1)  # (B, T)
        exact = torch.promote_types(self.trunk.embedding.weight.dtype, torch.float32)
        shares = None if labels is None else labelled.to(exact) / labelled.sum().clamp(min=1)
        h, found = self._hidden(tokens[:, :-1], labels if self.lam or not torch.is_grad_enabled() else None, shares)
        count = counted.sum()
        weights = counted.to(exact) / count.clamp(min=1)
        loss, nll = linear_cross_entropy(h, self.trunk.unembedding, tokens[:, 1:], weights, chunk=self.chunk)
        parts = {"next": ((nll * counted).sum().float(), count.float())}
        if labels is not None:
            parts["concept"] = (found.nll.sum().float(), labelled.sum().float())
        return {"loss": loss + self.lam * found.loss, "parts": parts}

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of tokens[:, 1:] given all before; batch: tokens (B, T + 1). No concept loss is in it."""
        h, _ = self._hidden(batch["tokens"][:, :-1])
        return linear_cross_entropy(h, self.trunk.unembedding, batch["tokens"][:, 1:], chunk=self.chunk)[1].float()

    def _hidden(self, tokens: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Concepts]:
        """What the unembedding sees of tokens (B, T): (B, T, D), and the concepts."""
        h = self.trunk.blocks(self.trunk.embed(tokens), stop=self.insert)
        found = self.mixer(h, labels, weights)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.trunk.norm(self._above(h, found.vectors, positions)), found

    def _above(self, h: Tensor, vectors: Tensor, positions: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        """Send states h and what is mixed into them (B, T, D) through the blocks from `insert` on: (B, T, D).

        Both slots of a token have its position. After the last block the token's slot is dropped: the concept's is read.
        """
        if self.mixing != "interleave":
            mixed = h + vectors if self.mixing == "add" else h
            return self.trunk.blocks(mixed, self.insert, positions=positions, mask=mask, cache=cache)
        positions = positions.repeat_interleave(2, -1)
        mask = None if mask is None else doubled_mask(mask)
        return self.trunk.blocks(interleaved(h, vectors), self.insert, positions=positions, mask=mask, cache=cache)[:, 1::2]

    @torch.no_grad()
    def states(
        self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """What the net makes of each of the new tokens (B, t), which the cache then holds: (B, t, 1, D), normed.

        positions (t,) or (B, t), default the next free ones; mask (t, t) or (B, t, t) bool among the new tokens, default causal.
        """
        if heads != 1:
            raise ValueError(f"This net has one head, {heads} were asked for: train MTP with n >= {heads}.")
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        lower, upper = (cache.lower, cache.upper) if isinstance(cache, DoubledCache) else (cache, cache)
        h = self.trunk.blocks(self.trunk.embed(tokens, positions), stop=self.insert, positions=positions, mask=mask, cache=lower)
        h = self._above(h, self.mixer(h).vectors, positions, mask, upper)
        cache.advance(tokens.shape[1])
        return self.trunk.norm(h)[:, :, None]

    @torch.no_grad()
    def logits(self, states: Tensor, head: int = 0) -> Tensor:
        """Logits (..., V) of `states` (..., D); there is head 0 only."""
        return self.trunk.unembed(states)

    @torch.no_grad()
    def next(self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1) -> Tensor:
        """Logits (B, t, V) of what follows each of the new tokens (B, t), which the cache then holds; see `states`."""
        return self.logits(self.states(tokens, cache, positions, mask, heads)[:, :, 0])

    def cache(
        self,
        batch_size: int,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        """An empty cache for `capacity` tokens per row (default: all positions), of the weights' type and device by default."""
        capacity, trunk = capacity or self.trunk.positions, self.trunk
        trunk.fits(capacity)
        if self.mixing != "interleave":
            return trunk.cache(batch_size, capacity, dtype, device)
        weight = trunk.embedding.weight
        sizes = (trunk.heads, trunk.dim // trunk.heads, dtype or weight.dtype, device or weight.device)
        return DoubledCache(self.insert, len(trunk.layers), batch_size, capacity, *sizes)
