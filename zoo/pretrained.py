"""Nets on disk: a folder with config.json and model.safetensors, ours or in transformers' GPT-2 and Llama layouts."""

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.data.tokenizer import load_tokenizer
from zoo.files import put
from zoo.ntp.net import NextToken

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(net: nn.Module, folder: str | Path, tokenizer_folder: str | Path | None = None) -> None:
    """Write `net` (its class, its `config`, its weights) to `folder`, and a copy of the tokenizer to `folder`/tokenizer.

    Each file appears whole or not at all; the weights name the configuration they belong to, so a mixture is noticed on loading.
    """
    config = {"class": f"{type(net).__module__}.{type(net).__qualname__}", "config": net.config}
    _write(Path(folder), config, net.state_dict(), {"zoo": json.dumps(config, sort_keys=True)})
    if tokenizer_folder is not None:
        shutil.copytree(tokenizer_folder, Path(folder) / "tokenizer", dirs_exist_ok=True)


def from_pretrained(folder: str | Path) -> nn.Module:
    """The net that `save_pretrained` wrote to `folder`, on the CPU and in evaluation mode.

    Raises FileNotFoundError or ValueError, in a sentence, for a folder that is missing, damaged, or not ours.
    """
    folder = Path(folder)
    config = _config(folder)
    if "class" not in config or not isinstance(config.get("config"), dict):
        raise ValueError(
            f"{folder / CONFIG} was not written by save_pretrained: for a transformers folder use from_transformers."
        )
    cls, (weights, metadata) = _net_class(config["class"], folder), _read(folder)
    if metadata.get("zoo") != json.dumps(config, sort_keys=True):
        raise ValueError(f"{CONFIG} and {WEIGHTS} in {folder} do not belong together: save the net again.")
    return _fill(cls, config["config"], weights, folder)


class Saved(nn.Module):
    """A net that is there already, where a recipe makes one: `net: {class_path: zoo.pretrained.Saved, init_args: {folder: …}}`.

    With `trainer.max_steps: 0` it is tested as it is; else training goes on from its weights. What is made is the net itself, of
    its own class, as `from_pretrained` gives it: a recipe's `net` has to name a Module, so this is one by name.

    Args:
        vocab, context: of the data that it is to read.
        folder: what `save_pretrained` wrote.

    Where a token net has its tokenizer beside it, `tokenizer_fingerprint` is that one's, which a run compares
    with its data's.

    Raises FileNotFoundError or ValueError, in a sentence, where the folder holds no net, or none for these data.
    """

    def __new__(cls, vocab: int, context: int, folder: str) -> nn.Module:
        net = from_pretrained(folder)
        if net.vocab != vocab:
            raise ValueError(
                f"The net in {folder} has {net.vocab} token ids and the data {vocab}: give the data the tokenizer that it was "
                "trained with, which lies beside it."
            )
        net.trunk.fits(context)
        if (Path(folder) / "tokenizer" / "tokenizer.json").is_file():
            net.tokenizer_fingerprint = load_tokenizer(Path(folder) / "tokenizer").fingerprint
        # Like a net that was just made: in training, and where `with torch.device(…)` wants it ("meta", where nets are counted).
        return net.train().to(torch.empty(0).device)

    def __init__(self, vocab: int, context: int, folder: str):  # for the command line, which reads the arguments here
        raise AssertionError("__new__ gives a net of another class, so this never runs.")


