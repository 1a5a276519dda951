"""`zoo prepare sae`: trains a sparse autoencoder of a teacher's hidden states with sae-lens (CoCoMix, sec. 2.1)."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from zoo.cocomix.sae import CONFIG, SETTINGS, SparseAutoencoder
from zoo.cocomix.teacher import opened_teacher
from zoo.data.order import permute
from zoo.data.shards import write_json
from zoo.data.store import locked
from zoo.nn.concepts import normalised

STEP = "autoencoder-at-"  # what the folders of checkpoints are called, with the step behind it
OVERLAY = ("model", "trainer", "last", "best", "meter", "board", "export")  # of scale overlays, which are of training runs
GROUP = 8  # steps whose activations are shuffled together


def train(
    data,
    teacher: str,
    out: str,
    layer: int = 6,
    latents: int = 32768,
    keep: int = 32,
    tokens: int = 500_000_000,
    batch: int = 4096,
    lr: float = 3e-4,
    warmup: int = 1000,
    dead_after: int = 1000,
    aux: float = 1 / 32,
    bf16: bool = False,
    validate_every: int = 500,
    save_every: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Train sae-lens' `TopKTrainingSAE` on the states that a teacher has after `layer` blocks, and save it for inference.

    Args:
        data: a token DataModule, prepared and set up.
        teacher: folder or hub name of the teacher, see `zoo.cocomix.teacher.Teacher`.
        out: folder of the autoencoder: sae-lens' files, checkpoints while it trains, TensorBoard events. A killed run that is
            started again with the same settings goes on from its last checkpoint, a finished one is left alone.
        layer: blocks below the states.
        latents, keep: C, and how many are active (K_SAE).
        tokens: states to train on, in steps of `batch`.
        lr, warmup: peak of Adam's learning rate, which falls to 0 in the last fifth of the steps, and its warm-up steps.
        dead_after: steps without activity after which a latent counts as dead; aux: weight of the loss that revives them.
        bf16: autoencoder's products in bfloat16.
        validate_every, save_every: steps; a checkpoint falls on a multiple of 8.
        seed: of weights and order.

    The states are normalised over their width, as the saved autoencoder will do itself ("layer_norm"). Logs, of the validation
    split: explained_variance, overall, of the first and of the last position (and a figure of all), l0, dead (share of latents
    that no state there makes active). Returns these. Raises ValueError, in a sentence, where sizes or folders do not fit.
    """
    opened, folder, steps = opened_teacher(teacher, data), Path(out), tokens // batch
    settings = {"teacher": opened.digest[:16], "corpus": data.fingerprint, "context": data.context, "layer": layer, "keep": keep,
                "latents": latents, "tokens": tokens, "batch": batch, "lr": lr, "warmup": warmup, "dead_after": dead_after,
                "aux": aux, "bf16": bf16, "seed": seed}  # fmt: skip
    _refuse(batch, data.context, steps, warmup, layer, len(opened.net.trunk.layers))
    if find_spec("sae_lens") is None:
        raise ValueError("Autoencoders are trained with sae-lens, which is not installed: pip install sae-lens.")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        return _train(opened.net, data, folder, settings, steps, validate_every, save_every)


