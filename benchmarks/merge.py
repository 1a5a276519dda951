"""Adds records that were made elsewhere: `python -m benchmarks.merge records-table-mtp-1-gpu.tar.gz` (a folder, a bundle).

Every file is read as text and checked; nothing is unpacked, and nothing that is here is changed. What a record is called and
where it goes follows from its content (`benchmarks.record.save`).
"""

import argparse
import re
import sys
import tarfile
import textwrap
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import record
from benchmarks.record import Record
from benchmarks.spec import ROOT, SPECS, Run, expand, load

LARGEST = 8_000_000  # bytes of a record
PLACES = ("benchmarks/results/", "runs/records/")  # where records are in a checkout or a bundle
NAME = re.compile(r"\w[\w.-]*")  # what may become part of a path


def merge(path: Path, any_key: bool = False) -> tuple[list[Path], int, list[str]]:
    """Add the records in `path` that are not here. Returns their files, how many were here already, and complaints.

    any_key: also of runs that no spec here asks for.
    Raises FileNotFoundError or ValueError in one sentence where there is nothing to read.
    """
    records, complaints = read(path)
    if not any_key:
        known = _asked_for({r.scale for r in records})
        strange = [r for r in records if r.key not in known]
        records = [r for r in records if r.key in known]
        complaints += [
            f"{r.run}, seed {r.seed}, scale {r.scale}: no spec here asks for this run (key {r.key}): go to the commit it was "
            f"made with ({(r.commit or 'unknown')[:10]}), or say --any."
            for r in strange
        ]
    new = unknown(records)
    return [record.save(r, record.folder(r.scale)) for r in new], len(records) - len(new), complaints


def unknown(records: Iterable[Record]) -> list[Record]:
    """Those that are not here, each once."""
    here: dict[Path, list[Record]] = {}
    new = []
    for r in records:
        place = record.folder(r.scale)
        known = here.setdefault(place, record.load(place)[0] if place not in here else [])
        if r not in known:
            known.append(r)
            new.append(r)
    return new


def read(path: Path) -> tuple[list[Record], list[str]]:
    """The records in a .tar(.gz) or a folder, oldest first, and one sentence for each file that is none."""
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: name the records-….tar.gz that run.sh left, or a folder.")
    records, complaints = [], []
    for name, text in _texts(path):
        try:
            records.append(_record(text, name))
        except (ValueError, RecursionError) as error:
            complaints.append(textwrap.shorten(f"{name} is left out, it is no record ({error})", 300) + ".")
    return sorted(records, key=lambda r: r.date), complaints


def _record(text: bytes | None, name: str) -> Record:
    """The record that the text of a file spells; ValueError if it is none."""
    if text is None:
        raise ValueError(f"no plain file of at most {LARGEST // 10**6} MB")
    made = record.parse(text, Path(name).name)
    for word in (made.recipe, made.run, made.scale, made.key):
        if not NAME.fullmatch(word):
            raise ValueError(f"{word!r} is no name")
    return made


def _texts(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each .json that may be a record; the content of what is no plain small file is None."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*.json"))}
        for name in _chosen(files, path):
            plain = files[name].is_file() and not files[name].is_symlink() and files[name].stat().st_size <= LARGEST
            yield name, files[name].read_bytes() if plain else None
        return
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive if member.name.endswith(".json")}
            while archive.fileobj.read(1 << 20):  # to its end, where gzip keeps the checksum
                pass
            for name in _chosen(members, path):
                plain = members[name].isreg() and members[name].size <= LARGEST
                yield name, archive.extractfile(members[name]).read() if plain else None
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        raise ValueError(f"{path} is damaged, or no tar archive: bring it again.") from None


def _chosen(names: Iterable[str], path: Path) -> list[str]:
    """Those that may be records: of a bundle what lies in its places for records, else all."""
    names = list(names)
    if any(name.rsplit("/", 1)[-1] == "bundle.json" for name in names):
        return [name for name in names if any(f"/{place}" in f"/{name}" for place in PLACES)]
    if not names:
        raise ValueError(f"{path} is no bundle and holds no records (.json): give the records-….tar.gz that run.sh left.")
    return names


def _asked_for(scales: set[str]) -> set[str]:
    """Keys of the runs that the specs here ask for at these scales, and of all that those need."""
    specs = [load(path) for path in sorted(SPECS.glob("*.yaml"))]
    return _keys(run for spec in specs for scale in scales & set(spec.scales) for run in expand(spec, scale))


def _keys(runs: Iterable[Run]) -> set[str]:
    return {key for run in runs for key in (run.key, *_keys(run.needs))}


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.merge", description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="records-….tar.gz, a bundle that has run here, or a folder of records")
    parser.add_argument("--any", action="store_true", help="also records of runs that no spec here asks for")
    given = parser.parse_args(args)
    try:
        added, here, complaints = merge(given.path, given.any)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.merge: {error}", file=sys.stderr)
        return 2
    for path in added:
        print(f"added {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    for complaint in complaints:
        print(complaint)
    print(f"{len(added)} added, {here} already here, {len(complaints)} left out" + ("; next: make pages" if added else ""))
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
