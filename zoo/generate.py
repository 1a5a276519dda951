"""Sampling from any token net through its one-token interface, `net.next` on a preallocated cache."""

import torch
from torch import Tensor, nn


@torch.inference_mode()
def generate(
    net: nn.Module,
    tokens: Tensor,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue `tokens` (B, T) by `count` tokens each: (B, T + count).

    Args:
        net: a token net in any mode (dropout is off while sampling).
        tokens: prompts of one length, at least one token.
        count: tokens to add.
        temperature: 0 takes the most likely token.
        top_k: sample among the k most likely only.
        generator: source of randomness, on the net's device.
    """
    if tokens.shape[1] == 0:
        raise ValueError("The prompt is empty: give at least one token, the end token for instance.")
    was_training = net.training
    net.eval()
    window, cache, held, new = net.context, None, 0, tokens
    for _ in range(count):
        if cache is None or held + new.shape[1] > window:
            # positions end at the context: start again from the last half of it
            new = tokens if cache is None and tokens.shape[1] <= window else tokens[:, -max(1, window // 2) :]
            cache = net.cache(tokens.shape[0], window, dtype=next(net.parameters()).dtype, device=tokens.device)
            held = 0
        logits = net.next(new, cache)[:, -1].float()  # (B, V)
        held += new.shape[1]
        new = _choose(logits, temperature, top_k, generator)  # (B, 1)
        tokens = torch.cat([tokens, new], 1)
    net.train(was_training)
    return tokens


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token per row, (B, V) -> (B, 1)."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k is not None:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
