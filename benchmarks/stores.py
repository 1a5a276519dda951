"""Token stores cut to a size: what a bundle carries of the text."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(eq=False)
class Store:
    """A token store; tokens per split that the runs on it need at least, and that the bundle carries."""

    folder: Path
    manifest: dict
    token_bytes: np.ndarray
    least: dict[str, int]
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> dict[str, int]:
        return {split: counts["tokens"] for split, counts in self.manifest["splits"].items()}

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.manifest["dtype"])

    def size(self, tokens: dict[str, int]) -> int:
        """Bytes of so many tokens per split."""
        return sum(tokens.values()) * self.dtype.itemsize


def share_out(stores: list[Store], room: int) -> None:
    """Set what is kept of each store, `room` bytes of tokens in all.

    Each keeps what it needs at least, which is evaluation text and a window of training text. What is left is shared equally, for
    training text first; a store that fits whole is kept whole.
    """
    spare = room - sum(store.size(store.least) for store in stores)
    if spare < 0:
        raise ValueError(
            f"{room / 1e6:g} MB are too few for the evaluation text and one window of training text: give --megabytes "
            f"{-(-(room - spare) // 10**6)} (MB=) or more."
        )
    beyond = lambda store: store.size(store.whole) - store.size(store.least)
    for i, store in enumerate(sorted(stores, key=beyond)):
        given = min(beyond(store), spare // (len(stores) - i))
        spare -= given
        tokens, store.kept = given // store.dtype.itemsize, {}
        for split, least in store.least.items():  # train first
            more = min(store.whole[split] - least, tokens)
            store.kept[split], tokens = least + more, tokens - more


def cut(store: Store, into: Path) -> None:
    """Copy the kept tokens of a store, the first of each split, shard by shard, and its tokenizer.

    A store that is not kept whole is another corpus: its manifest has another fingerprint and says in words what it is.
    Raises RuntimeError for a shard that is not what the manifest says.
    """
    from zoo.data.sources import digest

    into.mkdir(parents=True)
    shards, left = [], dict(store.kept)
    for entry in store.manifest["shards"]:
        count = min(entry["tokens"], left[entry["split"]])
        if count == 0:
            continue
        left[entry["split"]] -= count
        content = (store.folder / entry["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise RuntimeError(f"{store.folder / entry['file']} is damaged: delete it and run again, it alone is built anew.")
        if count < entry["tokens"]:
            content = content[: count * store.dtype.itemsize]
            tokens = np.frombuffer(content, store.dtype)
            documents = np.count_nonzero(tokens == store.manifest["eos"]) + int(tokens[-1] != store.manifest["eos"])
            entry = {**entry, "tokens": count, "documents": documents, "bytes": int(store.token_bytes[tokens].sum())}
        (into / entry["file"]).write_bytes(content)
        shards.append({**entry, "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {**store.manifest, "shards": shards}
    if store.kept != store.whole:
        sizes = (store.size(store.kept) / 1e6, store.size(store.whole) / 1e6)
        manifest["description"] += ", first {:.3g} MB of tokens of {:.3g} MB".format(*sizes)
        manifest["source"] = digest("first tokens", store.manifest["source"], store.kept)
        sums = lambda split: {
            name: sum(entry[name] for entry in shards if entry["split"] == split) for name in ("tokens", "documents", "bytes")
        }
        manifest["splits"] = {split: sums(split) for split in store.kept}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(store.folder / name, into / name)
    (into / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
