"""What belongs to a sentence space beside its nets, each in one safetensors file: normalizer, quantizer, model of fragility."""

import json
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zoo.files import put
from zoo.nn.fragility import FragilityModel
from zoo.nn.normalizer import Normalizer
from zoo.nn.rvq import ResidualQuantizer

NORMALIZER = "normalizer.safetensors"  # in the folder of a space, and of a store of sentences
Part = TypeVar("Part", Normalizer, ResidualQuantizer, FragilityModel)


def save(part: Normalizer | ResidualQuantizer | FragilityModel, path: str | Path) -> None:
    """Write weights and sizes to one file, which appears whole. Raises OSError, in a sentence, where it cannot be written."""
    state = {name: tensor.cpu().contiguous() for name, tensor in part.state_dict().items()}
    metadata = {"zoo": json.dumps({"class": type(part).__name__, "config": part.config})}
    put(Path(path), lambda draft: save_file(state, draft, metadata))


def opened(kind: type[Part], path: str | Path) -> Part:
    """What `save` wrote of this class, on the CPU.

    Raises FileNotFoundError or ValueError, in a sentence, where the file is missing, damaged or something else.
    """
    name = kind.__name__
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {name} {path}: fit one on the vectors of a store.")
    try:
        with safe_open(str(path), "pt") as file:
            told = json.loads((file.metadata() or {}).get("zoo", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged: fit the {name} again on the vectors of a store.") from error
    if told.get("class") != name:
        raise ValueError(f"{path} holds {told.get('class') or 'something else'} and no {name}: give the right file.")
    part = kind(**told["config"])
    part.load_state_dict(state)
    return part
