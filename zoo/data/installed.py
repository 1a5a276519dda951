"""Text that is on every machine: the Python code, or the documentation in it, of an explicit list of installed distributions.

`installed.txt` pins each of them to a version, a hash of its files and a split, so the corpus is the same wherever it is read and
does not change when the lock file gains a package. No standard library, and no package that carries an evaluation set.

    python -m zoo.data.installed           what is kept and dropped, per kind and split
    python -m zoo.data.installed --lock    write versions and hashes of what is installed here into installed.txt
"""

import base64
import csv
import hashlib
import importlib.metadata
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from zoo.data.overlap import ngrams, overlaps
from zoo.data.prose import prose
from zoo.data.sources import Document, Files, Source, digest, identity
from zoo.explain import Told

LOCK = Path(__file__).with_name("installed.txt")
RULES = 1  # part of the fingerprint: raise it when what is kept or extracted changes
PART = 4_000_000  # bytes of code in one part

# Built per platform or Python version, so they are neither read nor hashed.
VARIES = re.compile(r"(?:^|/)(?:__config__|_?version|_distributor_init\w*)\.py$|^numpy/distutils/|\.dist-info/|(?:^|/)\.\./")
GENERATED = re.compile(
    rb"(?im)^[ \t]*#.*(?:auto(?:matically)?[- ]?generated|generated (?:by|from|with)|do not (?:edit|modify)|@generated)"
)
LETTERS = bytes(i for i in range(128) if chr(i).isalpha())


class Pin(NamedTuple):
    split: str
    name: str
    version: str
    content: str


class File(NamedTuple):
    distribution: str
    path: str
    sha256: str  # of the bytes, as RECORD writes it
    size: int
    split: str


