"""How much a document tells of a sentence that is said to follow: mutual information by a small causal language model
(LCM paper, sec. 2.4.1, MI of table 3)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.evals.checkpoint import Checkpoint, open_checkpoint
from zoo.evals.scoring import ROWS, score, windows
from zoo.explain import Told

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "vocab.json", "merges.txt")
CONTEXT = 10  # true sentences that are given, at most


class CausalScorer:
    """A causal language model that scores texts.

    The paper's is GPT-2 ("openai-community/gpt2" on the hub; the released code's default is its medium size). Where there is no
    network: a token net of ours, trained on documents that no arm saw (`zoo prepare judge --documents` writes them); what it says
    can be compared among the arms that it scores, and not with what GPT-2 says.

    Args:
        model: a run folder, a folder of `zoo.pretrained.save_pretrained` with its tokenizer, a folder in transformers' GPT-2 or
            Llama layout, or the name of such a model on the hub.
        device: where it runs, in fp32.
        batch: contexts per forward pass.

    Raises FileNotFoundError, ValueError or RuntimeError, in a sentence, where it cannot be had.
    """

    def __init__(self, model: str | Path, device: torch.device | str = "cpu", batch: int = 32):
        found = _opened(model)
        self.net, self.tokenizer, self.prefix, self.batch = found.net.float().to(device), found.tokenizer, found.prefix, batch
        self.parameters = sum(p.numel() for p in self.net.parameters())
        self.name = f"{model} ({type(self.net).__name__}, {self.parameters:,} parameters)"

    def information(self, contexts: Sequence[Sequence[str]], sentences: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """log p(ŝ | context) - log p(ŝ) in nats, and |ŝ| in tokens, of K sentences that might follow each of N contexts.

        contexts: sentences before, of which the last 10 count, joined by spaces. sentences: [N][K]; (N, K) fp64 and (N, K) int64
        are given back. A newline stands before ŝ with and without a context; MI of many sentences is the sum of the first over
        that of the second. A context that is too long for the model loses its beginning; behind one of no
        sentences, no tokens count.
        """
        rows, columns = len(sentences), len(sentences[0]) if sentences else 0
        line = [*self.prefix, *self.tokenizer.encode("\n")]
        tokens = {text: self.tokenizer.encode(text) for texts in sentences for text in texts}
        counts = torch.tensor([[len(tokens[text]) for text in texts] for texts in sentences]).view(rows, columns)
        counts *= torch.tensor([bool(context) for context in contexts]).view(rows, 1)
        asked = [(n, k) for n in range(rows) for k in range(columns) if contexts[n] and tokens[sentences[n][k]]]
        before = [[*self.prefix, *self.tokenizer.encode(" ".join(context[-CONTEXT:]) + "\n")] for context in contexts]
        given = self._given([(before[n], tokens[sentences[n][k]]) for n, k in asked])
        distinct = sorted({sentences[n][k] for n, k in asked})
        alone = dict(zip(distinct, self._alone([(line, tokens[text]) for text in distinct])))
        found = torch.zeros(rows, columns, dtype=torch.float64)
        for (n, k), logp in zip(asked, given):
            found[n, k] = logp - alone[sentences[n][k]]
        return found, counts

    def _given(self, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
        """log p of continuations; a context that several share is read once."""
        cut = [windows(context, continuation, self.net.context) for context, continuation in pairs]
        found = iter(score(self.net, [pair for each in cut for pair in each], self.batch))
        return [sum(next(found).logp for _ in each) for each in cut]

    def _alone(self, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
        """The same where all share one short context: `score` would then read one continuation at a time."""
        cut = [(place, each) for place, (a, b) in enumerate(pairs) for each in windows(a, b, self.net.context)]
        cut.sort(key=lambda item: -len(item[1][0]) - len(item[1][1]))
        found = [0.0] * len(pairs)
        for first in range(0, len(cut), self.batch):
            part = cut[first : first + self.batch]
            for (place, _), logp in zip(part, summed(self.net, [pair for _, pair in part])):
                found[place] += logp
        return found


@torch.inference_mode()
def summed(net: nn.Module, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """log p of each continuation after its context, in one forward pass; they fit into the net's context but for the last token.

    Raises ValueError where the net returns nan.
    """
    texts = [[*context, *continuation][:-1] for context, continuation in pairs]
    device, longest = next(net.parameters()).device, max(map(len, texts))
    padded = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    states = net.states(padded, net.cache(len(texts), longest))[:, :, 0]  # (B, t, D)
    starts = [len(context) - 1 for context, _ in pairs]
    picked = torch.cat([row[start : len(text)] for row, start, text in zip(states, starts, texts)])  # (N, D)
    targets = torch.tensor([token for _, continuation in pairs for token in continuation], device=device)  # (N,)
    parts = zip(picked.split(ROWS), targets.split(ROWS))  # logits of a few positions at a time
    logp = torch.cat([net.logits(rows).float().log_softmax(-1).gather(1, of[:, None])[:, 0] for rows, of in parts])
    found = [float(each.double().sum()) for each in logp.cpu().split([len(continuation) for _, continuation in pairs])]
    if any(value != value for value in found):
        raise ValueError("The scorer's log-likelihoods are not numbers (nan): its weights are damaged, take other ones.")
    return found


def is_name(model: str | Path) -> bool:
    """Whether a model is asked for by its name on the hub: neither a folder nor written like one."""
    text = str(model)
    return not (Path(text).expanduser().exists() or text.startswith((".", "/", "~")) or text.count("/") > 1)


def _opened(model: str | Path) -> Checkpoint:
    if not is_name(model):
        return open_checkpoint(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    try:
        folder = snapshot_download(str(model), allow_patterns=list(FILES))
    except Exception as error:  # no network, no such name, gated: one sentence for all
        raise Told(
            f"scorer: there is no folder {model}, and the hub gives no model of that name ({type(error).__name__}): check the "
            "name and the network, or give the folder of a token net that was trained on documents that no arm saw."
        ) from None
    return open_checkpoint(folder)
