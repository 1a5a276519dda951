"""Which concepts a run selects, and what becomes of the others' columns in the compressor (CoCoMix, Fig. 6c)."""

import math

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from zoo.cocomix.labels import health
from zoo.nn.concepts import ConceptMixer

TINY = 1e-2  # norm of a column that the paper calls ignored
WIDE = 2.0  # of the histogram


class Selection(L.Callback):
    """Follows through a training which concepts are among the kept ones, and at test measures the compressor's columns by it.

    Logs, in percent of all concepts: tiny_columns, those whose column has an L2 norm below 0.01 (the paper's 5.8); the control,
    never_selected in the whole run and unselected_lately, in its last part: their columns had nothing but weight decay there;
    norm_bin1 …, the histogram of the norms from 0 to 2, with norm_at1 …, the middles of its bins, and norm_above, the rest.
    In percent of those: never_selected_tiny and selected_tiny, how many columns of the never selected and of the others are tiny,
    and tiny_never_selected, how many of the tiny were never selected. TensorBoard has the histogram as compressor/norms.

    And how well concepts are predicted, beside `test/concept`, the loss: concept_uniform, ln C, and concept_unigram, the entropy
    of a training label, both in nats, are what a net pays that reads nothing; concept_recall, the percentage of the teacher's
    labels that are among the kept concepts; concept_frequent, the percentage of the training labels that the most frequent 1 % of
    all concepts are.

    What was selected is part of the checkpoints. A net that is tested without them has norms and recall alone.

    Args:
        lately: what share of the run's optimizer steps, the last ones, "lately" is: the same of a short and of a long run.
        bins: of the histogram.
    """

    def __init__(self, lately: float = 0.25, bins: int = 20):
        if not 0 < lately <= 1 or bins < 1:
            raise ValueError(f"Selection: lately ({lately}) is a share, above 0 and up to 1, and bins ({bins}) at least 1.")
        self.lately, self.bins = lately, bins
        self.last: Tensor | None = None  # (C,) int32: the step in which a concept was last kept, -1 for never
        self.counts: Tensor | None = None  # (C,) int64: how often it was a label
        self.seen = 0  # steps
        self.kept: Tensor | None = None  # (B, T, k), of the last pass
        self.hook = None

    # -- training -------------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        count = self._watch(module.net)
        if self.last is None:
            self.last, self.counts = torch.full((count,), -1, dtype=torch.int32), torch.zeros(count, dtype=torch.int64)
        self.last, self.counts = self.last.to(module.device), self.counts.to(module.device)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: dict, batch_idx: int) -> None:
        self.step = trainer.global_step  # of all the micro-steps of a step; it is counted up before the end of the last
        self.kept = None  # of a validation

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch: dict, batch_idx: int) -> None:
        """Two scatters into vectors of C numbers, and nothing that a GPU would have to be waited for."""
        self.seen = self.step + 1
        if self.kept is not None:  # a net that neither mixes nor learns concepts predicts none
            self.last.index_fill_(0, self.kept.flatten(), self.step)
        if "concepts" in batch:
            labels = batch["concepts"].flatten()
            self.counts.index_add_(0, labels.clamp(min=0), (labels >= 0).long())

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict) -> None:
        if self.last is not None:
            last, counts = self._together(trainer)
            checkpoint["selection"] = {"last": last.cpu(), "counts": counts.cpu(), "seen": self.seen}

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict) -> None:
        if (state := checkpoint.get("selection")) is not None:
            self.last, self.counts, self.seen = state["last"], state["counts"] * (trainer.global_rank == 0), state["seen"]

    # -- test -----------------------------------------------------------------------------------------------------
    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._watch(module.net)
        self.recalled = torch.zeros(2, dtype=torch.int64, device=module.device)  # labels among the kept, all labels

    def on_test_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs, batch: dict[str, Tensor], batch_idx: int, dataloader_idx=0
    ) -> None:
        if "concepts" in batch:
            length = self.kept.shape[1]
            labels = batch["concepts"][:, :length]
            known = (labels >= 0) & batch["mask"][:, 1 : length + 1, None]  # (B, T, K)
            found = (labels[..., None] == self.kept[:, :, None]).any(-1) & known
            self.recalled += torch.stack((found.sum(), known.sum()))

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        mixer = module.net.mixer
        values = {"concept_uniform": math.log(mixer.predictor.num_embeddings)}
        right, all_ = trainer.strategy.reduce(self.recalled, reduce_op="sum").tolist()
        if all_:
            values["concept_recall"] = 100 * right / all_
        last = None
        if self.last is not None and self.seen:
            last, counts = (x.to(module.device) for x in self._together(trainer))
            if counts.any():
                found = health(torch.cat((counts.new_zeros(1), counts)).cpu().numpy())
                values |= {"concept_unigram": found["entropy"], "concept_frequent": 100 * found["frequent"]}
        if mixer.compressor is not None:
            norms = column_norms(mixer)
            values |= columns(norms, last, round(self.seen * (1 - self.lately)), self.bins)
            if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
                trainer.logger.experiment.add_histogram("compressor/norms", norms.cpu(), self.seen)
        module.log_dict({f"test/{name}": float(value) for name, value in values.items()})

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self.hook is not None:
            self.hook.remove()
        self.hook = self.kept = None

    def _watch(self, net: nn.Module) -> int:
        """Keep `kept` at what the net kept last; the number of its concepts."""
        mixer = getattr(net, "mixer", None)
        if not isinstance(mixer, ConceptMixer):
            raise ValueError(f"Selection: this net ({type(net).__name__}) predicts no concepts: take the callback out.")

        def keep(_, arguments, mixed) -> None:
            self.kept = mixed.ids

        if self.hook is None:
            self.hook = mixer.register_forward_hook(keep)
        return mixer.predictor.num_embeddings

    def _together(self, trainer: L.Trainer) -> tuple[Tensor, Tensor]:
        """`last` and `counts` of all processes."""
        reduce = trainer.strategy.reduce
        return reduce(self.last.clone(), reduce_op="max"), reduce(self.counts.clone(), reduce_op="sum")


@torch.no_grad()
def column_norms(mixer: ConceptMixer) -> Tensor:
    """L2 norms (C,) of the compressor's columns, in fp32: W of eq. 3 has one for each concept."""
    norms = mixer.compressor.weight.float().norm(dim=1)
    return norms.full_tensor() if hasattr(norms, "full_tensor") else norms  # sharded by its rows


def columns(norms: Tensor, last: Tensor | None, lately: int, bins: int = 20) -> dict[str, float]:
    """What `Selection` logs of the norms (C,); last (C,): see there. lately: the first of the last steps."""
    everything = torch.ones_like(norms, dtype=torch.bool)
    percent = lambda chosen, among=everything: 100 * int((chosen & among).sum()) / int(among.sum())
    tiny, width = norms < TINY, WIDE / bins
    found = {"tiny_columns": percent(tiny), "norm_above": percent(norms >= WIDE)}
    for i in range(bins):
        found[f"norm_bin{i + 1}"] = percent((norms >= i * width) & (norms < (i + 1) * width))
        found[f"norm_at{i + 1}"] = (i + 0.5) * width
    if last is None:
        return found
    never = last < 0
    found |= {"never_selected": percent(never), "unselected_lately": percent(last < lately)}
    crossed = {"never_selected_tiny": (tiny, never), "selected_tiny": (tiny, ~never), "tiny_never_selected": (never, tiny)}
    return found | {name: percent(chosen, among) for name, (chosen, among) in crossed.items() if among.any()}
