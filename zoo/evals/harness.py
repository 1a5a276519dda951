"""A token net as a language model of lm-eval (EleutherAI's evaluation harness), 0.4."""

from collections.abc import Callable, Collection, Sequence

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn

from zoo.data.tokenizer import Tokenizer
from zoo.evals.scoring import score, windows
from zoo.generate import generate
from zoo.sampling import Sampling

GENERATED = 256  # new tokens where a task names no number, as in lm-eval
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # its names of that number


class Harness(TemplateLM):
    """Answers lm-eval's three kinds of requests: loglikelihood, loglikelihood_rolling, generate_until.

    Tokens are split between context and continuation as lm-eval's own HFLM does it, and texts that are too long lose their left
    end. The end token stands before what has no context.

    Args:
        net: a token net; its `context` is the longest input.
        tokenizer: the one that the net was trained with.
        batch: contexts per forward pass.
        heads: of a multi-token predictor, used for self-speculative decoding; 1 decodes token by token.
        prefix: tokens that this tokenizer puts before every text (Llama's <s>); none for nets trained here.
        seed: of tasks that ask for samples.
    """

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Tokenizer,
        *,
        batch: int = 16,
        heads: int = 1,
        prefix: Sequence[int] = (),
        seed: int = 0,
    ):
        super().__init__()
        self.net, self.tokens, self.batch, self.heads, self.prefix = net, tokenizer, batch, heads, list(prefix)
        self.random = torch.Generator(next(net.parameters()).device).manual_seed(seed)
        self.truncated = self.requests = 0  # requests that lost part of their context, of all

    @property
    def eot_token_id(self) -> int:
        return self.tokens.eos

    @property
    def prefix_token_id(self) -> int:
        return self.prefix[-1] if self.prefix else self.tokens.eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        text = list(self.tokens.encode(string))
        return text if add_special_tokens is False else self.prefix + text

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        for (context, continuation), _, ids in requests:
            if not ids:
                raise ValueError(f"{continuation[:60]!r} after {context[-60:]!r} has no token of its own in this tokenizer.")
        cut = [windows(context, continuation, self.net.context) for _, context, continuation in requests]
        self.requests += len(requests)
        self.truncated += sum(len(w[0][0]) < len(context) for w, (_, context, _) in zip(cut, requests))
        return self._scores(cut)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        cut = []
        for request in requests:
            text = self.tok_encode(request.args[0], add_special_tokens=False)
            rolling = get_rolling_token_windows(text, self.prefix_token_id, self.net.context, context_len=1)
            cut.append([make_disjoint_window(window) for window in rolling])
        self.requests += len(requests)
        return [logp for logp, _ in self._scores(cut)]

    def _scores(self, cut: list[list[tuple[list[int], list[int]]]]) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether all is greedy) of each request, which was cut into pairs that fit."""
        results = iter(score(self.net, [pair for pairs in cut for pair in pairs], self.batch))
        parts = [[next(results) for _ in pairs] for pairs in cut]
        return [(sum(part.logp for part in of), all(part.greedy for part in of)) for of in parts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        found: list[str] = [""] * len(requests)
        kinds: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(repr(request.args[1]), []).append(i)
        for same in kinds.values():
            prompts = {i: self.tok_encode(requests[i].args[0]) or [self.prefix_token_id] for i in same}
            order = sorted(same, key=lambda i: -len(prompts[i]))
            for first in range(0, len(order), self.batch):
                part = order[first : first + self.batch]
                texts = self._generate([prompts[i] for i in part], requests[part[0]].args[1])
                for i, text in zip(part, texts):
                    found[i] = text
        return found

    def _generate(self, prompts: list[list[int]], settings: dict) -> list[str]:
        """Texts after the prompts, up to the first of the stop strings, which is left out."""
        until, limit, sampling = generation_settings(settings)
        room = max(self.net.context - limit, self.net.context // 2, 1)  # left for the prompt, as in HFLM, but at least half
        self.requests += len(prompts)
        self.truncated += sum(len(prompt) > room for prompt in prompts)
        result = generate(
            self.net,
            [prompt[-room:] for prompt in prompts],
            limit,
            sampling,
            heads=self.heads,
            stop={self.tokens.eos},
            until=ends(self.tokens, until) if until else None,
            generator=self.random,
        )
        return [before(self.tokens.decode(tokens), until) for tokens in result.tokens]


def generation_settings(settings: dict) -> tuple[list[str], int, Sampling]:
    """Stop strings, new tokens at most and sampling that a task's generation_kwargs ask for; ValueError for what is not there."""
    given = dict(settings)
    until = given.pop("until", None) or []
    until = [word for word in ([until] if isinstance(until, str) else until) if word]
    limits = [found for name in LIMITS if (found := given.pop(name, None)) is not None]
    temperature = float(given.pop("temperature", None) or 0.0)
    sampled = given.pop("do_sample", None)
    if sampled is None:
        sampled = temperature > 0
    elif sampled and temperature == 0:
        temperature = 1.0  # what sampling without a temperature means in transformers
    sampling = Sampling(temperature if sampled else 0.0, given.pop("top_k", None) or None, given.pop("top_p", None))
    if given:
        raise ValueError(
            f"The task asks for {sorted(given)[0]!r} in its generation_kwargs: only until, max_gen_toks, do_sample, temperature, "
            "top_k and top_p are known here, take it out."
        )
    return until, int(limits[0]) if limits else GENERATED, sampling


def ends(tokenizer: Tokenizer, words: Collection[str]) -> Callable[[list[int]], bool]:
    """Whether one of the words is in the text of some tokens."""
    return lambda tokens: any(word in text for text in [tokenizer.decode(tokens)] for word in words)


def before(text: str, words: Collection[str]) -> str:
    """The text up to the first of the words."""
    return text[: min([at for word in words if (at := text.find(word)) >= 0], default=len(text))]
