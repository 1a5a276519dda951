"""Values read from a file as the types that dataclasses declare; whatever is wrong is one sentence with the nearest right key."""

import difflib
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def typed(kind: Any, value: Any, place: str, file: str) -> Any:
    """`value` as the type `kind`: dataclasses, lists, dicts with text keys, Literal, `X | None`, and plain values."""
    origin, inner = get_origin(kind), get_args(kind)
    wrong = ValueError(f"{file}: {place or 'the file'} must be {_words(kind)}, not {value!r}.")
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else typed(inner[0], value, place, file)
    if origin is Literal:
        if value not in inner:
            raise wrong
        return value
    if origin is list:
        if not isinstance(value, list):
            raise wrong
        return [typed(inner[0], item, f"{place}[{i}]", file) for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise wrong
        return {key: typed(inner[1], item, f"{place}.{key}", file) for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong
        return _filled(kind, value, place, file)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        hint = " Put it in quotes." if kind is str else ""
        raise ValueError(f"{wrong}{hint}")
    return value


def _filled(kind: type, value: dict, place: str, file: str) -> Any:
    prefix = f"{place}." if place else ""
    known = {f.name: f for f in fields(kind)}
    for key in value:
        if key not in known:
            raise ValueError(f"{file}: there is no key {prefix + str(key)!r}{nearest(str(key), known)}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{file}: the key {prefix + name!r} is missing.")
    hints = get_type_hints(kind)
    return kind(**{key: typed(hints[key], item, prefix + key, file) for key, item in value.items()})


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "keys and values",
    }
    return names.get(get_origin(kind) or kind, "keys and values")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest right one, or all there are."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {match[0]!r}?" if match else f": there are {', '.join(known)}."
