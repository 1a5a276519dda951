"""A source for the tests of stores, in a file of its own because worker processes must be able to import it."""

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import NamedTuple


class Document(NamedTuple):
    text: str
    id: str
    split: str


class Words:
    """A corpus of random words: `count` parts with `size` documents each. Only every third part holds validation documents."""

    description = "random words"

    def __init__(self, count: int = 5, size: int = 40, pause: float = 0.0, fault: str = "", log: Path | None = None):
        self.count, self.size, self.pause, self.fault, self.log = count, size, pause, fault, log
        self.fingerprint = f"words {count} {size}"

    def parts(self):
        return list(range(self.count))

    def read(self, part):
        draw = random.Random(part)
        if self.log:
            (self.log / str(os.getpid())).touch()
        for i in range(self.size):
            if self.fault and multiprocessing.parent_process() is not None:  # in a worker
                if self.fault == "exit":
                    os._exit(9)
                raise {"error": ValueError("line 7 is no JSON"), "bug": KeyError("oops")}[self.fault]
            time.sleep(self.pause)
            text = " ".join(draw.choices(["alpha", "beta", "γάμμα", "\n", "<|endoftext|>", "x" * 50], k=draw.randrange(60)))
            yield Document(text, f"{part}-{i}", "validation" if part % 3 == 0 and i % 10 == 3 else "train")

    def documents(self, split=None):
        return (document for part in self.parts() for document in self.read(part) if split in (None, document.split))
