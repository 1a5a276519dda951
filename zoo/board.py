"""What a run shows of itself: TensorBoard scalars, layout and samples, one line per log step; and the checkpoints it keeps."""

import errno
import os
import sys
import time
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from zoo.generate import generate
from zoo.optim import gradient_norm


class Board(L.Callback):
    """TensorBoard: learning rate, gradient norm, a layout that overlays the heads, text samples at validation.

    Args:
        prompts: continued greedily at each validation.
        sample_tokens: length of a continuation.
    """

    def __init__(
        self,
        prompts: tuple[str, ...] = ("def __init__(self, ", "import numpy as np\n", "The function returns "),
        sample_tokens: int = 48,
    ):
        self.prompts, self.sample_tokens = prompts, sample_tokens

    def on_fit_start(self, trainer, module) -> None:
        self.laid_out = False

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if trainer._logger_connector.should_update_logs:
            norm = gradient_norm(list(module.parameters()))
            module.log("optim/gradient_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
            module.log("optim/learning_rate", optimizer.param_groups[0]["lr"])

    def on_validation_end(self, trainer, module) -> None:  # the epoch's metrics are there from now on
        if isinstance(trainer.logger, TensorBoardLogger) and not trainer.sanity_checking and trainer.is_global_zero:
            if not self.laid_out:
                self._lay_out(trainer)
            self._sample(trainer, module)

    def _lay_out(self, trainer) -> None:
        names = [k.split("/", 1)[1] for k in trainer.callback_metrics if k.startswith("val/")]  # as the net orders its parts
        parts = [n for n in names if n not in ("loss", "bits_per_byte")]
        both = lambda name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]]
        layout = {
            "Held-out": {
                "bits per byte": ["Multiline", ["^val/bits_per_byte$"]],
                "nats per token, all heads": ["Multiline", [f"^val/{name}$" for name in parts]],
            },
            "Nats per token": {name: both(name) for name in [*parts, "loss"]},
            "Optimization": {n: ["Multiline", [f"optim/{n}"]] for n in ("learning_rate", "gradient_norm")},
            "Speed": {n: ["Multiline", [f"speed/{n}"]] for n in ("tokens_per_second", "flop_per_second", "peak_memory_mib")},
        }
        trainer.logger.experiment.add_custom_scalars(layout)
        self.laid_out = True

    def _sample(self, trainer, module) -> None:
        net, data = module.net, trainer.datamodule
        if not hasattr(net, "next") or any(hasattr(p, "full_tensor") for p in net.parameters()):
            return  # a sharded net answers to forward alone
        for i, prompt in enumerate(self.prompts):
            text = data.decode(generate_ids(net, data.encode(prompt), self.sample_tokens))
            trainer.logger.experiment.add_text(f"sample/{i}", f"```\n{text}\n```", trainer.global_step)


def generate_ids(net: nn.Module, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation of one prompt, prompt included."""
    return prompt + generate(net, [prompt], count).tokens[0]


class Lines(ProgressBar):
    """One line per log step, for logs and pipes: step, loss, speed in the data's `unit` (default: tokens), time to go."""

    shown = True

    def disable(self) -> None:  # Lightning asks this of every process but the first
        self.shown = False

    def enable(self) -> None:
        self.shown = True

    def on_train_start(self, trainer, module) -> None:
        self.started, self.first = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        step, last = trainer.global_step, trainer.max_steps
        if not self.shown or step == self.first or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if step % trainer.log_every_n_steps == 0 or step == last:
            spent = time.perf_counter() - self.started
            left = spent / (step - self.first) * max(0, last - step)
            rate = getattr(module, "measured", {}).get("tokens_per_second", 0.0)
            of_tokens = trainer.callback_metrics.get("train/next")  # a net of sentences has another loss, and its own unit
            name, loss = ("loss", outputs["loss"]) if of_tokens is None else ("next-token loss", of_tokens)
            clock = f"{spent:.0f} s, {left:.0f} s to go"
            unit = getattr(trainer.datamodule, "unit", "tokens")
            speed = f"{rate:,.0f} {unit}/s  " if rate else ""  # there is none before the third step
            print(f"step {step}/{last}  {name} {float(loss):.3f}  {speed}{clock}", flush=True)

    def on_validation_end(self, trainer, module) -> None:
        self._show(trainer, "val")

    def on_test_end(self, trainer, module) -> None:
        self._show(trainer, "test")

    def _show(self, trainer, stage: str) -> None:
        if self.shown and not trainer.sanity_checking:
            shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(f"{stage}/")}
            print("  ".join(f"{k} {v:.4f}" for k, v in shown.items()), flush=True)


class Last(ModelCheckpoint):
    """`last.ckpt`: every so many steps, and at the end of the run."""

    def on_train_end(self, trainer, module) -> None:
        if not trainer.fast_dev_run and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class BesideIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves the one before untouched.

    (Lightning's own way goes through the system's temporary folder, often another disk, from which files are copied over.)
    """

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".tmp")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            beside.unlink(missing_ok=True)
            full = (
                error.errno in (errno.ENOSPC, errno.EDQUOT) if isinstance(error, OSError) else "PytorchStreamWriter" in str(error)
            )
            if not full:
                raise
            raise OSError(errno.ENOSPC, f"could not be written ({error})", str(target)) from error


def progress() -> ProgressBar:
    """A bar on a terminal, lines elsewhere (a bar prints nothing useful into a file)."""
    return TQDMProgressBar(refresh_rate=1) if sys.stdout.isatty() else Lines()


class Export(L.Callback):
    """Leaves `<run folder>/pretrained` at the end of a fit: weights, configuration and tokenizer, for generate and reuse.

    Args:
        keep: False leaves nothing, where only measurements are wanted.
    """

    def __init__(self, keep: bool = True):
        self.keep = keep

    def on_fit_end(self, trainer, module) -> None:
        run_folder = trainer.log_dir  # a broadcast: every process asks
        if not self.keep or trainer.logger is None or trainer.fast_dev_run:  # without a logger there is no run folder
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        from zoo.pretrained import save_pretrained

        net, state = module.net, None
        if any(hasattr(p, "full_tensor") for p in net.parameters()):  # sharded: every process takes part in the gathering
            state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if trainer.is_global_zero:
            if state is not None:
                with torch.device("meta"):  # the weights are there already, and another set of them may not fit into memory
                    net = module._make_net(module.vocab, module.context)
                net.load_state_dict(state, assign=True)
            folder = Path(run_folder) / "pretrained"
            save_pretrained(net, folder)
            trainer.datamodule.save_tokenizer(folder / "tokenizer")
            print(f"saved {folder}", flush=True)
