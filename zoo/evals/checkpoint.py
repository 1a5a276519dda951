"""A trained net with its tokenizer, from whichever folder holds one."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from torch import nn

from zoo.data.tokenizer import Tokenizer, load_tokenizer
from zoo.pretrained import CONFIG, WEIGHTS, from_pretrained, from_transformers


class Checkpoint(NamedTuple):
    """folder: where the weights are. prefix: tokens that this tokenizer puts before every text; none for nets trained here."""

    folder: Path
    net: nn.Module
    tokenizer: Tokenizer
    prefix: list[int]

    @property
    def digest(self) -> str:
        """sha256 of the weight files."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """The net in a folder of save_pretrained, in a run folder (its pretrained/), or in a transformers GPT-2 or Llama folder.

    Raises FileNotFoundError or ValueError, in a sentence, for a folder that holds none, and where net and tokenizer do not fit.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give a run folder, or one that save_pretrained wrote.")
    if not (folder / CONFIG).is_file() and (folder / "pretrained" / CONFIG).is_file():
        folder = folder / "pretrained"
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no saved net ({CONFIG}, {WEIGHTS}): give a run folder with pretrained/ in it, which a finished fit "
            "leaves, or one that save_pretrained wrote."
        )
    try:
        ours = "class" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        ours = True  # damaged: from_pretrained says so
    net = from_pretrained(folder) if ours else from_transformers(folder)
    home = folder / "tokenizer" if (folder / "tokenizer").is_dir() or ours else folder
    if not home.is_dir():
        raise FileNotFoundError(f"{home} is missing: save the net with its tokenizer, save_pretrained(net, folder, tokenizer).")
    tokenizer = load_tokenizer(str(home))
    if tokenizer.vocab > net.vocab:
        raise ValueError(
            f"The tokenizer in {home} has {tokenizer.vocab} ids, the net only {net.vocab}: it belongs to another net, give the "
            "one it was trained with."
        )
    return Checkpoint(folder, net, tokenizer, [] if ours else _prefix(home / "tokenizer.json"))


def _prefix(path: Path) -> list[int]:
    """What a transformers tokenizer puts before a text: nothing for GPT-2, <s> for Llama."""
    if not path.is_file():  # GPT-2's older pair of files
        return []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    marked, plain = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    return marked[: len(marked) - len(plain)] if marked[-len(plain) :] == plain else []