def to_transformers(net: nn.Module, folder: str | Path) -> None:
    """Write what transformers' GPT2LMHeadModel or LlamaForCausalLM loads with equal logits.

    Of a net with more heads its next-token model is written (`next_token_weights`): the trunk and head 1, and nothing of heads
    2..n unless head 1 lies on them.
    """
    trunk, state = net.trunk, net.next_token_weights()
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("trunk.layers."))
    tied = "trunk.output.weight" not in state
    layout = LAYOUTS[trunk.flavour]
    sizes = {
        "vocab": trunk.embedding.num_embeddings,
        "context": trunk.positions,
        "dim": trunk.dim,
        "layers": layers,
        "heads": trunk.heads,
        "hidden": trunk.hidden,
        "eps": trunk.eps,
        "theta": trunk.theta,
    }
    config = {theirs: sizes[ours] for ours, theirs in layout.sizes.items()} | layout.fixed
    config |= dict.fromkeys(layout.dropouts, trunk.dropout)
    config |= {"model_type": trunk.flavour, "architectures": [layout.architecture], "tie_word_embeddings": tied}
    config |= {"bos_token_id": None, "eos_token_id": None}  # their defaults lie outside a small vocabulary
    weights = {}
    for ours, theirs, transposed in layout.weights(layers, tied):
        for name, w in zip(theirs, state[ours].chunk(len(theirs))):
            weights[layout.name(name)] = w.t() if transposed else w
    _write(Path(folder), config, weights, {"format": "pt"})


def from_transformers(folder: str | Path) -> NextToken:
    """Read a folder of transformers' GPT-2 or Llama layout (config.json, model.safetensors or its shards); logits are equal.

    Raises FileNotFoundError or ValueError, in a sentence, for what is missing, damaged, or another architecture.
    """
    folder = Path(folder)
    given = _config(folder)
    layout = LAYOUTS.get(given.get("model_type"))
    if layout is None:
        raise ValueError(
            f"{folder} holds a model of type {given.get('model_type')!r}: only 'gpt2' and 'llama' layouts can be read."
        )
    given |= given.get("rope_parameters") or {}  # where transformers 5 keeps theta
    config = {ours: given.get(theirs, layout.defaults.get(ours)) for ours, theirs in layout.sizes.items()}
    missing = [layout.sizes[ours] for ours in ("vocab", "context", "dim", "layers", "heads") if config[ours] is None]
    if missing:
        raise ValueError(f"{folder / CONFIG} has no {missing[0]}: it is no complete transformers configuration.")
    usual = layout.fixed | {
        "num_key_value_heads": config["heads"],
        "head_dim": config["dim"] // config["heads"],
        "rope_type": "default",
    }
    for key, value in usual.items():
        if given.get(key) not in (value, None):
            raise ValueError(f"{folder / CONFIG} asks for {key} = {given[key]!r}, but this trunk has {value!r} only.")
    config |= {"flavour": given["model_type"], "tied": given.get("tie_word_embeddings", layout.defaults["tied"])}
    found = {name.removeprefix(layout.prefix): w for name, w in _read(folder)[0].items()}
    weights = {}
    for ours, theirs, transposed in layout.weights(config["layers"], config["tied"]):
        for name in theirs:
            if name not in found:
                raise ValueError(
                    f"The weights in {folder} lack {layout.name(name)}: the folder is incomplete or another architecture."
                )
        weights[ours] = torch.cat([found[name].t() if transposed else found[name] for name in theirs])
    return _fill(NextToken, config, weights, folder)


class Layout(NamedTuple):
    """How transformers names the parts of one flavour."""

    architecture: str
    prefix: str  # of every weight but lm_head
    sizes: dict[str, str]  # our arguments: their configuration keys
    defaults: dict  # of ours, where their file may leave a key out
    fixed: dict  # their keys that must have these values
    dropouts: list[str]
    top: dict[str, str]  # our weights outside the blocks: theirs
    block: dict[str, list[str]]  # our parts of a block: theirs, fused here where there are several
    layer: str  # their prefix of a block's parts
    transposed: bool  # whether their projections are stored (in, out)
    biases: bool

    def name(self, weight: str) -> str:
        return weight if weight.startswith("lm_head") else self.prefix + weight

    def weights(self, layers: int, tied: bool) -> Iterator[tuple[str, list[str], bool]]:
        """Our name of every weight of a NextToken, their names without prefix, and whether theirs is transposed."""
        for ours, theirs in {**self.top, **({} if tied else {"output.weight": "lm_head.weight"})}.items():
            yield f"trunk.{ours}", [theirs], False
        for i in range(layers):
            for ours, theirs in self.block.items():
                for kind in ("weight", "bias") if self.biases else ("weight",):
                    names = [f"{self.layer}.{i}.{part}.{kind}" for part in theirs]
                    yield f"trunk.layers.{i}.{ours}.{kind}", names, self.transposed and kind == "weight" and "norm" not in ours


