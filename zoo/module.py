"""The LightningModule of every net, of tokens or of sentences: whatever has the interface of `LanguageModel`."""

import math
from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.optim import AdamW, schedule
from zoo.shard import shard


class LanguageModel(L.LightningModule):
    """Trains a net whose `forward` is its loss: `net(batch) -> {"loss", "parts": {name: (sum, count)}}`.

    Args:
        vocab: number of token ids, or the width of a sentence's vector; linked from the data.
        context: tokens per window, or sentences; linked from the data.
        net: makes the network from (vocab, context), e.g. `zoo.mtp.MTP`.
        optimizer: makes the optimizer from the network.
        warmup: steps of linear warm-up (MTP Table S13: 2000).
        floor: final learning rate over the peak (MTP Table S13: 0.03).
        seed: seeds weights, order and dropout; linked from seed_everything.
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        net: Callable[[int, int], nn.Module],
        optimizer: Callable[[nn.Module], Optimizer] = AdamW,
        warmup: int = 2000,
        floor: float = 0.03,
        seed: int = 0,
    ):
        super().__init__()
        self.vocab, self.context, self.seed = vocab, context, seed
        self._make_net, self._make_optimizer = net, optimizer
        self.warmup, self.floor = warmup, floor
        self.net: nn.Module | None = None
        self._finite: Tensor | None = None
        self._totals: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        if self.net is None:  # the hook may be called again at test time
            torch.manual_seed(self.seed)  # every arm starts from the same stream, whatever ran before
            self.net = self._make_net(self.vocab, self.context)
            self._same_tokenizer(getattr(self.net, "tokenizer_fingerprint", ""), "net")
            shard(self.net, self._device_mesh)

    def configure_optimizers(self) -> dict:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = self._make_optimizer(self.net)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return schedule(optimizer, self.warmup, total, self.floor)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raise ValueError in one sentence where the checkpoint holds another net, or one of another tokenizer's ids."""
        theirs, ours = checkpoint.get("state_dict", {}), self.state_dict()
        shapes = {name: (theirs.get(name), ours.get(name)) for name in (theirs.keys() | ours.keys() if theirs else ())}
        for name, pair in sorted(shapes.items()):
            a, b = ("missing" if x is None else f"of shape {tuple(x.shape)}" for x in pair)
            if a != b:
                raise ValueError(
                    f"The checkpoint holds another net ({name} is {a} there and {b} here): give the settings it was "
                    "trained with, which are in config.yaml of its run folder."
                )
        self._same_tokenizer(checkpoint.get("tokenizer", ""), "checkpoint")

    @property
    def _tokenizer(self) -> str:
        """Fingerprint of the data's tokenizer; empty where there are no data, or a net does not learn ids."""
        data = self._trainer and getattr(self._trainer, "datamodule", None)
        return getattr(data, "tokenizer_fingerprint", "")

    def _same_tokenizer(self, theirs: str, what: str) -> None:
        if theirs and self._tokenizer and theirs != self._tokenizer:
            raise ValueError(
                f"The {what} was trained with another tokenizer than the data have, so its ids mean other text: give "
                "--data.init_args.tokenizer its own, the folder pretrained/tokenizer of its run or that of its token store."
            )

    def on_train_start(self) -> None:
        # A checkpoint brings its learning rates along; a resumed run takes the command line's, the same floats if it agrees.
        curve, optimizer = self.lr_schedulers(), self.optimizers(use_pl_optimizer=False)
        curve.base_lrs = self._peaks
        for group, peak, factor in zip(optimizer.param_groups, self._peaks, curve.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * factor(curve.last_epoch)

    # -- training -------------------------------------------------------------------------------------------------
    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Lightning lets the old gradients live until the forward pass is over, but heads make their new ones inside it.
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.optimizers(use_pl_optimizer=False).zero_grad(set_to_none=True)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        # Dropout is a pure function of (seed, epoch, micro-step, rank): a resumed run draws what the lost one would have.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) & 0x7FFFFFFFFFFFFFFF)
        out = self.net(batch)
        finite = torch.isfinite(out["loss"].detach())
        self._finite = finite if self._finite is None else self._finite & finite
        self.log("train/loss", out["loss"].detach())
        for name, (total, count) in out["parts"].items():
            self.log(f"train/{name}", total / count.clamp_min(1))
        return out["loss"]

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        if self.device.type == "cpu" or self.trainer._logger_connector.should_update_logs:
            self._refuse_nan()  # on a GPU the question is a synchronisation, so it is asked at log steps only

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Say of which tokenizer its ids are; refuse to replace a good checkpoint by one whose loss or weights are lost."""
        checkpoint["tokenizer"] = self._tokenizer
        if self._finite is not None:
            weights = [torch.isfinite(p.detach()).all() for p in self.parameters()]
            weights = torch.stack([w.full_tensor() if hasattr(w, "full_tensor") else w for w in weights]).all()
            self._finite = self._finite & weights
        self._refuse_nan()

    def _refuse_nan(self) -> None:
        if self._finite is None:
            return
        lost = self.trainer.strategy.reduce((~self._finite).float(), reduce_op="sum")  # one process tells the others
        if bool(lost):
            raise FloatingPointError(
                f"Loss or weights became NaN or infinite by step {self.global_step}; no checkpoint was replaced: "
                "resume from one with --ckpt_path and a lower learning rate (or a gradient clip, or precision 32)."
            )

    # -- validation and test: sums and counts are added, never means of means -----------------------------------
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def _count(self, batch: dict[str, Tensor]) -> None:
        parts = self.net(batch)["parts"]
        for name, (total, count) in parts.items():
            pair = torch.stack([torch.as_tensor(total), torch.as_tensor(count)]).detach().to(self._exact)
            self._totals[name] = self._totals.get(name, 0) + pair
        if "bytes" in batch:
            targets = slice(1, batch["tokens"].shape[1] - self.net.ahead + 1)
            total = (batch["bytes"] * batch["mask"])[:, targets].sum()
            self._totals["bytes"] = self._totals.get("bytes", 0) + total.to(self._exact)

    @property
    def _exact(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no fp64

    def on_validation_epoch_start(self) -> None:
        self._totals = {}

    def on_test_epoch_start(self) -> None:
        self._totals = {}

    def on_validation_epoch_end(self) -> None:
        self._log_totals("val")

    def on_test_epoch_end(self) -> None:
        self._log_totals("test")

    def _log_totals(self, stage: str) -> None:
        """Log nats per token of every part, their sum, and bits per byte of the next-token part."""
        sums = {k: self.trainer.strategy.reduce(v, reduce_op="sum") for k, v in self._totals.items()}
        text_bytes = sums.pop("bytes", None)
        means = {name: float(total / count) for name, (total, count) in sums.items()}
        if text_bytes is not None:
            # nll of every counted target over the bytes of those targets; end tokens cost bits but hold no bytes
            self.log(f"{stage}/bits_per_byte", float(sums["next"][0] / text_bytes / math.log(2)), prog_bar=True)
        self.log_dict({f"{stage}/{name}": mean for name, mean in means.items()})
        weights = getattr(self.net, "part_weights", {})  # 1 for all others
        self.log(f"{stage}/loss", sum(weights.get(name, 1.0) * mean for name, mean in means.items()))