class Installed(Source):
    """Documents from installed distributions, in the order of their hashes, so that any first part of them is a fair sample.

    Dropped are generated, data-like, minified and tiny files, exact duplicates (the first in installed.txt wins) and what
    overlaps `exclude`. The split is a property of the distribution, so token and sentence views, code and prose, share it.

    Args:
        kind: "code": a document is one file. "prose": a document is the prose of one module (`zoo.data.prose`), without
            paragraphs that another module of its distribution has already said; modules with less than 200 bytes are left out.
        megabytes: at most so much text (10⁶ bytes) for training; validation and test get a twentieth of that, but 1 MB at least.
        exclude: paths or globs of benchmark files (.jsonl, .jsonl.gz); a file that shares 13 words in a row with them is dropped.
        verify: False accepts other versions and files than installed.txt names, and skips what is missing: another corpus with
            another fingerprint, and a warning.
        lock, site: another list, and another folder of distributions, than this environment's.

    Raises RuntimeError when a distribution is missing, has another version or has been edited.
    """

    def __init__(
        self,
        kind: Literal["code", "prose"] = "code",
        megabytes: float | None = None,
        exclude: list[str] | None = None,
        verify: bool = True,
        lock: str | None = None,
        site: str | None = None,
    ):
        if kind not in ("code", "prose"):
            raise ValueError(f"kind is {kind!r}: the installed corpus has 'code' and 'prose'")
        self.kind, self.megabytes, self.exclude, self.verify = kind, megabytes, list(exclude or []), verify
        self.lock, self.site = Path(lock or LOCK), site
        self._folders: dict[str, Path] = {}

    def __getstate__(self) -> dict:
        """Workers get parts that say it all, so the plan stays here."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_plan", "_found")}

    @property
    def description(self) -> str:
        if self.kind == "code":
            return "Python code of installed packages"
        return "Python documentation of installed packages (not OpenWebText)"

    @cached_property
    def fingerprint(self) -> str:
        """With `verify` a function of installed.txt and the options alone: the packages are checked when they are read."""
        pins = read_lock(self.lock) if self.verify else [pin for pin, _ in self._found]
        exclude = Files(self.exclude).fingerprint if self.exclude else None
        return digest("installed", RULES, self.kind, self.megabytes, exclude, pins)

    @property
    def dropped(self) -> Counter:
        """Reason → number of files left out of the corpus (under a cap, of those that were looked at)."""
        return self._plan[1]

    def parts(self) -> list[tuple[File, ...]]:
        """Files that are read together: a few MB of code, or all of a distribution's for prose, whose repetitions are dropped."""
        groups: dict[int | str, list[File]] = defaultdict(list)
        total = 0
        for file in self._plan[0]:
            groups[total // PART if self.kind == "code" else file.distribution].append(file)
            total += file.size
        return [tuple(groups[key]) for key in sorted(groups)]

    def read(self, part: tuple[File, ...]) -> Iterator[Document]:
        seen: set[str] = set()
        for file in part:
            text = _text(self._bytes(file))
            if self.kind == "prose":
                text = _new_prose(text, seen)
                seen.update(text.split("\n\n"))
            if text:
                yield Document(text, identity(text), file.split)

    @cached_property
    def _plan(self) -> tuple[list[File], Counter]:
        benchmark = ngrams(Files(self.exclude).paths) if self.exclude else None
        files, dropped = self._unique()
        cap = self.megabytes * 1e6 if self.megabytes else float("inf")
        room = {"train": cap, "validation": max(cap / 20, 1e6), "test": max(cap / 20, 1e6)}
        full = {split: 0.01 * size for split, size in room.items()} if self.megabytes else dict.fromkeys(room, 0)
        kept, seen = [], defaultdict(set)
        for file in files:
            if room[file.split] <= full[file.split] or (self.kind == "code" and file.size > room[file.split]):
                continue
            data, size = self._bytes(file), file.size
            reason = _unfit(data) or (benchmark and overlaps(_text(data), benchmark) and "overlaps a benchmark")
            if not reason and self.megabytes and self.kind == "prose":  # without a cap only `read` needs the prose
                text = _new_prose(_text(data), seen[file.distribution])
                size = len(text.encode())
                if size > room[file.split]:
                    continue
                seen[file.distribution].update(text.split("\n\n"))
                reason = not text and "little prose"
            if reason:
                dropped[reason] += 1
            else:
                kept.append(file)
                room[file.split] -= size
        return kept, dropped

    def _unique(self) -> tuple[list[File], Counter]:
        """Every listed file once, in the order of the hashes."""
        files: dict[str, File] = {}
        dropped = Counter()
        for pin, listing in self._found:
            for path, sha256, size in listing:
                if sha256 in files:
                    dropped["duplicate"] += 1
                else:
                    files[sha256] = File(pin.name, path, sha256, size, pin.split)
        return [files[sha256] for sha256 in sorted(files)], dropped

    @cached_property
    def _found(self) -> list[tuple[Pin, list[tuple[str, str, int]]]]:
        """The distributions as they are here, checked against installed.txt."""
        found = []
        for pin in read_lock(self.lock):
            distribution = self._distribution(pin.name)
            listing = _listing(distribution, trust=self.verify) if distribution else []
            here = Pin(pin.split, pin.name, distribution.version if distribution else "", _content(listing))
            wrong = self._complaint(pin, here)
            if wrong and self.verify:
                raise Told(
                    f"the installed corpus is made of {pin.name}=={pin.version}, but {wrong}: run `make setup`, "
                    "or accept another corpus with `--data.init_args.verify=false`"
                )
            if wrong:
                warnings.warn(f"the installed corpus is not the pinned one ({pin.name}=={pin.version}: {wrong})", stacklevel=2)
            if distribution:
                found.append((here, listing))
        return found

    def _complaint(self, pin: Pin, here: Pin) -> str | None:
        if not here.version:
            return "it is not installed"
        if here.version != pin.version:
            return f"{here.version} is installed"
        return "its files are not those that installed.txt was made from" if here.content != pin.content else None

    def _distribution(self, name: str) -> importlib.metadata.Distribution | None:
        where = {"path": [self.site]} if self.site else {}
        return next(iter(importlib.metadata.distributions(name=name, **where)), None)

    def _bytes(self, file: File) -> bytes:
        if file.distribution not in self._folders:
            self._folders[file.distribution] = Path(str(self._distribution(file.distribution).locate_file("")))
        path = self._folders[file.distribution] / file.path
        data = path.read_bytes() if path.exists() else b""
        if _sha256(data) != file.sha256:
            raise Told(
                f"{file.path} of {file.distribution} was edited or removed after it was installed: reinstall "
                f"{file.distribution}, or accept another corpus with `--data.init_args.verify=false`"
            )
        return data


def read_lock(path: Path) -> list[Pin]:
    """Lines `split name==version hash`; `#` begins a comment. A line just added may lack version and hash until `--lock`."""
    pins = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split("#")[0].split()
        if fields:
            name, _, version = fields[1].partition("==")
            pins.append(Pin(fields[0], name, version, fields[2] if len(fields) > 2 else ""))
    return pins


def _listing(distribution: importlib.metadata.Distribution, trust: bool = True) -> list[tuple[str, str, int]]:
    """(path, sha256, bytes) of the .py files a distribution installed, sorted by path: as its RECORD says, or as they are now."""
    rows = sorted(csv.reader((distribution.read_text("RECORD") or "").splitlines()))
    rows = [row for row in rows if row[0].endswith(".py") and not VARIES.search(row[0])]
    if trust:
        return [(path, sha256.removeprefix("sha256="), int(size)) for path, sha256, size in rows]
    files = {path: Path(str(distribution.locate_file(path))) for path, _, _ in rows}
    return [(path, _sha256(file.read_bytes()), file.stat().st_size) for path, file in files.items() if file.exists()]


def _content(listing: list[tuple[str, str, int]]) -> str:
    return digest([[path, sha256] for path, sha256, _ in listing])


def _sha256(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def _unfit(data: bytes) -> str | None:
    """Why a file is no hand-written code, if so. The limits were set by looking at what they drop from the list."""
    if len(data) < 200:
        return "tiny"
    if GENERATED.search(data, 0, 3000):
        return "generated"
    if len(data) > 1_000_000 or max(map(len, data.split(b"\n"))) > 2500:
        return "huge file or line"
    ink = len(data.translate(None, b" \t\r\n"))
    share = {
        name: (len(data) - len(data.translate(None, characters))) / max(ink, 1)
        for name, characters in (("letters", LETTERS), ("digits", b"0123456789"), ("quotes", b"'\","))
    }
    if share["letters"] < 0.5 or share["digits"] > 0.15 or share["quotes"] > 0.15:
        return "mostly data"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    return None


def _new_prose(source: str, seen: set[str]) -> str:
    """The paragraphs of a module that are not in `seen`, or nothing if they are short."""
    text = "\n\n".join(paragraph for paragraph in prose(source) if paragraph not in seen)
    return text if len(text.encode()) >= 200 else ""


def relock(path: Path, site: str | None = None) -> None:
    """Write the versions and hashes that are installed here into the list, and the MB of code kept from each distribution."""
    heading = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    source, kept = Installed(verify=False, lock=str(path), site=site), Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it differs from the list is why we are here
        for part in source.parts():
            for file in part:
                kept[file.distribution] += file.size
    missing = [pin.name for pin in read_lock(path) if pin.name not in {found.name for found, _ in source._found}]
    if missing:
        raise Told(f"{path} lists {', '.join(missing)}, not installed here: install them or take them off the list")
    lines = [
        f"{pin.split:<11}{f'{pin.name}=={pin.version}':<27}{pin.content}  # {kept[pin.name] / 1e6:.1f} MB"
        for pin, _ in source._found
    ]
    path.write_text("\n".join([*heading, *lines, ""]), encoding="utf-8")


def report() -> None:
    """Print what is kept and dropped, per kind and split."""
    for kind in ("code", "prose"):
        source, start = Installed(kind), time.perf_counter()
        parts = source.parts()
        print(
            f"{source.description}: {len(parts)} parts planned in {time.perf_counter() - start:.1f} s; "
            f"files dropped: {', '.join(f'{count} {reason}' for reason, count in source.dropped.most_common())}"
        )
        size, count = Counter(), Counter()
        for document in source.documents():
            size[document.split] += len(document.text.encode())
            count[document.split] += 1
        for split in size:
            print(f"  {split:<11}{size[split] / 1e6:8.2f} MB {count[split]:7d} documents")
        print(f"  {'all':<11}{size.total() / 1e6:8.2f} MB {count.total():7d} documents, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    if sys.argv[1:] == ["--lock"]:
        relock(LOCK)
    report()
