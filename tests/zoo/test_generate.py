"""Decoding against the plainest way to do it: score the whole window for every token."""

import io

import pytest
import torch

import zoo.generate
from zoo.__main__ import main as cli
from zoo.data.tokenizer import Bytes, train_bpe
from zoo.generate import generate
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained
from zoo.reading import window_start
from zoo.sampling import Sampling

torch.set_num_threads(1)
V, W = 11, 12


@pytest.fixture(params=["next-token", "mtp"])
def net(request):
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 4, "heads": 2}
    return NextToken(V, W, **sizes) if request.param == "next-token" else MTP(V, W, n=2, **sizes)


def greedy(net, prompt: list[int], count: int) -> list[int]:
    """Without a cache, one row: score the whole window for every token."""
    text = list(prompt)
    for _ in range(count):
        seen = torch.tensor([text[window_start(len(text), W) :]])
        text.append(int(net.next(seen, net.cache(1, W))[0, -1].argmax()))
    return text[len(prompt) :]


PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [5], [3, 3, 1, 4]]


def test_greedy_equals_the_uncached_argmax_row_by_row(net):
    assert generate(net, PROMPTS, 5).tokens == [greedy(net, p, 5) for p in PROMPTS]
    assert generate(net, torch.tensor([[1, 2], [3, 4]]), 5).tokens == [greedy(net, p, 5) for p in ([1, 2], [3, 4])]


def test_text_longer_than_the_context_goes_on(net):
    prompts = [*PROMPTS, [i % V for i in range(20)], [i % V for i in range(12)]]
    assert generate(net, prompts, 40).tokens == [greedy(net, p, 40) for p in prompts]


def test_a_window_holds_what_fits_and_moves_by_length_alone():
    starts = [window_start(length, 8) for length in range(1, 24)]
    assert starts[:8] == [0] * 8 and starts == sorted(starts)
    held = [length - start for length, start in zip(range(1, 24), starts)]
    assert max(held) == 8 and min(held[8:]) == 4
    assert [window_start(length, 1) for length in (1, 2, 3)] == [0, 1, 2]


def test_stop_tokens_until_and_the_limit_end_a_row(net):
    plain = [greedy(net, p, 8) for p in PROMPTS]
    stop = plain[0][3]

    def cut(tokens):
        return tokens[: tokens.index(stop)] if stop in tokens else tokens

    out = generate(net, PROMPTS, 8, stop={stop})
    assert out.tokens == [cut(tokens) for tokens in plain]
    assert out.stopped == [stop in tokens for tokens in plain]
    assert out.steps == [min(len(tokens), 7) for tokens in map(cut, plain)]
    assert out.forwards == max(out.steps) and out.tokens_per_forward == 1
    out = generate(net, PROMPTS, 8, until=lambda new: len(new) == 3)
    assert out.tokens == [tokens[:3] for tokens in plain] and all(out.stopped)
    out = generate(net, PROMPTS, 1)
    assert out.tokens == [tokens[:1] for tokens in plain] and not any(out.stopped) and out.forwards == 0
    assert generate(net, PROMPTS, 0).tokens == [[]] * 4 and generate(net, [], 3).tokens == []


def test_a_stream_adds_up_to_the_result(net):
    seen = [[] for _ in PROMPTS]
    out = generate(net, PROMPTS, 8, stream=lambda row, new: seen[row].extend(new), stop={3})
    assert seen == out.tokens


