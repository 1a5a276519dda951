"""One sentence for what went wrong, and for a word that is not known."""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path


class Told(RuntimeError):
    """A sentence for whoever gave the command; it is printed as it is."""


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """End the process with one sentence and exit code 1 where what is inside fails; ZOO_TRACEBACK=1 shows where instead."""
    try:
        yield
    except Exception as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        sys.exit(f"zoo: {explain(error)}")


def explain(error: Exception) -> str:
    """One sentence for a failure that a user can mend."""
    from zoo.files import Unwritten

    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):
        where = getattr(error, "filename", None)
        of_run = (
            not where or str(where).endswith(".ckpt") or any((up / "checkpoints").is_dir() for up in Path(str(where)).parents[:2])
        )
        again = "resume with --ckpt_path=<run folder>/checkpoints/last.ckpt" if of_run else "run the same command again"
        return (
            f"no space is left on the disk of {where or 'the run folder'}; free some and {again} "
            "(what was written before is intact)."
        )
    text = " ".join(str(error).split())
    own = isinstance(error, (ValueError, FileNotFoundError, FloatingPointError, Told, Unwritten))
    return text if own else f"{type(error).__name__}: {text} (ZOO_TRACEBACK=1 shows where)"


def did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; the keys here are {', '.join(sorted(set(known))[:30])}."
