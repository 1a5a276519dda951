"""`zoo prepare judge`: trains a judge of coherence on the validation documents of a sentence store (LCM, sec. 2.4.1, table 4).

The paper's judge reads text and was trained elsewhere to tell documents from such whose sentences are shuffled. Ours is trained
on the same question, on documents that no arm saw, and reads sentence vectors. Who sees which documents: arms learn from the
train split, and take nothing from validation but their curve and the checkpoint that is best on it; the judge, and a causal
scorer (`--documents`), learn from validation alone; test documents are what both of them score, and neither has seen. A corpus
that no arm reads may be learnt from whole (`--split all`).
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.order import mix
from zoo.data.sentence_store import SentenceStore
from zoo.data.shards import write_json
from zoo.nn.normalizer import Normalizer

LONGEST, WINDOW, STRIDE = 15, 10, 5  # sentences that are judged as a whole, and pieces of longer documents (released code)
FEWEST = 3  # sentences of a document whose order says something
DOCUMENTS = 40  # that can be learnt from, at least
LINES = 5  # one boundary in so many is a line end in the documents that are written for a scorer
ABOUT, WEIGHTS = "judge.json", "judge.safetensors"


class Judge(nn.Module):
    """Says whether sentence vectors are in the order of a document: the sum over neighbours of what a small net makes of both.

    Each vector is normalized and projected to `dim` numbers a; neighbours (a, b) are told apart by (a, b, a - b, a * b), as a
    discriminator of local coherence does it (Xu et al. 2019).

    width: E, of the vectors. dim, hidden, dropout: of the net.
    """

    def __init__(self, width: int, dim: int = 64, hidden: int = 128, dropout: float = 0.2):
        super().__init__()
        self.config = {"width": width, "dim": dim, "hidden": hidden, "dropout": dropout}
        self.width = width
        self.about: dict[str, Any] = {}
        self.normalizer = Normalizer(width)
        self.project = nn.Linear(width, dim)
        self.pair = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * dim, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors (N, S, E) in the space, of which the first `lengths` (N,) count: logits (N,) that they are in order."""
        a = torch.tanh(self.project(self.normalizer.normalize(vectors.float())))  # (N, S, D)
        first, second = a[:, :-1], a[:, 1:]
        logits = self.pair(torch.cat((first, second, first - second, first * second), -1))[..., 0]  # (N, S - 1)
        counted = torch.arange(1, vectors.shape[1], device=vectors.device) < lengths[:, None]
        return (logits * counted).sum(1)

    @torch.no_grad()
    def probability(self, documents: Sequence[Tensor], batch: int = 256) -> Tensor:
        """Probability (N,) that each document, (n, E) vectors, 2 sentences or more, is coherent; those of more than 15 sentences
        are judged in pieces of 10, a new one every 5, and the mean is given."""
        device = self.project.weight.device
        cut = [(place, piece) for place, each in enumerate(documents) for piece in pieces(each)]
        total, count = torch.zeros(2, len(documents), dtype=torch.float64)
        for start in range(0, len(cut), batch):
            part = cut[start : start + batch]
            found = self(*(each.to(device) for each in padded([piece for _, piece in part]))).sigmoid().double().cpu()
            of = torch.tensor([place for place, _ in part])
            total.index_add_(0, of, found)
            count.index_add_(0, of, torch.ones_like(found))
        return total / count

    @classmethod
    def opened(cls, folder: str | Path) -> "Judge":
        """What `zoo prepare judge` wrote, on the CPU; `about` says what it learnt from and how good it is.

        Raises FileNotFoundError or ValueError, in a sentence.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder).expanduser()
        missing = next((name for name in (ABOUT, WEIGHTS) if not (folder / name).is_file()), None)
        if missing:
            raise FileNotFoundError(
                f"{folder / missing} is missing: `zoo prepare judge --out {folder} -c RECIPE` trains a judge."
            )
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            judge = cls(**about["config"])
            judge.load_state_dict(load_file(folder / WEIGHTS))
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{folder} holds a damaged judge or none ({reason}): train it again, or fetch the folder whole."
            ) from None
        judge.about = about
        return judge.eval()

    def save(self, folder: str | Path) -> None:
        """Write the folder; files appear whole."""
        from safetensors.torch import save_file

        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{WEIGHTS}.{os.getpid()}"
        try:
            save_file({name: w.detach().cpu().contiguous() for name, w in self.state_dict().items()}, draft)
            os.replace(draft, folder / WEIGHTS)
        finally:
            draft.unlink(missing_ok=True)
        write_json(folder / ABOUT, self.about | {"config": self.config})


def pieces(document: Tensor) -> list[Tensor]:
    """What is judged of a document (n, ...): all of it, or windows of 10 sentences at 0, 5, 10, … and at its end."""
    n = len(document)
    starts = [0] if n <= LONGEST else sorted({*range(0, n - WINDOW, STRIDE), n - WINDOW})
    return [document[start : start + (n if n <= LONGEST else WINDOW)] for start in starts]


def padded(documents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(n, E) each -> (N, S, E), zero behind each end, and lengths (N,)."""
    return nn.utils.rnn.pad_sequence(list(documents), batch_first=True), torch.tensor([len(each) for each in documents])