def test_top_1_is_greedy_and_seeds_repeat(net):
    assert generate(net, PROMPTS, 6, Sampling(1.0, top_k=1)).tokens == generate(net, PROMPTS, 6).tokens
    runs = [generate(net, PROMPTS, 9, Sampling(1.0), generator=torch.Generator().manual_seed(s)).tokens for s in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_training_mode_is_left_as_found(net):
    net.train()
    generate(net, [[1]], 1)
    assert net.training


def test_empty_prompt_is_one_sentence(net):
    with pytest.raises(ValueError, match="at least one token"):
        generate(net, [[1], []], 1)


@pytest.mark.parametrize("wrong", [V, -1])
def test_an_id_that_the_net_does_not_have_is_one_sentence(net, wrong):
    with pytest.raises(ValueError, match=f"token id {wrong} and the net only 0 .. {V - 1}"):
        generate(net, [[1], [2, wrong]], 1)


def test_no_step_works_on_rows_that_have_ended_or_on_free_slots(net, monkeypatch):
    seen, states = [], net.states

    def watched(tokens, cache, *more, **named):
        seen.append((tokens.shape, cache.capacity))
        return states(tokens, cache, *more, **named)

    monkeypatch.setattr(net, "states", watched)
    out = generate(net, PROMPTS, 4, until=lambda new: len(new) == 2)
    assert [shape for shape, _ in seen] == [(4, 7), (4, 1)] and seen[0][1] == 7 + 4
    assert out.steps == [1] * 4
    seen.clear()
    ended = iter(range(100))
    out = generate(net, PROMPTS, 4, until=lambda new: next(ended) % 4 == 3)  # the last of the four ends with its first token
    assert [shape[0] for shape, _ in seen] == [4, 3, 3, 2]


@pytest.fixture
def folder(tmp_path):
    Bytes().save(tmp_path / "tokens")
    torch.manual_seed(1)
    save_pretrained(MTP(257, 64, n=3, dim=16, layers=4, heads=2), tmp_path / "net", tmp_path / "tokens")
    save_pretrained(NextToken(257, 32, dim=8, layers=1, heads=1), tmp_path / "small", tmp_path / "tokens")
    return tmp_path


def run(capsys, *words) -> str:
    cli(["generate", *map(str, words)])
    return capsys.readouterr().out


def test_the_verb_compares_heads_and_takes_prompts_from_everywhere(folder, capsys, monkeypatch):
    out = run(capsys, folder / "net", "--prompt", "ab", "--tokens", 12, "--heads", "all")
    assert out.startswith("ab") and out.count("identical text") == 2 and "ANOTHER" not in out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("heads")] == ["heads 1", "heads 2", "heads 3"]
    (folder / "prompt.txt").write_text("from a file")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    words = [folder / "net", "--prompt", "-", "--prompt_file", folder / "prompt.txt", "--tokens", 3, "--temperature", 0]
    out = run(capsys, *words, "--heads", 2, "--draft", folder / "small", "--dtype", "bfloat16")
    assert "from a pipe" in out and "from a file" in out and "heads 2: " in out
    plain = run(capsys, folder / "net", "--prompt", "ab", "--tokens", 9, "--seed", 3)
    assert run(capsys, folder / "net", "--prompt", "ab", "--tokens", 9, "--seed", 3, "--stream").rstrip(
        "\n\ufffd"
    ) == plain.rstrip("\n\ufffd")


def test_the_verb_says_where_texts_part(folder, capsys, monkeypatch):
    original = zoo.generate.generate

    def other(net, prompts, limit, *a, heads=1, **k):
        out = original(net, prompts, limit, *a, heads=heads, **k)
        if heads == 3:
            out.tokens[0][4] = (out.tokens[0][4] + 1) % 256
        return out

    monkeypatch.setattr(zoo.generate, "generate", other)
    out = run(capsys, folder / "net", "--prompt", "ab", "--tokens", 8, "--heads", "all")
    assert "heads 2: identical" in out and "heads 3: ANOTHER text" in out and "prompt 1 differs first at new token 5" in out


def test_wrong_words_get_one_sentence(folder, tmp_path):
    torch.manual_seed(0)
    (tmp_path / "other").mkdir()
    train_bpe(["some text, some more text"] * 3, 257 + 8).save(tmp_path / "bpe")
    save_pretrained(NextToken(265, 32, dim=8, layers=1, heads=1), tmp_path / "stranger", tmp_path / "bpe")
    (tmp_path / "sentences" / "pretrained" / "tokenizer").mkdir(parents=True)  # as a Large Concept Model leaves it
    (tmp_path / "sentences" / "pretrained" / "tokenizer" / "space.json").write_text("{}")
    save_pretrained(NextToken(257, 32, dim=8, layers=1, heads=1), tmp_path / "bare")
    for words, sentence in (
        ([folder / "net", "--heads", "4"], "heads = 4 were asked for and this net has 3"),
        ([folder / "net", "--heads", "many"], "a number or all"),
        ([folder / "net", "--heads", "2", "--draft", tmp_path / "stranger"], "different tokenizers"),
        ([folder / "net", "--heads", "all", "--temperature", "1"], "leave out --temperature"),
        ([folder / "net", "--stream", "--prompt", "a", "--prompt", "b"], "one prompt"),
        ([folder / "net", "--prompt_file", tmp_path / "none.txt"], "no prompt file"),
        ([folder / "net", "--top_p", "2"], "top_p lies above 0"),
        ([tmp_path / "bare"], "save the net with its tokenizer"),
        ([tmp_path / "sentences"], "reads sentences, not tokens: add --space"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            cli(["generate", *map(str, words)])
