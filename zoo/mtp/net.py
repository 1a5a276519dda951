"""Multi-token prediction: n heads over one trunk, each predicting a token further ahead (arXiv 2404.19737)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.cache import Cache
from zoo.nn.heads import FutureHeads
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.transformer import Block, Embedding, Linear, Transformer


class MTP(nn.Module):
    """P(x_{t+i} | x_{<=t}) = softmax(f_u(f_{h_i}(f_s(x)))), i = 1..n (sec. 2): trunk f_s, heads f_{h_i}, unembedding f_u.

    vocab: number of token ids; context: tokens per training window; n: heads; dim, layers, heads: width, depth, attention heads
    (defaults: the 0.3B row of Table S14).

    head, arrangement, unembeddings, extra: the form of the heads (App. B, Table S4).
    - head="transformer": every head is one block, before the last norm. Parameter-matched (sec. 3): of `layers` blocks,
      layers - n are trunk and n are heads. arrangement: "parallel", all heads on the trunk; "causal", head i on head i - 1;
      "anticausal", head i on head i + 1, so that the next token is deepest. extra: head layers that no trunk layer is given up
      for, the table's "+L": layers - n + extra blocks are trunk. n = 1 is `NextToken`.
    - head="linear": head i is one D x D matrix, no bias, between the last norm and the unembedding: there, head 1 can be
      multiplied into the unembedding of a plain transformer without loss. The trunk keeps all `layers`, for n matrices are n / 12
      of a block. They start as N(0, 1/D), which keeps the scale of a vector.
    - unembeddings="replicated": no head layers; head i is its own unembedding (V, D) of the normed output of a trunk of all
      `layers`, as in the byte models, so n may exceed `layers`. Head 1's is the trunk's: n = 1 is `NextToken`.

    reduction: the loss is the "sum" (eq. 2) or the "mean" over the heads' mean nll.
    within_documents: in training, do not count targets that lie in another document than the position that predicts them. In
    evaluation every target is scored, so that all nets are scored on the same ones.
    backward: "head-by-head", "joint" or "naive", see `FutureHeads`. The other arguments are those of `NextToken`.
    Raises ValueError where the sizes cannot work, or the form does not exist.
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
        head: str = "transformer",
        arrangement: str = "parallel",
        unembeddings: str = "shared",
        extra: int = 0,
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
        self.form = _form(head, arrangement, unembeddings)
        trunk_layers = _trunk_layers(self.form, n, layers, extra)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is 'sum' or 'mean', not {reduction!r}.")
        self.config, self.vocab, self.context, self.n, self.ahead, self.chunk = config, vocab, context, n, n, chunk
        self.reduction, self.within_documents = reduction, within_documents
        self.trunk = Transformer(
            vocab,
            dim,
            trunk_layers,
            heads,
            positions=positions or context,
            flavour=flavour,
            hidden=hidden,
            tied=tied,
            theta=theta,
            eps=eps,
            dropout=dropout,
            checkpoint=checkpoint,
            depth=layers + extra,
        )
        self.trunk.fits(context)
        blocks, own = (), ()
        if self.form == "transformer":
            blocks = (self.trunk.block() for _ in range(n))
        elif self.form == "linear":
            blocks = (Linear(dim, dim, False, dim**-0.5) for _ in range(n))
        else:  # tables of rows, not maps between hidden spaces: an optimizer must not take them for hidden matrices
            own = (Embedding(vocab, dim) for _ in range(n - 1))
        self.heads = FutureHeads(
            blocks, unembeddings=own, arrangement=arrangement, backward=backward, recompute=checkpoint, chunk=chunk
        )
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
        norm = self.trunk.norm
        if self.form != "transformer":
            hidden, norm = norm(hidden), nn.Identity()  # once for all heads
        loss, nll = self.heads(hidden, self._head, norm, self.trunk.unembedding, targets, weights)
        sums = (nll * counted).sum((1, 2)).float()
        names = ["next", *(f"head{i}" for i in range(2, self.n + 1))]
        return {"loss": loss, "parts": {name: (s, c.float()) for name, s, c in zip(names, sums, counts)}}

    @torch.no_grad()
    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """nll (B, T) in nats, fp32, of the next tokens under head 1; batch: tokens (B, T + n)."""
        tokens = batch["tokens"]
        h = self._outputs(self._trunk(tokens), 1)[0]
        return linear_cross_entropy(h, self.trunk.unembedding, tokens[:, 1 : h.shape[1] + 1], chunk=self.chunk)[1].float()

    def _trunk(self, tokens: Tensor) -> Tensor:
        return self.trunk.blocks(self.trunk.embed(tokens[:, : tokens.shape[1] - self.n]))  # (B, T, D)

    def _head(
        self, i: int, hidden: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Head i (from 0) on what it is mounted on (B, T, D): for transformer heads the trunk's output or another head's, for
        the others the normed output. In a cache the heads' layers follow the trunk's."""
        if self.form == "transformer":
            return self.trunk.through([self.heads.blocks[i]], hidden, len(self.trunk.layers) + i, positions, mask, cache)
        return self.heads.blocks[i](hidden) if self.form == "linear" else hidden

    def _outputs(
        self,
        hidden: Tensor,
        count: int,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> list[Tensor]:
        """What the unembedding sees of the first `count` heads, (B, T, D) each, from the trunk's output (B, T, D)."""
        before, after = (nn.Identity(), self.trunk.norm) if self.form == "transformer" else (self.trunk.norm, nn.Identity())
        run = partial(self._head, positions=positions, mask=mask, cache=cache)
        outputs = dict(self.heads.outputs(before(hidden), run, count))
        return [after(outputs[i]) for i in range(count)]

    def _shifted(self, x: Tensor, length: int) -> Tensor:
        """x (B, T + n) -> (n, B, T): what lies 1..n places ahead."""
        return torch.stack([x[:, i : i + length] for i in range(1, self.n + 1)])

    @torch.no_grad()
    def states(
        self, tokens: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1
    ) -> Tensor:
        """What the first `heads` heads make of each of the new tokens (B, t), which the cache then holds: (B, t, heads, D),
        normed.

        positions (t,) or (B, t), default the next free ones; mask (t, t) or (B, t, t) bool among the new tokens, default causal.
        Every transformer head has its own cache: heads that sat out a step cannot come back later. Of anticausal heads all run
        at every step, whatever `heads` is.
        """
        if not 1 <= heads <= self.n:
            raise ValueError(f"This net has {self.n} heads, {heads} were asked for.")
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        h = self.trunk.blocks(self.trunk.embed(tokens, positions), positions=positions, mask=mask, cache=cache)
        outputs = self._outputs(h, heads, positions, mask, cache)
        cache.advance(tokens.shape[1])
        return torch.stack(outputs, dim=2)

    @torch.no_grad()
    def logits(self, states: Tensor, head: int = 0) -> Tensor:
        """Head `head`'s (from 0) logits (..., V) of its `states` (..., D)."""
        if head and self.form == "replicated":
            return F.linear(states, self.heads.unembeddings[head - 1].weight)
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
        return self.trunk.cache(batch_size, capacity, dtype, device, extra=self.n if self.form == "transformer" else 0)

    @torch.no_grad()
    def next_token_weights(self) -> dict[str, Tensor]:
        """The weights of the `NextToken` that predicts what head 1 does; heads 2..n are left out unless head 1 lies on them.

        A linear head 1 is multiplied into the unembedding, in fp32 (fp64 for fp64 weights), which makes a tied net untied.
        """
        weights = {name: w for name, w in self.state_dict().items() if not name.startswith("heads.")}
        if self.form == "linear":
            table, matrix = self.trunk.unembedding, self.heads.blocks[0].weight
            exact = torch.promote_types(table.dtype, torch.float32)
            weights["trunk.output.weight"] = (table.to(exact) @ matrix.to(exact)).to(table.dtype)
        elif self.form == "transformer":
            path = reversed(self.heads.blocks) if self.heads.arrangement == "anticausal" else self.heads.blocks[:1]
            for layer, block in enumerate(path, len(self.trunk.layers)):
                weights |= {f"trunk.layers.{layer}.{name}": w for name, w in block.state_dict().items()}
        return weights


def _form(head: str, arrangement: str, unembeddings: str) -> str:
    """The heads' form: "transformer", "linear" or "replicated". Raises ValueError for a form that does not exist."""
    if head not in ("transformer", "linear"):
        raise ValueError(f"head is 'transformer' or 'linear', not {head!r}.")
    if unembeddings not in ("shared", "replicated"):
        raise ValueError(f"unembeddings is 'shared' or 'replicated', not {unembeddings!r}.")
    replicated = unembeddings == "replicated"
    if replicated and head == "linear":
        raise ValueError("A head with an unembedding of its own is a linear map already: leave head='linear' out.")
    if arrangement != "parallel" and (replicated or head == "linear"):
        given = "unembeddings='replicated'" if replicated else "head='linear'"
        raise ValueError(f"Only transformer heads can be stacked: leave out {given} or arrangement={arrangement!r}.")
    return "replicated" if replicated else head


def _trunk_layers(form: str, n: int, layers: int, extra: int) -> int:
    """Blocks of the trunk. Raises ValueError for sizes that cannot work."""
    if min(n, layers) < 1:
        raise ValueError(f"n and layers must be at least 1, not {n} and {layers}.")
    if form != "transformer":
        if extra:
            raise ValueError(f"extra = {extra} counts transformer heads, and there are none: leave it out.")
        return layers
    if not 0 <= extra < n:
        raise ValueError(f"extra = {extra} of n = {n} heads cannot be added: choose extra between 0 and {n - 1}.")
    if n > 1 and layers - n + extra < 1:
        raise ValueError(
            f"n = {n} heads of {layers} layers leave no trunk: choose n between 1 and {max(layers - 1 + extra, 1)}, "
            "or unembeddings='replicated'."
        )
    return layers - n + extra
