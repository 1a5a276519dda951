"""SONAR nets on disk: a folder of our own, and the weights of any checkpoint under sonar-space's names.

config.json               sizes of both halves, languages, fingerprint of the tokenizer
encoder.safetensors       or encoder/*.safetensors, where it is sharded; likewise decoder
sentencepiece.model
normalizer.safetensors    where there is one
cards/<name>.yaml         sonar-space's asset cards of all this (zoo.sonar.cards)
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.files import put
from zoo.nn.normalizer import Normalizer
from zoo.saved import NORMALIZER, opened, save
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import Tokenizer

CONFIG, PIECES = "config.json", "sentencepiece.model"
PACKAGE = Path(__file__).parents[2]  # what zoo/ lies in
HALVES = {"encoder": TextEncoder, "decoder": TextDecoder}


class Opened(NamedTuple):
    """What a folder holds."""

    encoder: TextEncoder | None
    decoder: TextDecoder | None
    tokenizer: Tokenizer
    normalizer: Normalizer | None


def located(place: str | os.PathLike) -> Path:
    """A path as it is given; where nothing is there, in the installed package: "zoo/sonar/small" is there from anywhere."""
    place = Path(place).expanduser()
    return PACKAGE / place if not place.exists() and place.parts[:1] == ("zoo",) else place


def write_folder(
    folder: str | Path,
    encoder: TextEncoder | None,
    decoder: TextDecoder | None,
    tokenizer: Tokenizer,
    *,
    normalizer: Normalizer | None = None,
    dtype: torch.dtype = torch.float16,
    shard: int | None = None,
) -> None:
    """Write the nets (either may be None), their tokenizer and the space's normalizer to `folder`; files appear whole.

    dtype: of the stored weights. shard: bytes of a file at most (a larger tensor has a file of its own), default all in one.

    Raises ValueError for a net whose vocabulary is not the tokenizer's, or that holds a weight that is no number in `dtype`.
    """
    folder = Path(folder)
    config = {"langs": list(tokenizer.langs), "default": tokenizer.default, "tokenizer": tokenizer.fingerprint}
    for half, net in (("encoder", encoder), ("decoder", decoder)):
        if net is not None:
            _fits(net, half, tokenizer, folder)
            state = {name: w.detach().to("cpu", dtype).contiguous() for name, w in net.state_dict().items()}
            broken = [name for name, w in state.items() if not w.isfinite().all()]
            if broken:
                raise ValueError(f"{broken[0]} of the {half} holds NaN or numbers beyond {dtype}: there is nothing to save.")
            config[half] = net.config
            _write_weights(folder, half, state, shard)
    if normalizer is not None:
        save(normalizer, folder / NORMALIZER)
    tokenizer.save(folder / PIECES)
    put(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n"))


def open_folder(folder: str | Path, dtype: torch.dtype = torch.float32) -> Opened:
    """What `write_folder` or a run of `zoo.sonar.AutoEncoder` wrote, on the CPU, in `dtype` and in evaluation mode.

    Raises FileNotFoundError or ValueError, in a sentence, for a folder that is missing, damaged, or of parts that do not fit.
    """
    folder = located(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder / CONFIG} is missing: give a folder that zoo.sonar.folder.write_folder wrote.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        of_a_run = "class" in config
        langs, default, digest = (None,) * 3 if of_a_run else (config["langs"], config["default"], config["tokenizer"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / CONFIG} is damaged or of another kind of net: save the space again.") from None
    if of_a_run:
        return _of_a_run(folder, dtype)
    tokenizer = Tokenizer(folder / PIECES, langs, default)
    if tokenizer.fingerprint != digest:
        raise ValueError(f"{folder / PIECES} is not the model that the nets in {folder} were saved with: copy the whole folder.")
    nets = {}
    for half, kind in HALVES.items():
        if half in config:
            path = folder / f"{half}.safetensors"
            path = path if path.is_file() else folder / half
            nets[half] = filled(kind, config[half], read_weights(path), str(path), dtype)
            _fits(nets[half], half, tokenizer, folder)
    normalizer = opened(Normalizer, folder / NORMALIZER) if (folder / NORMALIZER).is_file() else None
    return Opened(nets.get("encoder"), nets.get("decoder"), tokenizer, normalizer)


def _of_a_run(folder: Path, dtype: torch.dtype) -> Opened:
    """What a training run left: its net, with the tokenizer in a folder of its own."""
    from zoo.pretrained import from_pretrained

    net, tokenizer = from_pretrained(folder).to(dtype), Tokenizer.opened(folder / "tokenizer")
    halves = [getattr(net, half, None) for half in HALVES]
    if not all(isinstance(half, kind) for half, kind in zip(halves, HALVES.values())):
        raise ValueError(f"{folder} holds a {type(net).__name__}, which has no encoder and decoder of a space.")
    if getattr(net, "borrowed", False):  # its encoder is that of another space, with another tokenizer
        halves[0] = None
    for name, half in zip(HALVES, halves):
        if half is not None:
            _fits(half, name, tokenizer, folder)
    return Opened(*halves, tokenizer, None)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint: a .safetensors file, a file of torch.save, or a folder with shards of either kind.

    A top-level "model", as sonar-space's released files have it, is looked into. Nothing but tensors is unpickled.
    Raises FileNotFoundError or ValueError, in a sentence, for what is missing, damaged, or no checkpoint of SONAR's.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    files = sorted(path.glob("*.safetensors")) or sorted(file for kind in ("pt", "pth", "bin") for file in path.glob(f"*.{kind}"))
    if not files:
        raise FileNotFoundError(f"{path} holds no .safetensors and no .pt files: give the checkpoint's file or folder.")
    weights: dict[str, Tensor] = {}
    for file in files:
        part = _read_file(file)
        both = weights.keys() & part.keys()
        if both:
            raise ValueError(f"{min(both)} is in two files of {path}: keep the shards of one checkpoint there.")
        weights |= part
    return weights


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Fill a TextEncoder or TextDecoder that is there already with a checkpoint of sonar-space's (see `read_weights`)."""
    weights = read_weights(path)
    _check(net, weights, str(path))
    net.load_state_dict(weights)


