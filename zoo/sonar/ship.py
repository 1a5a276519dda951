"""`zoo prepare space`: makes a folder of its own of a trained space, with normalizer and sonar-space's cards, and measures it."""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml

from zoo.data.duplicates import near
from zoo.data.sources import Files
from zoo.evals.autobleu import AutoBLEU, grouped, spread
from zoo.nn.normalizer import Normalizer
from zoo.sonar.cards import write_space
from zoo.sonar.data import SPLITS, AutoEncoding
from zoo.sonar.folder import CONFIG, PIECES
from zoo.sonar.space import Space, with_data

ABOUT = "about.json"
BARS = {"autobleu": 85.0, "autobleu_100": 60.0}  # of a shipped space: up to 60 characters, and 61 to 100, in percent


def main(words: list[str]) -> dict[str, float]:
    """Returns what was measured on held-out sentences, as `zoo.evals.autobleu.AutoBLEU` names it, less "test/".

    The folder is written and measured beside its place, as OUT.part, and takes the place at the end. Raises ValueError, in a
    sentence, where the place holds another space or something else, or where the space is too large.
    """
    given, rest = _parsed(words)
    out = Path(os.path.abspath(given.out))
    draft = out.with_name(f"{out.name}.part")
    _restore(out)
    if out.exists() and not (out.is_dir() and ((out / CONFIG).is_file() or not any(out.iterdir()))):
        raise ValueError(f"{given.out} holds something else than a space: give a new folder.")
    space, data = with_data(given.run, rest, given.device)
    fit = Normalizer.fitted if given.normalizer == "robust" else Normalizer.as_released
    normalizer = fit(data.vectors(space.encoder, given.sentences))
    shutil.rmtree(draft, ignore_errors=True)
    write_space(draft, space.encoder, space.decoder, space.tokenizer, given.name, normalizer=normalizer)
    size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    if given.limit is not None and size > given.limit * 1e6:
        raise ValueError(
            f"The space has {size / 1e6:.1f} MB, more than --limit {given.limit:g}: train a smaller net, or raise the limit."
        )
    if given.replace != "true" and (out / CONFIG).is_file() and made_of(out) != made_of(draft):
        raise ValueError(f"{given.out} holds another space, which others may stand on: add --replace, or give another --out.")
    shipped = Space.opened(draft, device=given.device)  # as it is read from now on, in half precision
    measured = _measured(shipped, data, given.scored)
    about = {
        "text": _plain(data)(data.description),
        "longest": data.corpus.longest,  # characters of a sentence
        "parameters": sum(p.numel() for n in (space.encoder, space.decoder) for p in n.parameters()),
        "bytes": size,
        "fingerprint": shipped.fingerprint,
        "normalizer": given.normalizer,
        "data": {"fingerprint": data.fingerprint, "sentences": {split: len(data.rows[split]) for split in SPLITS}},
        "trained": _trained(Path(given.run)),
        **measured,
    }
    (draft / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    _swap(draft, out)
    _tell(given.out, about)
    return measured["measured"]


def _parsed(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    rest = "All other words are of `zoo prepare`: the recipe, overlays and settings of the run."
    parser = argparse.ArgumentParser("zoo prepare space", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("--run", required=True, help="what a run of recipes/sonar left: runs/<name>/<version>/pretrained")
    parser.add_argument("--out", required=True, help="folder of the space")
    parser.add_argument("--name", default="small_zoo", help="of its cards, NAME_encoder and NAME_decoder (default: %(default)s)")
    parser.add_argument(
        "--sentences",
        type=int,
        default=50_000,
        help="of the training split, that the normalizer is fitted on (default: %(default)s)",
    )
    parser.add_argument(
        "--normalizer",
        choices=("robust", "released"),
        default="robust",
        help="quartiles, as the paper's text says, or the percentiles 0.25 and 0.75 that the released code fits by mistake",
    )
    parser.add_argument("--scored", type=int, default=300, help="held-out sentences per length that are measured (default: 300)")
    parser.add_argument("--limit", type=float, help="megabytes (10⁶ bytes) that the folder may have (default: any)")
    parser.add_argument(
        "--replace",
        nargs="?",
        choices=("true", "false"),
        const="true",
        default="false",
        help="let the folder's space be replaced by one of other weights; the same one may always be measured again",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_known_args(words)


# -- measuring ----------------------------------------------------------------------------------------------------
def _measured(space: Space, data: AutoEncoding, scored: int) -> dict[str, Any]:
    """What about.json says of held-out sentences: of all together, which the bars are for, and of each source."""
    texts, plain = data.sentences("test"), _plain(data)
    sources: dict[str, list[str]] = {}
    for name, own in data.by_source("test").items():
        sources.setdefault(plain(name), []).extend(own)
    score = AutoBLEU(sentences=scored)
    chosen = lambda own: [spread(group, scored) for group in grouped(own, score.edges)]
    counts = lambda own: {str(edge): len(group) for edge, group in zip(score.edges, chosen(own))}
    found = score.measured(space, texts, prefix="")
    asked = [text for group in chosen(texts) for text in group]
    bars = {name: {"wanted": bar, "measured": found[name]} for name, bar in BARS.items() if name in found}
    return {
        "measured": found,
        "bars": {"decoder": "greedy, without noise, all sources together"}
        | {name: bar | {"met": bar["measured"] >= bar["wanted"]} for name, bar in bars.items()},
        "beam5": AutoBLEU(sentences=scored, beam=5, noise=()).measured(space, texts, prefix=""),
        "by_source": {name: score.measured(space, own, prefix="") for name, own in sources.items()},
        "scored": {"all": counts(texts)} | {name: counts(own) for name, own in sources.items()},
        "near_duplicates": float(near(asked, data.stored("train")).mean()) if asked else 0.0,  # share of what is scored of all
    }


def _plain(data: AutoEncoding) -> Callable[[str], str]:
    """text -> the same with files by their names alone: what is shipped says nothing of the folders of a machine."""
    files = [part.corpus for part in data.corpus.apart() if isinstance(part.corpus, Files)]
    names = {each.description: "files: " + ", ".join(PurePath(pattern).name for pattern in each.patterns) for each in files}

    def plain(text: str) -> str:
        for long, short in names.items():
            text = text.replace(long, short)
        return text

    return plain


def _trained(run: Path) -> dict[str, int | str]:
    """Steps, data and seed of a run, by its last checkpoint and its configuration, as far as these are there."""
    found, last, config = {}, run.parent / "checkpoints" / "last.ckpt", run.parent / "config.yaml"
    if run.is_dir() and last.is_file():
        kept = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        found = {"steps": kept["global_step"], "data": kept.get(AutoEncoding.__qualname__, {}).get("fingerprint", "")}
    if run.is_dir() and config.is_file():
        found["seed"] = yaml.safe_load(config.read_text(encoding="utf-8"))["seed_everything"]
    return found


def _tell(out: str, about: dict[str, Any]) -> None:
    print(f"space: {out}, {about['bytes'] / 1e6:.1f} MB, trained on {about['text']}")
    for name, scores in ({"all": about["measured"], "all, beam 5": about["beam5"]} | about["by_source"]).items():
        print(f"  {name}:  " + "  ".join(f"{key} {value:.1f}" for key, value in scores.items()))
    if about["trained"].get("data") not in (None, "", about["data"]["fingerprint"]):
        print("  the run was trained on other sentences than these data hold: what is measured may have been among them")
    print(f"  near duplicates in the training text: {about['near_duplicates']:.1%} of the scored sentences")
    for name, bar in about["bars"].items():
        if name in BARS:
            word = "met" if bar["met"] else "missed"
            print(f"  {name}, greedy: {bar['measured']:.1f}, the bar is {bar['wanted']:g}: {word}")


# -- a folder and its place ---------------------------------------------------------------------------------------
def made_of(folder: Path) -> str:
    """Hex digest of a space's nets and tokenizer, by its files. The normalizer does not count: it may be fitted again."""
    told = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in (CONFIG, PIECES) or name.startswith(("encoder", "decoder")):
            told.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.old")


def _restore(out: Path) -> None:
    """Put back what a `_swap` that was killed had set aside."""
    if not out.exists() and _beside(out).is_dir():
        _beside(out).rename(out)


def _swap(draft: Path, out: Path) -> None:
    """Let `draft` take the place of `out`, whose notes (*.md) stay there."""
    old = _beside(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        for notes in out.glob("*.md"):
            shutil.copy2(notes, draft)
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)
