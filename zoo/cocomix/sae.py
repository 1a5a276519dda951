"""Sparse autoencoders of a teacher's hidden states, as sae-lens saves them and without its cost (CoCoMix, sec. 2.1)."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.nn.concepts import normalised
from zoo.nn.losses import product_type

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SETTINGS = "settings.json"  # of its training: who asks for other ones starts elsewhere


class Latents(NamedTuple):
    """The active latents of hidden states (..., D): values (..., k) from 0 on, largest first, their ids, and the mean and
    standard deviation (..., 1) that were taken off the states."""

    values: Tensor
    ids: Tensor
    mean: Tensor
    std: Tensor


class SparseAutoencoder(nn.Module):
    """A TopK autoencoder: c = ReLU(TopK(W_enc (x - b) + b_enc)), x^ = W_dec c + b, x normalised over its width if `normalise`.

    dim: width D of the states; latents: C; keep: how many are active (32). centred: whether b is taken off before the encoder.
    """

    def __init__(self, dim: int, latents: int = 32768, keep: int = 32, *, normalise: bool = True, centred: bool = True):
        super().__init__()
        if not 1 <= keep <= latents:
            raise ValueError(f"keep = {keep} of {latents} latents cannot be active: choose 1 to {latents}.")
        self.keep, self.normalise, self.centred = keep, normalise, centred
        self.encoder = nn.Linear(dim, latents)
        self.decoder = nn.Parameter(self.encoder.weight.detach().clone())  # (C, D): only active rows are read
        self.shift = nn.Parameter(torch.zeros(dim))

    @classmethod
    def opened(cls, name: str | Path) -> "SparseAutoencoder":
        """The one in this folder, or with this name among sae-lens' releases: the paper's is
        "gpt2-small-resid-post-v5-32k/blocks.5.hook_resid_post"."""
        folder = Path(name).expanduser()
        if folder.is_dir() or str(name).count("/") != 1 or folder.parent.is_dir():
            return cls.load(Path(name).expanduser())
        return cls.released(*str(name).split("/"))

    @classmethod
    def load(cls, folder: str | Path) -> "SparseAutoencoder":
        """What sae-lens saved to `folder` (`save_inference_model`, or the files of a release), frozen.

        Raises FileNotFoundError or ValueError, in a sentence, for what is missing, damaged, or no TopK autoencoder.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: give the folder that sae-lens saved the autoencoder in.")
        try:
            made = cls.of(json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS))
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:  # whatever is in there
            reason = " ".join(str(error).split())
            raise ValueError(f"The autoencoder in {folder} cannot be read ({reason}): save a TopK one again.") from None
        if not all(torch.isfinite(weight).all() for weight in made.parameters()):
            raise ValueError(
                f"The autoencoder in {folder} has weights that are NaN or infinite: train it again, at a lower rate."
            )
        return made

    @classmethod
    def released(cls, release: str, name: str) -> "SparseAutoencoder":
        """One of sae-lens' releases, from the hub."""
        try:
            from sae_lens import SAE  # takes many seconds
        except ImportError:
            raise ValueError(
                f"{release}/{name} is a release of sae-lens, which is not installed: pip install sae-lens, or give a folder "
                "that it saved, which is read without it."
            ) from None
        try:
            sae = SAE.from_pretrained(release, name)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The autoencoder {name} of {release} cannot be had ({reason}): give a folder instead.") from None
        return cls.of(sae.cfg.to_dict(), sae.state_dict())

    @classmethod
    def of(cls, config: dict, weights: dict[str, Tensor]) -> "SparseAutoencoder":
        """From sae-lens' configuration and weights. Raises KeyError where one is missing, ValueError for another kind."""
        kind, keep, normalise = config["architecture"], config["k"], config.get("normalize_activations", "none")
        encoder, bias, decoder, shift = (weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
        if not kind.startswith("topk") or normalise not in ("none", "layer_norm"):
            raise ValueError(f"it is {kind!r} on activations {normalise!r}, and CoCoMix takes 'topk' on 'layer_norm' or 'none'")
        if config.get("rescale_acts_by_decoder_norm"):  # folded: latents of unit decoder rows
            norms = decoder.norm(dim=-1)
            encoder, bias, decoder = encoder * norms, bias * norms, decoder / norms[:, None]
        centred = bool(config.get("apply_b_dec_to_input", True))
        with torch.device("meta"):
            made = cls(len(encoder), len(decoder), keep, normalise=normalise == "layer_norm", centred=centred)
        state = {"encoder.weight": encoder.t().contiguous(), "encoder.bias": bias, "decoder": decoder, "shift": shift}
        made.load_state_dict(state, assign=True)
        return made.requires_grad_(False).eval()

    @property
    def latents(self) -> int:
        return len(self.decoder)

    @property
    def digest(self) -> str:
        """sha256 of what makes its latents: the weights, how many are active, and what is done to the states before."""
        found = hashlib.sha256(json.dumps([self.keep, self.normalise, self.centred]).encode())
        for _, weight in sorted(self.state_dict().items()):
            found.update(weight.float().cpu().numpy().tobytes())
        return found.hexdigest()

    def pre(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pre-activations (..., C) of states x (..., D), in fp32 or more, and their mean and std (..., 1)."""
        x, mean, std = self._normed(x)
        return self._pre(x), mean, std

    @torch.no_grad()
    def encode(self, x: Tensor, chunk: int | None = None) -> Latents:
        """The active latents of states x (..., D); chunk: rows whose C pre-activations exist at a time."""
        x, mean, std = self._normed(x)
        rows = x.flatten(0, -2)
        chunk = chunk or (256 if x.device.type == "cpu" else 4096)
        values = torch.empty(len(rows), self.keep, dtype=x.dtype, device=x.device)
        ids = torch.empty(len(rows), self.keep, dtype=torch.int64, device=x.device)
        for first in range(0, len(rows), chunk):
            part = slice(first, first + chunk)
            torch.topk(self._pre(rows[part]), self.keep, out=(values[part], ids[part]))
        shape = (*x.shape[:-1], self.keep)
        return Latents(values.relu_().view(shape), ids.view(shape), mean, std)

    def decode(self, latents: Latents) -> Tensor:
        """The states (..., D) that latents stand for."""
        values, ids, mean, std = latents
        rows = F.embedding_bag(ids.flatten(0, -2), self.decoder, per_sample_weights=values.flatten(0, -2), mode="sum")
        return (rows.view(*ids.shape[:-1], -1) + self.shift) * std + mean

    def _normed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(x.dtype, torch.float32)
        if self.normalise:
            return normalised(x)
        return x.to(exact), x.new_zeros(*x.shape[:-1], 1, dtype=exact), x.new_ones(*x.shape[:-1], 1, dtype=exact)

    def _pre(self, x: Tensor) -> Tensor:
        matrix = product_type(self.encoder.weight)
        shifted = x - self.shift if self.centred else x
        if matrix.dtype == x.dtype:
            return F.linear(shifted, matrix, self.encoder.bias)  # one pass over C numbers a row less
        return F.linear(shifted.to(matrix.dtype), matrix).to(x.dtype) + self.encoder.bias