def _train(net, data, folder: Path, settings: dict, steps: int, validate_every: int, save_every: int) -> dict[str, float]:
    """`train`, in a folder that is this process's alone."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from torch.utils.tensorboard import SummaryWriter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, seed, lr = (settings[name] for name in ("batch", "seed", "lr"))
    started = _started(folder, settings)
    if (folder / CONFIG).exists():
        for old in folder.glob(f"{STEP}*"):
            shutil.rmtree(old)
        print(f"autoencoder: {folder} is trained already", flush=True)
        return json.loads((folder / SETTINGS).read_text())["measured"]
    states = _States(net.to(device).requires_grad_(False).eval(), settings["layer"], data, device)
    torch.manual_seed(seed)
    sizes = {"d_in": net.trunk.dim, "d_sae": settings["latents"], "k": settings["keep"], "aux_loss_coefficient": settings["aux"]}
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes, normalize_activations="none", device=device))
    if started:
        sae = TopKTrainingSAE.load_from_disk(started, device=device)
    rates = {"lr_end": lr, "lr_warm_up_steps": settings["warmup"], "lr_decay_steps": steps // 5}  # lr_end: until it decays, to 0
    config = SAETrainerConfig(settings["tokens"], batch, lr, **rates, device=device, autocast=settings["bf16"],
                              dead_feature_window=settings["dead_after"])  # fmt: skip
    trainer = SAETrainer(config, sae, iter(()))
    if started:
        trainer.load_trainer_state(started)
        print(f"autoencoder: going on after step {trainer.n_training_steps} of {steps}", flush=True)
    writer, began, first = SummaryWriter(folder), time.monotonic(), trainer.n_training_steps
    for x in states.shuffled(seed, batch, first, steps):
        loss = trainer.step(x).loss.detach()
        trainer.n_training_steps += 1
        step = trainer.n_training_steps
        if step % 50 == 0 or step % GROUP == 0 or step == steps:
            _refuse_nan(sae, float(loss), step, folder)
        if step % 50 == 0 or step == steps:
            writer.add_scalar("train/loss", float(loss), step)
            writer.add_scalar("train/dead", float(trainer.dead_neurons.float().mean()), step)
            left = (time.monotonic() - began) / (step - first) * (steps - step)
            print(f"step {step}/{steps}  squared error {float(loss):.3f}  {left:.0f} s to go", flush=True)
        if step % validate_every == 0 or step == steps:
            measured, curve = measure(_inference(sae), states)
            _log(writer, measured, curve, step)
            print("  ".join(f"{name} {value:.3f}" for name, value in measured.items()), flush=True)
        if step % GROUP == 0 and step % save_every < GROUP and step < steps:
            _checkpoint(folder, trainer, settings)
    writer.close()
    _finish(folder, sae, {**settings, "measured": measured})
    print(f"saved {folder}", flush=True)
    return measured


def _refuse_nan(sae, loss: float, step: int, folder: Path) -> None:
    if not np.isfinite(loss) or not all(bool(weight.isfinite().all()) for weight in sae.parameters()):
        raise FloatingPointError(
            f"the autoencoder is NaN or infinite at step {step}: give sae.lr a lower value and sae.out another folder; if the "
            f"teacher's states are NaN, give another teacher (what {folder} held before is kept)."
        )


def _refuse(batch: int, context: int, steps: int, warmup: int, layer: int, depth: int) -> None:
    if GROUP * batch % context:
        raise ValueError(
            f"sae.batch = {batch}: {GROUP} batches must be whole windows of {context} states; take a multiple of it."
        )
    if steps < 1:
        raise ValueError(f"sae.tokens must be at least sae.batch ({batch}), one step.")
    if warmup > steps - steps // 5:
        raise ValueError(f"sae.warmup = {warmup} of {steps} steps, of which the last {steps // 5} decay: make it shorter.")
    if not 0 < layer <= depth:
        raise ValueError(f"sae.layer = {layer} of a teacher with {depth} blocks: choose 1 to {depth}.")


class _States:
    """A teacher's normalised hidden states of a DataModule's windows."""

    def __init__(self, teacher, layer: int, data, device: str):
        self.trunk, self.layer, self.data, self.device = teacher.trunk, layer, data, device

    @torch.no_grad()
    def of(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, E), mean 0 and deviation 1 over the width."""
        tokens = tokens.to(self.device)
        return normalised(self.trunk.blocks(self.trunk.embed(tokens), stop=self.layer))[0]

    def shuffled(self, seed: int, batch: int, first: int, steps: int) -> Iterator[Tensor]:
        """Batches (batch, E) of the steps first .. steps - 1: a pure function of (seed, step). Those of each 8 steps are shuffled
        together, from windows in the order of a training run. `first` is a multiple of 8."""
        context, count = self.data.context, self.data.windows("train")
        windows = GROUP * batch // context
        for group in range(first // GROUP, -(-steps // GROUP)):
            numbers = permute(np.arange(group * windows, (group + 1) * windows), count, seed)
            rows = []
            for part in np.array_split(numbers, max(1, windows // 16)):
                tokens = self.data.stores["train"].windows(part * context, context)
                rows.append(self.of(torch.from_numpy(tokens)).flatten(0, 1))
            rows = torch.cat(rows)
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed * 1_000_003 + group)).to(self.device)
            for step in range(group * GROUP, min((group + 1) * GROUP, steps)):
                yield rows[order[(step % GROUP) * batch : (step % GROUP + 1) * batch]]

    def held_out(self) -> Iterator[Tensor]:
        """States (B, T, E) of the validation windows."""
        loader = self.data.val_dataloader()
        for batch in loader:
            kept = batch["mask"][:, 0]
            if kept.any():
                yield self.of(batch["tokens"][kept, : self.data.context])


@torch.no_grad()
def measure(sae: SparseAutoencoder, states: _States) -> tuple[dict[str, float], Tensor]:
    """How well it does on the validation split: numbers, and the explained variance of each position (T,).

    Explained variance: 1 - sum |x - x^|² / sum |x - mean x|², over the normalised states.
    """
    error = square = total = 0.0
    active, seen, fired = 0.0, 0, torch.zeros(sae.latents, dtype=torch.bool, device=states.device)
    for x in states.held_out():
        found = sae.encode(x)
        back = (sae.decode(found) - found.mean) / found.std  # compared where it was trained
        x = x.double()
        error = error + (back.double() - x).square().sum((0, 2))  # (T,)
        square, total = square + x.square().sum((0, 2)), total + x.sum(0)  # (T,), (T, E)
        active += float((found.values > 0).sum())
        fired[found.ids[found.values > 0]] = True
        seen += x.shape[0]
    mean = total.sum(0) / (seen * len(error))
    spread = square - 2 * total @ mean + seen * mean.square().sum()  # (T,)
    curve = 1 - error / spread
    return {
        "explained_variance": float(1 - error.sum() / spread.sum()),
        "explained_variance_first": float(curve[0]),
        "explained_variance_last": float(curve[-1]),
        "l0": active / (seen * len(error)),
        "dead": float(1 - fired.float().mean()),
    }, curve.cpu()


def _inference(sae) -> SparseAutoencoder:
    """The autoencoder as it would be saved now."""
    weights = {name: weight.detach().clone() for name, weight in sae.state_dict().items()}
    return SparseAutoencoder.of({**sae.cfg.to_dict(), "normalize_activations": "layer_norm"}, weights)


def _log(writer, measured: dict[str, float], curve: Tensor, step: int) -> None:
    from matplotlib.figure import Figure

    for name, value in measured.items():
        writer.add_scalar(f"val/{name}", value, step)
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(curve) + 1), curve)
    axes.set(xlabel="position in the window", ylabel="explained variance", ylim=(min(0.0, float(curve.min())), 1))
    writer.add_figure("explained variance by position", figure, step)


