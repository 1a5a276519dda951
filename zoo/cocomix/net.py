"""CoCoMix: a language model that predicts concepts half-way up and goes on with them mixed into its hidden states."""

from functools import partial

import torch
from torch import Tensor, nn

from zoo.nn.concepts import ConceptMixer, Mixed, PauseMixer, StateMixer
from zoo.nn.distill import linear_distillation
from zoo.nn.doubled import DoubledCache, doubled_mask, interleaved
from zoo.nn.heads import FutureHeads
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Transformer


class CoCoMix(nn.Module):
    """A transformer with continuous concept mixing (arXiv 2502.08524, sec. 2.2; defaults: the 69M row of App. A), and with what
    the paper compares it.

    inserted: what is mixed in. "concepts"; "pause", a learned vector (Fig. 6f); "copy", the state itself with such a vector added
    (ours); "states", the teacher's hidden states, predicted directly (Fig. 6b) with loss `regression` and of width `teacher_dim`;
    "nothing", which with kd is plain distillation.
    vocab: number of token ids; context: tokens per training window; dim, layers, heads: width, depth, attention heads.
    insert: blocks below the concepts ("4th layer" of the 69M net: before the block of index 3; 5 for the larger ones).
    concepts: C, latents of the teacher's sparse autoencoder; keep: K_SAE, predicted logits that are mixed in.
    lam: λ, weight of the loss of what is predicted (eq. 4). It needs batch["concepts"] or batch["states"]; without them, or with
    λ = 0, concepts are learned through the mixing alone (Fig. 6d, ii).
    kd: weight of KL(teacher || student) in the loss (0.1 in App. A); it needs batch["teacher"] and batch["unembedding"].
    mixing: "interleave" puts each concept vector behind its state, "add" adds it (Fig. 6e), "none" predicts concepts and mixes
    nothing: the loss alone (Fig. 6d, i).
    n: future heads on top, as in multi-token prediction (arXiv 2404.19737, sec. 2): of `layers` blocks, layers - n are shared and
    n are heads in parallel, head i predicting the token i places ahead from what is read out of the last shared block. Their
    losses are added up; teachers speak of the next token, so that kd is head 1's. n = 1 is the paper's net, all blocks shared.
    A head has one slot a token: where concepts are interleaved it costs half of the block whose place it takes.
    dropout: 0; the released code trains with GPT-2's 0.1 unasked. The other arguments are `Transformer`'s, except compile
    (torch.compile each block) and chunk (rows whose logits exist at a time).
    Raises ValueError where the sizes cannot work.
    """

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
        n: int = 1,
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
        shared = _shared_layers(n, layers, insert)
        if mixing not in ("interleave", "add", "none"):
            raise ValueError(f"mixing is 'interleave', 'add' or 'none', not {mixing!r}.")
        if min(lam, kd) < 0:
            raise ValueError(f"lam and kd must be at least 0, not {lam} and {kd}.")
        self.config, self.vocab, self.context, self.n, self.ahead, self.chunk = config, vocab, context, n, n, chunk
        self.part_weights = {"concept": lam, "state": lam, "kd": kd}
        self.insert, self.lam, self.kd = insert, lam, kd
        self.mixing = "none" if inserted == "nothing" else mixing
        self.trunk = Transformer(
            vocab, dim, shared, heads, positions=positions or context, flavour=flavour, hidden=hidden, tied=tied, theta=theta,
            eps=eps, dropout=dropout, checkpoint=checkpoint, depth=layers,
        )  # fmt: skip
        self.trunk.fits(context)
        self.heads = FutureHeads((self.trunk.block() for _ in range(n)), chunk=chunk) if n > 1 else None
        self.guide = {"concepts": "concepts", "states": "states"}.get(inserted)  # what of the batch the mixer learns from
        mixes = mixing != "none"
        if inserted == "concepts":
            self.mixer = ConceptMixer(dim, concepts, keep, chunk, mixes)
        elif inserted == "states":
            self.mixer = StateMixer(dim, teacher_dim, regression, mixes)
        elif inserted in ("pause", "copy") and mixes:
            self.mixer = PauseMixer(dim, copies=inserted == "copy")
        elif inserted in ("nothing", "pause", "copy"):
            self.mixer = None
        else:
            raise ValueError(f"inserted is 'concepts', 'pause', 'copy', 'states' or 'nothing', not {inserted!r}.")
        if compile:
            for block in self.modules():
                if isinstance(block, Block):
                    block.compile()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: tokens (B, T + n) int64, mask (B, T + n) bool of counted targets. From a teacher, for its losses:
        concepts (B, T + n, K) int64, its latents at each token, below 0 where there is none, or states (B, T, E), its hidden
        states; teacher (B, T, F) and unembedding (V, F), its normed output and what turns that into logits.

        Returns loss, with graph: sum over heads of the mean nll per counted token + λ · mean term of what is predicted + kd ·
        mean KL; and parts, without graph, in nats: {"next": (sum, count), "head2": …, "kd": …, "concept" or "state": …}; "next"
        is head 1. What the batch lacks is left out. A counted token without labels adds 0 to the λ term, and the mean is taken
        over it too: as many tokens a process and a micro-step give the same loss, however their labels are spread.
        """
        exact = torch.promote_types(self.trunk.embedding.weight.dtype, torch.float32)
        targets, counted = self._shifted(batch["tokens"]), self._shifted(batch["mask"])
        wanted, known = self._wanted(batch, counted[0])
        counts = counted.sum((1, 2))
        shares = None if known is None else known.to(exact) / counts[0].clamp(min=1)
        h, mixed = self._hidden(batch["tokens"][:, : -self.n], wanted, shares)
        loss, nll, divergence = self._losses(h, targets, counted.to(exact) / counts.clamp(min=1)[:, None, None], batch)
        sums = (nll * counted).sum((1, 2)).float()
        names = ["next", *(f"head{i}" for i in range(2, self.n + 1))]
        parts = {name: (total, count.float()) for name, total, count in zip(names, sums, counts)}
        if divergence is not None:
            parts["kd"] = (divergence * counted[0]).sum().float(), counts[0].float()
        if known is not None:
            loss = loss + self.lam * mixed.loss
            parts[self.guide.removesuffix("s")] = (mixed.terms * known).sum().float(), counts[0].float()
        return {"loss": loss, "parts": parts}

    def _losses(self, h: Tensor, targets: Tensor, weights: Tensor, batch: dict) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum over heads of the weighted nll, and of kd · KL, with graph; nll (n, B, T) and, if it was asked for, the KL (B, T).

        h (B, T, D): what was read out; targets, weights (n, B, T).
        """
        table, divergence = self.trunk.unembedding, None
        teaches = bool(self.kd) and "teacher" in batch
        if self.heads is not None and not teaches:
            return *self.heads(h, self._head, self.trunk.norm, table, targets, weights), None
        first, *later = self._outputs(h, self.n)
        if teaches:
            given = batch["teacher"], batch["unembedding"], self.kd
            loss, nll, divergence = linear_distillation(first, table, targets[0], weights[0], *given, chunk=self.chunk)
        else:
            loss, nll = linear_cross_entropy(first, table, targets[0], weights[0], chunk=self.chunk)
        nll = nll[None]
        if later:  # beside distillation all heads are one graph: their logits exist a few rows at a time, their states together
            more, terms = linear_cross_entropy(torch.stack(later), table, targets[1:], weights[1:], chunk=self.chunk)
            loss, nll = loss + more, torch.cat((nll, terms))
        return loss, nll, divergence

    def _shifted(self, x: Tensor) -> Tensor:
        """x (B, T + n) -> (n, B, T): what lies 1..n places ahead."""
        length = x.shape[1] - self.n
        return torch.stack([x[:, i : i + length] for i in range(1, self.n + 1)])

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
        labels = batch["concepts"][:, : -self.n]
        return labels, counted & (labels >= 0).any(-1)

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of the next tokens under head 1; batch: tokens (B, T + n). No other loss is in it."""
        targets = self._shifted(batch["tokens"])[0]
        h = self._outputs(self._hidden(batch["tokens"][:, : -self.n])[0], 1)[0]
        return linear_cross_entropy(h, self.trunk.unembedding, targets, chunk=self.chunk)[1].float()

    def _hidden(self, tokens: Tensor, wanted: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Mixed | None]:
        """What the last shared block makes of tokens (B, T): (B, T, D), and what was mixed in."""
        h = self.trunk.blocks(self.trunk.embed(tokens), stop=self.insert)
        mixed = None if self.mixer is None or (self.mixing == "none" and wanted is None) else self.mixer(h, wanted, weights)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self._above(h, mixed, positions), mixed

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

    def _head(self, i: int, h: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, cache=None) -> Tensor:
        """Head i (from 0) on what was read out (B, T, D), one slot a token: in a `DoubledCache` it is among the lower layers."""
        lower = cache.lower if isinstance(cache, DoubledCache) else cache
        below = len(self.trunk.layers) if lower is cache else self.insert
        return self.trunk.through([self.heads.blocks[i]], h, below + i, positions, mask, lower)

    def _outputs(self, h: Tensor, count: int, positions: Tensor | None = None, mask: Tensor | None = None, cache=None):
        """What the unembedding sees of the first `count` heads: a list of (B, T, D), from what was read out (B, T, D)."""
        if self.heads is None:
            return [self.trunk.norm(h)]
        run = partial(self._head, positions=positions, mask=mask, cache=cache)
        return [self.trunk.norm(output) for _, output in self.heads.outputs(h, run, count)]

    @torch.no_grad()
    def states(
        self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """What the first `heads` heads make of each of the new tokens (B, t), which the cache then holds: (B, t, heads, D),
        normed.

        positions (t,) or (B, t), default the next free ones; mask (t, t) or (B, t, t) bool among the new tokens, default causal.
        Every head has its own cache: heads that sat out a step cannot come back later.
        """
        if not 1 <= heads <= self.n:
            raise ValueError(f"This net has n = {self.n} heads, {heads} were asked for.")
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        lower, upper = (cache.lower, cache.upper) if isinstance(cache, DoubledCache) else (cache, cache)
        h = self.trunk.blocks(self.trunk.embed(tokens, positions), stop=self.insert, positions=positions, mask=mask, cache=lower)
        h = self._above(h, None if self.mixing == "none" else self.mixer(h), positions, mask, upper)
        outputs = self._outputs(h, heads, positions, mask, cache)
        cache.advance(tokens.shape[1])
        return torch.stack(outputs, dim=2)

    @torch.no_grad()
    def logits(self, states: Tensor, head: int = 0) -> Tensor:
        """Logits (..., V) of `states` (..., D) of any head: they share the unembedding."""
        return self.trunk.unembed(states)

    @torch.no_grad()
    def next(self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1) -> Tensor:
        """Logits of what follows each of the new tokens (B, t), which the cache then holds; arguments as of `states`.

        Head 1's alone (B, t, V), or with heads > 1 those of the first `heads` (B, t, heads, V).
        """
        logits = self.logits(self.states(tokens, cache, positions, mask, heads))
        return logits[:, :, 0] if heads == 1 else logits

    def cache(
        self,
        batch_size: int,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        """An empty cache for `capacity` tokens per row (default: all positions), of the weights' type and device by default."""
        capacity, trunk, extra = capacity or self.trunk.positions, self.trunk, 0 if self.heads is None else self.n
        trunk.fits(capacity)
        if self.mixing != "interleave":
            return trunk.cache(batch_size, capacity, dtype, device, extra)
        weight = trunk.embedding.weight
        sizes = (trunk.heads, trunk.dim // trunk.heads, dtype or weight.dtype, device or weight.device)
        return DoubledCache(self.insert, len(trunk.layers), batch_size, capacity, *sizes, extra)

    def guides(self, windows: int) -> dict[str, Tensor]:
        """What training wants of a teacher beside so many windows, on the meta device: for counts of what a step takes."""
        with torch.device("meta"):
            given = {}
            if self.guide and self.lam:
                labels = torch.empty(windows, self.context + self.n, 4, dtype=torch.int64)
                states = torch.empty(windows, self.context, self.config["teacher_dim"])
                given[self.guide] = labels if self.guide == "concepts" else states
            if self.kd:
                given["teacher"] = torch.empty(windows, self.context, self.config["teacher_dim"])
                given["unembedding"] = torch.empty(self.vocab, self.config["teacher_dim"])
        return given

    @torch.no_grad()
    def next_token_weights(self) -> dict[str, Tensor]:
        """The weights of the `NextToken` that predicts what head 1 does. Raises ValueError where something is mixed in: no such
        net, and none of transformers', does that."""
        if self.mixing != "none":
            raise ValueError(
                "A net with concepts, pauses or states mixed in is no GPT-2 or Llama and cannot be written for transformers: "
                "keep it with zoo.pretrained.save_pretrained."
            )
        weights = {name: w for name, w in self.state_dict().items() if name.startswith("trunk.")}
        if self.heads is not None:
            first = f"trunk.layers.{len(self.trunk.layers)}."
            weights |= {first + name: w for name, w in self.heads.blocks[0].state_dict().items()}
        return weights


def _shared_layers(n: int, layers: int, insert: int) -> int:
    """Blocks below the heads, all of them for n = 1. Raises ValueError for sizes that cannot work."""
    if n < 1:
        raise ValueError(f"n = {n} heads cannot be: choose n = 1 for the next token alone, or more.")
    shared = layers - n if n > 1 else layers
    if shared < 1:
        raise ValueError(f"n = {n} heads of {layers} layers leave no trunk: choose n between 1 and {max(layers - 1, 1)}.")
    if not 0 <= insert < shared:
        below = f"{layers} layers" if n == 1 else f"{shared} layers below n = {n} heads"
        raise ValueError(f"insert = {insert} of {below} leaves none above the concepts: choose 0 to {shared - 1}.")
    return shared
