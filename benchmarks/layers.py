"""Layered YAML: files read and merged, values spelt as a command line spells them."""

from pathlib import Path
from typing import Any

import yaml


def read(path: Path, root: Path) -> dict:
    """Keys and values of a file; each alias becomes a value of its own, since a change of one would else be a change of all.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or is no YAML of keys and values; root shortens its name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path.relative_to(root) if path.is_relative_to(root) else path}.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} must hold keys and values, not {type(data).__name__}.")
    return apart(data)


def apart(value: Any) -> Any:
    """A value of which no part is shared."""
    if isinstance(value, dict):
        return {key: apart(each) for key, each in value.items()}
    return [apart(each) for each in value] if isinstance(value, list) else value


def spelt(value: Any) -> str:
    """A value as the command line spells it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def merge(base: dict, top: dict) -> None:
    """Lay `top` over `base`, key by key, in place."""
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
