"""Files that are there whole or not at all: a draft beside the path gets its name when it is written and on the disk."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError


class Unwritten(OSError):
    """A file that could not be written, in a sentence; errno is the reason's, where it says one."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written: make room or give another folder ({self.strerror})."


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, then put it at `path` in place of what is there.

    Raises Unwritten where it cannot be written.
    """
    with _drafted(path, write) as draft:
        os.replace(draft, path)


def put_new(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a file that all may read, then put it at `path`, or where that is taken at stem.2.suffix, … .3 and on.

    Nothing is replaced. Returns where it is. Raises as `put`.
    """
    with _drafted(path, write) as draft:
        os.chmod(draft, 0o644)
        again, place = 1, path
        while True:
            try:
                _name(draft, place)
                return place
            except FileExistsError:
                again += 1
                place = path.with_name(f"{path.stem}.{again}{path.suffix}")


@contextlib.contextmanager
def _drafted(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """What `write` made, on the disk, hidden in the folder of `path`: several processes and machines may share it."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        yield draft
    except (OSError, SafetensorError) as error:
        told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has the number in words only
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        raise Unwritten(number, getattr(error, "strerror", None) or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _name(draft: Path, place: Path) -> None:
    """Give a draft its name: unlike a rename, FileExistsError where it is taken."""
    try:
        os.link(draft, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, as exFAT and SMB are: for a moment the file is empty
        place.touch(exist_ok=False)
        try:
            os.replace(draft, place)
        except OSError:
            place.unlink()
            raise