def filled(kind: type, config: dict, weights: dict[str, Tensor], source: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A net of class `kind` with these weights, made without initialising it first, in evaluation mode."""
    try:
        with torch.device("meta"):
            net = kind(**config)
    except TypeError:
        raise ValueError(f"The sizes of {source} are not those of a {kind.__name__}: save the space again.") from None
    _check(net, weights, source)
    net.load_state_dict({name: w.to(dtype) for name, w in weights.items()}, assign=True)
    return net.eval()


def _check(net: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Raise ValueError, in a sentence, where the weights are not those of `net`."""
    wanted, extra = net.state_dict(), set(weights) - {"final_proj.weight"}
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(extra - wanted.keys())
    if missing or extra:
        said = f"lacks {missing[0]}" if missing else f"has {extra[0]}, for which there is no place"
        raise ValueError(f"{source} {said}: it is no checkpoint of a {type(net).__name__} with {net.config['layers']} layers.")
    for name, w in wanted.items():
        if weights[name].shape != w.shape:
            raise ValueError(
                f"{name} is {tuple(weights[name].shape)} in {source} and {tuple(w.shape)} in the net: give it these sizes."
            )
        if not weights[name].isfinite().all():
            raise ValueError(f"{name} in {source} holds NaN or infinite numbers: fetch or train it again.")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: give its file, or the folder with its shards.")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of many kinds, pickle's own and what weights_only refuses among them
        raise ValueError(
            f"{path} cannot be read as a file of tensors: fetch it again, or save the state_dict alone ({type(error).__name__})."
        ) from None
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    if isinstance(found, dict) and "state_dict" in found:
        raise ValueError(f"{path} has fairseq's old names: open it by its card's name, sonar-space renames them.")
    if not isinstance(found, dict) or not all(isinstance(w, Tensor) for w in found.values()):
        raise ValueError(f"{path} holds no state_dict under sonar-space's names: save the text encoder's or decoder's alone.")
    return found


def _write_weights(folder: Path, half: str, state: dict[str, Tensor], shard: int | None) -> None:
    metadata = {"format": "pt"}  # one key: of several, safetensors draws the order, and equal weights would be unequal files
    whole, parts = folder / f"{half}.safetensors", folder / half
    if shard is None:
        put(whole, lambda path: save_file(state, path, metadata))
        groups = []
    else:
        groups, room = [], 0
        for name, w in state.items():
            if w.nbytes > room:
                groups.append({})
                room = max(shard, w.nbytes)
            groups[-1][name] = w
            room -= w.nbytes
        for number, group in enumerate(groups, 1):
            name = f"model-{number:05}-of-{len(groups):05}.safetensors"
            put(parts / name, lambda path, group=group: save_file(group, path, metadata))
        whole.unlink(missing_ok=True)
    for old in parts.glob("*.safetensors"):
        if not old.name.endswith(f"-of-{len(groups):05}.safetensors"):
            old.unlink()


def _fits(net: nn.Module, half: str, tokenizer: Tokenizer, folder: Path) -> None:
    if net.vocab != tokenizer.vocab:
        raise ValueError(
            f"The {half} for {folder} has {net.vocab} token ids and the tokenizer {tokenizer.vocab}: give the tokenizer that it "
            "was trained with."
        )
