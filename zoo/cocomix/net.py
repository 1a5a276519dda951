"""CoCoMix: a language model that predicts concepts half-way up and goes on with them mixed into its hidden states."""

import torch
from torch import Tensor, nn

from zoo.nn.concepts import ConceptMixer, Mixed, PauseMixer, StateMixer
from zoo.nn.distill import linear_distillation
from zoo.nn.doubled import DoubledCache, doubled_mask, interleaved
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Transformer


class CoCoMix(nn.Module):
    """A transformer with continuous concept mixing (arXiv 2502.08524, sec. 2.2; defaults: the 69M row of App. A), and with what
    the paper compares it.

    inserted: what is mixed in. "concepts"; "pause", a learned vector (Fig. 6f); "states", the teacher's hidden states, predicted
    directly (Fig. 6b) with loss `regression` and of width `teacher_dim`; "nothing", which with kd is plain distillation.
    vocab: number of token ids; context: tokens per training window; dim, layers, heads: width, depth, attention heads.
    insert: blocks below the concepts ("4th layer" of the 69M net: before the block of index 3; 5 for the larger ones).
    concepts: C, latents of the teacher's sparse autoencoder; keep: K_SAE, predicted logits that are mixed in.
    lam: λ, weight of the loss of what is predicted (eq. 4). It needs batch["concepts"] or batch["states"]; without them, or with
    λ = 0, concepts are learned through the mixing alone (Fig. 6d, ii).
    kd: weight of KL(teacher || student) in the loss (0.1 in App. A); it needs batch["teacher"] and batch["unembedding"].
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
        inserted: str = "concepts",
        regression: str = "l2",
        teacher_dim: int = 768,
        kd: float = 0.0,
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
        if min(lam, kd) < 0:
            raise ValueError(f"lam and kd must be at least 0, not {lam} and {kd}.")
        self.config, self.vocab, self.context, self.chunk = config, vocab, context, chunk
        self.part_weights = {"concept": lam, "state": lam, "kd": kd}
        self.insert, self.lam, self.kd = insert, lam, kd
        self.mixing = "none" if inserted == "nothing" else mixing
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
        self.guide = {"concepts": "concepts", "states": "states"}.get(inserted)  # what of the batch the mixer learns from
        mixes = mixing != "none"
        if inserted == "concepts":
            self.mixer = ConceptMixer(dim, concepts, keep, chunk, mixes)
        elif inserted == "states":
            self.mixer = StateMixer(dim, teacher_dim, regression, mixes)
        elif inserted == "pause" and mixes:
            self.mixer = PauseMixer(dim)
        elif inserted in ("nothing", "pause"):
            self.mixer = None
        else:
            raise ValueError(f"inserted is 'concepts', 'pause', 'states' or 'nothing', not {inserted!r}.")
        if compile:
            for block in self.modules():
                if isinstance(block, Block):
                    block.compile()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: tokens (B, T + 1) int64, mask (B, T + 1) bool of counted targets. From a teacher, for its losses:
        concepts (B, T + 1, K) int64, its latents at each token, below 0 where there is none, or states (B, T, E), its hidden
        states; teacher (B, T, F) and unembedding (V, F), its normed output and what turns that into logits.

        Returns loss, with graph: mean nll per counted token + λ · mean term of what is predicted + kd · mean KL; and parts,
        without graph, in nats: {"next": (sum, count), "concept" or "state": …, "kd": …}. What the batch lacks is left out.
        """
        tokens, counted = batch["tokens"], batch["mask"][:, 1:]
        exact = torch.promote_types(self.trunk.embedding.weight.dtype, torch.float32)
        shares = counted.to(exact) / counted.sum().clamp(min=1)
        wanted, known = self._wanted(batch, counted)
        h, mixed = self._hidden(tokens[:, :-1], wanted, None if known is None else known.to(exact) / known.sum().clamp(min=1))
        table, targets, loss = self.trunk.unembedding, tokens[:, 1:], 0.0
        parts = {}
        if self.kd and "teacher" in batch:
            given = (batch["teacher"], batch["unembedding"], self.kd)
            loss, nll, divergence = linear_distillation(h, table, targets, shares, *given, chunk=self.chunk)
            parts["kd"] = divergence
        else:
            loss, nll = linear_cross_entropy(h, table, targets, shares, chunk=self.chunk)
        parts = {name: ((terms * counted).sum().float(), counted.sum().float()) for name, terms in {"next": nll, **parts}.items()}
        if known is not None:
            loss = loss + self.lam * mixed.loss
            parts[self.guide.removesuffix("s")] = ((mixed.terms * known).sum().float(), known.sum().float())
        return {"loss": loss, "parts": parts}

    def _wanted(self, batch: dict[str, Tensor], counted: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the mixer is to predict, and the positions (B, T) bool at which it counts; None and None without it.

        With λ = 0 it is left out in training, and measured in validation. Raises ValueError where training lacks a teacher.
        """
        if torch.is_grad_enabled():
            missing = [self.guide] if self.guide and self.lam and self.guide not in batch else []
            missing += ["teacher"] if self.kd and "teacher" not in batch else []
            if missing:
                raise ValueError(
                    f"The batch has no {missing[0]!r} to learn from: add zoo.cocomix.teacher.Teacher to trainer.callbacks, "
                    f"or set {'kd' if missing[0] == 'teacher' else 'lam'} to 0."
                )
        if self.guide not in batch or (not self.lam and torch.is_grad_enabled()):
            return None, None
        if self.guide == "states":
            return batch["states"], counted
        labels = batch["concepts"][:, :-1]
        return labels, counted & (labels >= 0).any(-1)

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of tokens[:, 1:] given all before; batch: tokens (B, T + 1). No other loss is in it."""
        h, _ = self._hidden(batch["tokens"][:, :-1])
        return linear_cross_entropy(h, self.trunk.unembedding, batch["tokens"][:, 1:], chunk=self.chunk)[1].float()

    def _hidden(self, tokens: Tensor, wanted: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Mixed | None]:
        """What the unembedding sees of tokens (B, T): (B, T, D), and what was mixed in."""
        h = self.trunk.blocks(self.trunk.embed(tokens), stop=self.insert)
        mixed = None if self.mixer is None or (self.mixing == "none" and wanted is None) else self.mixer(h, wanted, weights)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.trunk.norm(self._above(h, mixed, positions)), mixed

    def _above(self, h: Tensor, mixed: Mixed | None, positions: Tensor, mask: Tensor | None = None, cache=None) -> Tensor:
        """Send states h and what is mixed into them (B, T, D) through the blocks from `insert` on: (B, T, D).

        Both slots of a token have its position. After the last block the token's slot is dropped: the concept's is read.
        """
        if self.mixing != "interleave":
            h = h + mixed.vectors if self.mixing == "add" else h
            return self.trunk.blocks(h, self.insert, positions=positions, mask=mask, cache=cache)
        positions = positions.repeat_interleave(2, -1)
        mask = None if mask is None else doubled_mask(mask)
        both = interleaved(h, mixed.vectors)
        return self.trunk.blocks(both, self.insert, positions=positions, mask=mask, cache=cache, read=slice(1, None, 2))

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
        h = self._above(h, None if self.mixing == "none" else self.mixer(h), positions, mask, upper)
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
