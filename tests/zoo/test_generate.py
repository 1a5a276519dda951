import pytest
import torch

from zoo.generate import generate
from zoo.mtp import MTP
from zoo.ntp import NextToken


@pytest.fixture(params=["next-token", "mtp"])
def net(request):
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 4, "heads": 2}
    return NextToken(11, 12, **sizes) if request.param == "next-token" else MTP(11, 12, n=2, **sizes)


def greedy(net, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Without a cache: score the whole text for every token."""
    for _ in range(count):
        logits = net.next(tokens, net.cache(len(tokens), 12))
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    return tokens


def test_greedy_equals_the_uncached_argmax(net):
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(generate(net, prompt, 8, temperature=0.0), greedy(net, prompt, 8))


def test_text_longer_than_the_context_goes_on(net):
    out = generate(net, torch.arange(20)[None] % 11, 30, temperature=0.0)
    assert out.shape == (1, 50) and torch.equal(out[:, :20], torch.arange(20)[None] % 11)


def test_top_1_is_greedy_and_seeds_repeat(net):
    prompt = torch.tensor([[1, 2]])
    assert torch.equal(generate(net, prompt, 6, 1.0, top_k=1), generate(net, prompt, 6, 0.0))
    runs = [generate(net, prompt, 9, 1.0, generator=torch.Generator().manual_seed(s)).tolist() for s in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_training_mode_is_left_as_found(net):
    net.train()
    generate(net, torch.tensor([[1]]), 1)
    assert net.training


def test_empty_prompt_is_one_sentence(net):
    with pytest.raises(ValueError, match="at least one token"):
        generate(net, torch.zeros(1, 0, dtype=torch.long), 1)