LAYOUTS = {
    "gpt2": Layout(
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        sizes={
            "vocab": "vocab_size",
            "context": "n_positions",
            "dim": "n_embd",
            "layers": "n_layer",
            "heads": "n_head",
            "hidden": "n_inner",
            "eps": "layer_norm_epsilon",
        },
        defaults={"tied": True, "eps": 1e-5},
        fixed={"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        dropouts=["resid_pdrop", "embd_pdrop", "attn_pdrop"],
        top={
            "embedding.weight": "wte.weight",
            "position_embedding.weight": "wpe.weight",
            "norm.weight": "ln_f.weight",
            "norm.bias": "ln_f.bias",
        },
        block={
            "attention_norm": ["ln_1"],
            "attention.qkv": ["attn.c_attn"],
            "attention.out": ["attn.c_proj"],
            "mlp_norm": ["ln_2"],
            "mlp.up": ["mlp.c_fc"],
            "mlp.down": ["mlp.c_proj"],
        },
        layer="h",
        transposed=True,
        biases=True,
    ),
    "llama": Layout(
        architecture="LlamaForCausalLM",
        prefix="model.",
        sizes={
            "vocab": "vocab_size",
            "context": "max_position_embeddings",
            "dim": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "hidden": "intermediate_size",
            "eps": "rms_norm_eps",
            "theta": "rope_theta",
        },
        defaults={"tied": False, "eps": 1e-6, "theta": 10000.0},
        fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None},
        dropouts=["attention_dropout"],
        top={"embedding.weight": "embed_tokens.weight", "norm.weight": "norm.weight"},
        block={
            "attention_norm": ["input_layernorm"],
            "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "attention.out": ["self_attn.o_proj"],
            "mlp_norm": ["post_attention_layernorm"],
            "mlp.up": ["mlp.gate_proj", "mlp.up_proj"],
            "mlp.down": ["mlp.down_proj"],
        },
        layer="layers",
        transposed=False,
        biases=False,
    ),
}


def _net_class(path: object, folder: Path) -> type[nn.Module]:
    """The class named in a config; only classes of this package, for a config may come from anywhere."""
    module, _, name = str(path).rpartition(".")
    if module.split(".")[0] == "zoo":
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except ImportError:
            cls = None
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module:
            return cls
    raise ValueError(f"{folder / CONFIG} names {str(path)!r}, which is no net of this version of zoo.")


def _fill(cls: type[nn.Module], config: dict, weights: dict[str, Tensor], folder: Path) -> nn.Module:
    """Build a net and give it the weights, which must fit exactly."""
    try:
        with torch.device("meta"):  # the weights come from disk, so none are drawn
            net = cls(**config)
        net.load_state_dict(weights, assign=True)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"The weights and the configuration in {folder} do not fit this version of {cls.__name__}: "
            f"{' '.join(str(error).split())}"
        ) from None
    return net.eval()


def _write(folder: Path, config: dict, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    state = {name: w.detach().cpu().contiguous() for name, w in weights.items()}
    put(folder / WEIGHTS, lambda draft: save_file(state, draft, metadata))
    put(folder / CONFIG, lambda draft: draft.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n"))


def _config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} holds no saved net, give the folder that save_pretrained wrote.")
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged (no JSON object): save the net again.")
    return config


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a folder's safetensors file, or of its shards."""
    index = folder / f"{WEIGHTS}.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [WEIGHTS]
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{index} is damaged: fetch it again.") from None
    weights, metadata = {}, {}
    for name in shards:
        path = folder / Path(name).name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the folder is incomplete, save or fetch the net again.")
        try:
            with safe_open(path, framework="pt") as file:
                weights |= {key: file.get_tensor(key) for key in file.keys()}
                metadata |= file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated ({error}): save or fetch the net again.") from None
    return weights, metadata