def _checkpoint(folder: Path, trainer, settings: dict) -> None:
    """Write a checkpoint beside the one before, which goes when the new one is whole."""
    place = folder / f"{STEP}{trainer.n_training_steps:08d}"
    trainer.sae.save_model(place)
    trainer.save_trainer_state(place)
    write_json(place / SETTINGS, settings)  # last: now it counts
    for old in folder.glob(f"{STEP}*"):
        if old != place:
            shutil.rmtree(old)


def _started(folder: Path, settings: dict) -> Path | None:
    """The newest whole checkpoint of these settings, if any. ValueError where the folder is of other settings."""
    whole = sorted(place.parent for place in folder.glob(f"{STEP}*/{SETTINGS}"))
    for place in [*whole, *([folder] if (folder / SETTINGS).exists() else [])]:
        theirs = json.loads((place / SETTINGS).read_text())
        wrong = [f"{key} {theirs.get(key)!r}, not {value!r}" for key, value in settings.items() if theirs.get(key) != value]
        if wrong:
            raise ValueError(f"{folder} is of {'; '.join(wrong)}: give sae.out another folder, or delete this one.")
    return whole[-1] if whole else None


def _finish(folder: Path, sae, settings: dict) -> None:
    """Save for inference; cfg.json, by which it counts as finished, comes last."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        weights, config = map(Path, sae.save_inference_model(place))
        about = {**json.loads(config.read_text()), "normalize_activations": "layer_norm"}
        write_json(folder / SETTINGS, settings)
        weights.replace(folder / weights.name)
        write_json(folder / CONFIG, about)
    for old in folder.glob(f"{STEP}*"):
        shutil.rmtree(old)


def main(words: list[str]) -> dict[str, Any]:
    """`zoo prepare sae -c RECIPE [-c SCALE] [--sae.KEY=VALUE] [--data.init_args.KEY=VALUE]`.

    A recipe has the sections sae, the arguments of `train`, and data; what else an overlay holds is left alone.
    """
    from lightning.pytorch import LightningDataModule

    from zoo.cli import Parser, check_top_level_keys, config_files  # takes seconds

    parser = Parser(prog="zoo prepare sae", description=__doc__.split(": ", 1)[1], parser_mode="omegaconf+")
    parser.add_argument("-c", "--config", action="append", metavar="FILE", help="recipe, then overlays (may be repeated)")
    parser.add_function_arguments(train, "sae", skip={"data"})
    parser.add_subclass_arguments(LightningDataModule, "data")
    check_top_level_keys(words, ["sae", "data", *OVERLAY])
    sections = OmegaConf.create()
    for path in config_files(words):
        if not path.is_file():
            raise FileNotFoundError(f"there is no recipe {path}; recipes are under recipes/, scales under recipes/scales/.")
        sections.merge_with({key: value for key, value in OmegaConf.load(path).items() if key not in OVERLAY})
    files = [str(path) for path in config_files(words)]
    rest = [word for word in words if word not in ("-c", "--config", *files) and not word.startswith(("-c=", "--config="))]
    layered = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in _leaves(OmegaConf.to_container(sections))
    ]
    given = parser.parse_args([*layered, *rest])
    made = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    data = made(given).data
    data.prepare_data()
    data.setup()
    return train(data, **vars(given.sae))


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, class_path before init_args."""
    for key, value in sorted(tree.items()):
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
