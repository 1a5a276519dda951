"""Where a net gains on another, position by position, against how uncertain the step is (MTP, arXiv 2404.19737, sec. 5.1)."""

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn

from zoo.data.tokenizer import load_tokenizer
from zoo.pretrained import from_pretrained


class Gain(L.Callback):
    """At test: the nll (bits) that the tested net's head 1 saves against a saved baseline, by the entropy of the step.

    Both read the same windows. Bins are deciles of the entropy on the *validation* split, fixed before the test split is read.
    What a multi-token net does not know when it predicts two tokens ahead is measured likewise: the nll of head 2 for a token,
    less that of head 1 one step later for the same token, by the entropy of the step in between. Everything is computed in the
    weights' own type, without autocast.

    Args:
        baseline: folder of the saved net that is compared with; its head 1 counts.
        axis: whose entropy it is. "both": the mean of the two nets'. "baseline": the baseline's alone, which is not fair: where
            it is surer than it should be it pays, so that an equally good net seems to gain at low entropy and to lose at high.
        bins: how many.
        validation_batches: batches, spread over the validation pass, that fix the bins.

    Logs (bits a token, positive where the tested net is better) gain and, with its standard error over windows (jackknife), its
    slope on the entropy (bits a bit) and its correlation with it: gain_slope, gain_slope_error, gain_correlation,
    gain_correlation_error, gain_error; gain_bin1 ... and entropy_bin1 ..., the means of each bin that is not empty. Of a net with
    two heads or more also harder, harder_error, harder_slope, harder_slope_error, harder_bin1 ...: what head 2 lacks.
    """

    def __init__(self, baseline: str, axis: Literal["both", "baseline"] = "both", bins: int = 10, validation_batches: int = 16):
        if min(bins, validation_batches) < 1:
            raise ValueError(f"Gain: bins ({bins}) and validation_batches ({validation_batches}) are at least 1.")
        if axis not in ("both", "baseline"):
            raise ValueError(f"Gain: axis is 'both' or 'baseline', not {axis!r}.")
        self.baseline, self.axis, self.bins, self.validation_batches = baseline, axis, bins, validation_batches

    def on_test_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("Gain compares nets in one process: test the saved net with --trainer.devices=1.")
        data = trainer.datamodule
        if load_tokenizer(Path(self.baseline) / "tokenizer").fingerprint != data.tokenizer.fingerprint:
            raise ValueError(
                f"The net in {self.baseline} was trained with another tokenizer than the data have: nothing to compare."
            )
        self.other = from_pretrained(self.baseline).to(module.device)
        loader = data.val_dataloader()
        seen = []
        for batch in itertools.islice(loader, 0, None, max(1, len(loader) // self.validation_batches)):
            steps = self._compare(module.net, {name: x.to(module.device) for name, x in batch.items()})
            seen.append(steps.entropy[steps.counted])
        shares = torch.arange(1, self.bins, dtype=torch.float64, device=module.device) / self.bins
        self.edges = quantiles(torch.cat(seen).double(), shares)
        self.gain, self.harder = Trend(self.edges), Trend(self.edges)

    def on_test_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs, batch: dict[str, Tensor], batch_idx: int, dataloader_idx=0
    ) -> None:
        steps = self._compare(module.net, batch)
        self.gain.add(steps.entropy, steps.gain, steps.counted)
        if steps.harder is not None:  # the last step of a window has no second next token inside it
            self.harder.add(steps.entropy[:, :-1], steps.harder, steps.counted[:, :-1] & steps.counted[:, 1:])

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for name, trend in (("gain", self.gain), ("harder", self.harder)):
            for key, value in trend.summary().items():
                if not (name == "harder" and "entropy" in key):
                    module.log(f"test/{key.replace('mean', name)}", value)
        del self.other

    def _compare(self, net: nn.Module, batch: dict[str, Tensor]) -> "Steps":
        """batch: tokens and mask (B, T + ahead)."""
        length = batch["tokens"].shape[1] - net.ahead
        tokens = batch["tokens"][:, : length + 1]
        mine, theirs = scores(net, tokens, heads=min(2, getattr(net, "n", 1))), scores(self.other, tokens)
        entropy = (mine.entropy + theirs.entropy) / 2 if self.axis == "both" else theirs.entropy
        harder = None if mine.second is None else mine.second - mine.nll[:, 1:]
        return Steps(entropy, theirs.nll - mine.nll, harder, batch["mask"][:, 1 : length + 1])


@dataclass(frozen=True)
class Steps:
    """Of each step: entropy and gain (B, T) in bits, what head 2 lacks (B, T - 1), and whether the step counts (B, T)."""

    entropy: Tensor
    gain: Tensor
    harder: Tensor | None
    counted: Tensor


@dataclass(frozen=True)
class Scores:
    """In bits: nll (B, T) of the next tokens under head 1, its entropy (B, T), nll of head 2 (B, T - 1) for the second next."""

    nll: Tensor
    entropy: Tensor
    second: Tensor | None


@torch.no_grad()
def scores(net: nn.Module, tokens: Tensor, heads: int = 1, chunk: int = 1024) -> Scores:
    """What `net` makes of tokens (B, T + 1); heads: 1, or 2 with head 2's. chunk: positions whose logits exist at a time."""
    inputs = tokens[:, :-1]
    states = net.states(inputs, net.cache(*inputs.shape), heads=heads)  # (B, T, heads, D)
    nll, entropy = _head(net, states[:, :, 0], tokens[:, 1:], 0, chunk)
    second = _head(net, states[:, :-1, 1], tokens[:, 2:], 1, chunk)[0] if heads > 1 else None
    return Scores(nll, entropy, second)


def _head(net: nn.Module, states: Tensor, targets: Tensor, head: int, chunk: int) -> tuple[Tensor, Tensor]:
    """nll and entropy, bits, of states (B, t, D) and targets (B, t)."""
    nll, entropy = [], []
    for rows, wanted in zip(states.flatten(0, 1).split(chunk), targets.flatten().split(chunk)):
        log_p = net.logits(rows, head).float().log_softmax(-1)  # (rows, V)
        nll.append(-log_p.gather(1, wanted[:, None])[:, 0])
        entropy.append(-(log_p.exp() * log_p).sum(1))
    return tuple(torch.cat(each).view(targets.shape) / math.log(2) for each in (nll, entropy))


def quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """The values (…) below which these shares (k,) of them lie: (k,). (torch.quantile refuses more than 2²⁴ values.)"""
    ordered = values.flatten().sort().values
    return ordered[(shares * len(ordered)).long().clamp(max=len(ordered) - 1)]


@dataclass
class Trend:
    """Sums of y against x by window and by bin of x: what means, slope, correlation and their errors follow from.

    edges (bins - 1,): where the next bin begins.
    """

    edges: Tensor
    windows: list[Tensor] = field(default_factory=list)  # each (B, 6): count, x, y, xx, xy, yy
    inside: Tensor | None = None  # (bins, 3): count, x, y

    def add(self, x: Tensor, y: Tensor, counted: Tensor) -> None:
        """x, y (B, T), and which of them count; a row is a window."""
        x, y, one = x.double(), y.double(), counted.double()
        moments = torch.stack([one, x * one, y * one, x * x * one, x * y * one, y * y * one], dim=2)  # (B, T, 6)
        self.windows.append(moments.sum(1)[counted.any(1)])
        which = torch.bucketize(x, self.edges, right=True)
        inside = x.new_zeros(len(self.edges) + 1, 3).index_add_(0, which.flatten(), moments[..., :3].flatten(0, 1))
        self.inside = inside if self.inside is None else self.inside + inside

    def summary(self) -> dict[str, float]:
        """mean, slope, correlation with their errors; mean_bin1 …, entropy_bin1 …; {} where nothing was added."""
        if not self.windows or not (windows := torch.cat(self.windows)).numel():
            return {}
        total = windows.sum(0)
        known = {"mean": _mean, "mean_slope": _slope, "mean_correlation": _correlation}
        found = {}
        for name, statistic in known.items():
            value = float(statistic(total))
            if math.isfinite(value):
                found[name] = value
                if len(windows) > 1:
                    found[f"{name}_error"] = _jackknife(statistic, windows)
        for i, (count, x, y) in enumerate(self.inside.tolist(), 1):
            if count:
                found |= {f"mean_bin{i}": y / count, f"entropy_bin{i}": x / count}
        return found


def _mean(sums: Tensor) -> Tensor:
    return sums[..., 2] / sums[..., 0]


def _slope(sums: Tensor) -> Tensor:
    """Least squares of y on x, of sums (..., 6)."""
    n, x, y, xx, xy, _ = sums.unbind(-1)
    return (n * xy - x * y) / (n * xx - x * x)


def _correlation(sums: Tensor) -> Tensor:
    n, x, y, xx, xy, yy = sums.unbind(-1)
    return (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()


def _jackknife(statistic, windows: Tensor) -> float:
    """Standard error of a statistic of the summed windows (W, 6), windows being independent: each is left out in turn."""
    without = statistic(windows.sum(0) - windows)  # (W,)
    return float(((without - without.mean()) ** 2).sum().mul((len(windows) - 1) / len(windows)).sqrt())
