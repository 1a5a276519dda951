"""Spaces by name, wherever one is asked for: a folder, or several sources joined by "+".

A source is a folder (zoo.sonar.folder), a card of sonar-space, which brings one half, or the file of a normalizer. A later one
takes the place of what an earlier one brought:

    text_sonar_basic_encoder+text_sonar_basic_decoder      SONAR itself
    zoo/sonar/small+text_sonar_finetuned_decoder           a folder's encoder and normalizer, and the decoder of a card
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from zoo.nn.normalizer import Normalizer
from zoo.saved import opened
from zoo.sonar.folder import CONFIG, Opened, located, open_folder
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import Tokenizer


class Parts(NamedTuple):
    """What sources bring together; `source` and `target` are the tokenizers of encoder and decoder, which may be two."""

    encoder: TextEncoder | None = None
    decoder: TextDecoder | None = None
    source: Tokenizer | None = None
    target: Tokenizer | None = None
    normalizer: Normalizer | None = None


def sources(space: str | os.PathLike) -> list[str]:
    """The sources that a name joins. What is there on disk is one, whatever its name."""
    name = os.fspath(space)
    return [name] if os.path.exists(name) else [part.strip() for part in name.split("+")]


def found_at(source: str) -> Path | None:
    """The folder or the normalizer's file that a source is, None of a card's name. Raises FileNotFoundError, in a sentence, of a
    path where neither is."""
    place = located(source)
    if place.is_dir() or (place.suffix == ".safetensors" and place.is_file()):
        return place
    if place.exists() or os.sep in source:
        raise FileNotFoundError(f"{source} is no folder: give the one that holds {CONFIG}, or a card's name.")
    return None


def open_parts(*names: str | os.PathLike, dtype: torch.dtype = torch.float32) -> Parts:
    """What these names stand for, on the CPU, in `dtype`.

    Raises FileNotFoundError, ValueError, ImportError (no sonar-space) or OSError (weights that cannot be fetched), in a sentence.
    """
    found = Parts()
    for source in (source for name in names for source in sources(name)):
        place = found_at(source)
        if place is None:
            from zoo.sonar.cards import from_card

            net, tokens = from_card(source, dtype)
            brought = Parts(encoder=net, source=tokens) if isinstance(net, TextEncoder) else Parts(decoder=net, target=tokens)
        elif place.is_dir():
            here = open_folder(place, dtype)
            brought = Parts(
                here.encoder, here.decoder, here.encoder and here.tokenizer, here.decoder and here.tokenizer, here.normalizer
            )
        else:
            brought = Parts(normalizer=opened(Normalizer, place))
        found = Parts(*(old if new is None else new for old, new in zip(found, brought)))
    return found


def open_named(space: str | os.PathLike, dtype: torch.dtype = torch.float32) -> Opened:
    """What a name stands for as `open_folder` gives it. ValueError, beside what `open_parts` raises, where encoder and decoder
    have different tokenizers."""
    if located(space).is_dir():
        return open_folder(space, dtype)
    found = open_parts(space, dtype=dtype)
    tokenizer = found.source or found.target
    if tokenizer is None:
        raise ValueError(f"{space} holds no encoder and no decoder: name a folder, or cards, beside the normalizer.")
    if found.target is not None and found.target.fingerprint != tokenizer.fingerprint:
        raise ValueError(f"The encoder and the decoder of {space} have different tokenizers: give halves that share one.")
    return Opened(found.encoder, found.decoder, tokenizer, found.normalizer)


def tokenizer_of(space: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a name's first source, of which no net is opened. Raises what `open_parts` raises."""
    first = sources(space)[0]
    place = found_at(first)
    if place is not None:
        return Tokenizer.opened(place)
    from zoo.sonar.cards import tokenizer_of_card

    return tokenizer_of_card(first)