def shuffled(document: Tensor, generator: torch.Generator) -> Tensor:
    """The sentences (n, E) in another order than theirs."""
    order = torch.randperm(len(document), generator=generator)
    return document[order.roll(1) if bool((order == torch.arange(len(order))).all()) else order]


def train(
    judge: Judge,
    documents: Sequence[Tensor],
    steps: int = 1500,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Teach it documents (n, E) against themselves shuffled, and measure it.

    Of each ten documents eight are learnt from, one picks the weights that are kept, and one is only measured. Returns
    `accuracy`, the share of those documents and their shuffled selves that are told right at 0.5; `pairwise`, the share of
    documents that are judged better than shuffled; `held_out`, their number. Raises ValueError for fewer than 40 documents of 3
    sentences or more.
    """
    documents = [each.float() for each in documents if len(each) >= FEWEST]
    if len(documents) < DOCUMENTS:
        raise ValueError(
            f"{len(documents)} documents of {FEWEST} sentences or more are too few to learn from: give {DOCUMENTS} or more."
        )
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=draw).tolist()
    tenth = len(order) // 10
    parts = [order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]]
    measured, picking, learnt = ([documents[place] for place in part] for part in parts)
    judge.normalizer = Normalizer.fitted(torch.cat(learnt)[:200_000])
    judge.to(device)
    pairs = [[(each, shuffled(each, draw)) for each in part] for part in (measured, picking)]
    optimizer = torch.optim.AdamW(judge.parameters(), lr, weight_decay=0.05)
    best: tuple[float, dict[str, Tensor]] = (float("inf"), {})
    for step in range(steps):
        judge.train()
        chosen = [learnt[place] for place in torch.randint(len(learnt), (batch,), generator=draw).tolist()]
        both = [_piece(each, draw) for each in (*chosen, *(shuffled(each, draw) for each in chosen))]
        vectors, lengths = (each.to(device) for each in padded(both))
        truth = (torch.arange(2 * batch, device=device) < batch).float()
        loss = F.binary_cross_entropy_with_logits(judge(vectors, lengths), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - (step + 1) / steps)
        if step % 50 == 49 or step + 1 == steps:
            judge.eval()
            right, wrong = _told(judge, pairs[1])
            left = float(-(right.clamp(min=1e-9).log() + (1 - wrong).clamp(min=1e-9).log()).mean())
            if left < best[0]:
                best = left, {name: value.clone() for name, value in judge.state_dict().items()}
    judge.load_state_dict(best[1])
    right, wrong = _told(judge.eval(), pairs[0])
    return {
        "accuracy": float(((right > 0.5).double().mean() + (wrong < 0.5).double().mean()) / 2),
        "pairwise": float((right > wrong).double().mean()),
        "held_out": float(len(measured)),
    }


def _piece(document: Tensor, draw: torch.Generator) -> Tensor:
    """A document, or a window of it at any place where it would be judged in windows."""
    if len(document) <= LONGEST:
        return document
    start = int(torch.randint(len(document) - WINDOW + 1, (1,), generator=draw))
    return document[start : start + WINDOW]


def _told(judge: Judge, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return judge.probability([a for a, _ in pairs]), judge.probability([b for _, b in pairs])


def vectors_of(store: SentenceStore, documents: int) -> Iterator[tuple[int, Tensor]]:
    """(number, vectors (n, E) without the end marker) of at most so many documents of a store that wraps none, spread over it."""
    count = min(documents, len(store))
    for number in (place * len(store) // count for place in range(count)):
        texts = store.texts(number)
        length = len(texts) - (texts[-1] == store.end)
        yield number, torch.from_numpy(store.chunks(np.array([number]))[0][0, :length])


def write_documents(stores: Sequence[SentenceStore], path: str | Path) -> int:
    """Write the documents as .jsonl for `source: files`, so that a causal scorer can be trained on them; how many it was.

    Their sentences are joined by spaces, and by a line end at one boundary in five, because a scorer sees sentences behind one.
    """
    draft, count = Path(path).with_name(f".{Path(path).name}.{os.getpid()}"), 0
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(draft, "w", encoding="utf-8") as file:
            for store, number in ((each, number) for each in stores for number in range(len(each))):
                texts = store.texts(number)
                texts = texts[:-1] if texts[-1] == store.end else texts
                lines = mix(np.arange(len(texts)) + (count << 20)) % LINES == 0
                joined = "".join(text + ("\n" if line else " ") for text, line in zip(texts, lines)).strip()
                file.write(json.dumps({"text": joined}, ensure_ascii=False) + "\n")
                count += 1
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def main(words: list[str]) -> dict[str, float]:
    """Returns what `train` measured."""
    epilog = "All other words are of `zoo prepare`: the recipe, overlays and settings of the arms' data."
    parser = argparse.ArgumentParser("zoo prepare judge", description=__doc__.split(": ", 1)[1].split("\n")[0], epilog=epilog)
    parser.add_argument("--out", required=True, help=f"folder that {WEIGHTS} and {ABOUT} are written to")
    parser.add_argument("--documents", help="a .jsonl that the same documents are written to as text, for a causal scorer")
    parser.add_argument(
        "--split",
        choices=["validation", "all"],
        default="validation",
        help="all: of data that no arm reads (default: validation)",
    )
    parser.add_argument("--most", type=int, default=20_000, help="documents that are learnt from (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of training (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=64, help="width of the net (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given, rest = parser.parse_known_args(words)
    from zoo.cli import main as lightning  # takes seconds, and --help need not wait

    data = lightning(["prepare", *rest]).datamodule
    if getattr(data, "view", None) != "sentences":
        raise ValueError("zoo prepare judge reads sentence vectors: give a recipe whose data have `view: sentences`.")
    splits = ["validation"] if given.split == "validation" else ["train", "validation", "test"]
    stores = [SentenceStore(data.folder, split, wrap=1 << 40, fingerprint=data.fingerprint) for split in splits]
    if given.documents:
        print(f"documents: {write_documents(stores, given.documents):,} in {given.documents}", flush=True)
    torch.manual_seed(given.seed)
    judge, manifest = Judge(stores[0].width, given.dim, 2 * given.dim), stores[0].manifest
    documents = [vectors for store in stores for _, vectors in vectors_of(store, given.most)][: given.most]
    found = train(judge, documents, given.steps, seed=given.seed, device=given.device)
    judge.about = {
        "text": data.description,
        "split": given.split,
        "store": manifest["fingerprint"],
        "encoder": manifest["encoder"],
    }
    judge.about |= {"documents": len(documents), "seed": given.seed, "measured": found}
    judge.save(given.out)
    print(f"judge: {given.out}, of {len(documents):,} documents ({given.split}) of {data.description}", flush=True)
    told = f"{found['accuracy']:.1%} told right, {found['pairwise']:.1%} judged better than shuffled"
    print(f"  of {found['held_out']:.0f} that were held out, and their shuffled selves: {told}", flush=True)
    return found
