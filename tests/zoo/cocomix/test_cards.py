"""Concept cards: beside a count by hand, over several shards, and what the verb says."""

import json
from collections import Counter

import numpy as np
import pytest

import zoo.cocomix.cards
import zoo.cocomix.tally
from tests.zoo.cocomix.test_cocomix_labels import home, words  # noqa: F401  (a fixture)
from zoo.__main__ import main as cli
from zoo.cocomix.cards import CARDS, PAGE, Cards, make, shown
from zoo.data import labels
from zoo.data.sources import Files
from zoo.data.store import TokenStore, build
from zoo.data.tokenizer import Bytes, train_bpe

T, K, C = 8, 2, 12


def ids_of(split, numbers):
    """Labels that are a function of the window: some none, concept 11 never."""
    draw = lambda n: np.random.default_rng(int(n)).permuted(np.arange(-1, 11)[None].repeat(T, 0), axis=1)[:, :K]
    return np.stack([draw(n) for n in numbers])


@pytest.fixture
def made(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"the {i} of | a\n" for i in range(400)))
    build(Files([str(tmp_path / "a.txt")], validation=0, test=0), Bytes(), tmp_path / "store", 1, progress=False)
    store = TokenStore(tmp_path / "store", "train")
    about = {"corpus": "abc", "context": T, "labels": K, "concepts": C}
    numbers = np.random.default_rng(0).permutation((len(store) - 64) // T)
    for part in np.array_split(numbers, 3):  # three shards
        labels.write(tmp_path / "labels", about, {"train": part}, ids_of, lambda line: None)
    return labels.WindowLabels(tmp_path / "labels", "train"), store


def by_hand(store, numbers):
    """Counter of what follows each concept, of what follows any place, and the places where each is the first label."""
    text = store.windows([0], len(store))[0].tolist()
    following, anywhere, first = {c: Counter() for c in range(C)}, Counter(), {c: set() for c in range(C)}
    for n in numbers.tolist():
        for t, row in enumerate(ids_of("", [n])[0].tolist()):
            place = n * T + t
            anywhere[text[place + 1]] += 1
            for rank, concept in enumerate(row):
                if concept >= 0:
                    following[concept][text[place + 1]] += 1
                    if rank == 0:
                        first[concept].add(place)
    return text, following, anywhere, first


@pytest.mark.parametrize("cells, entries", [(1 << 26, 1 << 20), (257 * 5, 3 * T * K)])
def test_cards_are_those_counted_by_hand(made, monkeypatch, cells, entries):
    monkeypatch.setattr(zoo.cocomix.cards, "CELLS", cells)  # one block of concepts, or blocks of five
    monkeypatch.setattr(zoo.cocomix.tally, "ENTRIES", entries)
    store = made[1]
    cards = Cards.load(make(made[0], store, Bytes(), tokens=4, contexts=3).parent, C)
    text, following, anywhere, first = by_hand(store, made[0].numbers)
    places = sum(anywhere.values())
    assert set(cards.cards) == {c for c in range(C) if following[c]} == set(range(11))
    assert cards.about["places"] == places == len(made[0].numbers) * T
    for concept, card in cards.cards.items():
        count = following[concept].total()
        assert card.count == count and card.share == count / places
        lift = {token: n / count / (anywhere[token] / places) for token, n in following[concept].items()}
        most = sorted(following[concept], key=lambda token: (-following[concept][token], token))[:4]
        often = [token for token, n in following[concept].items() if n >= max(5, 0.01 * count)]
        high = sorted(often, key=lambda token: (-lift[token], token))[:4]
        for found, wanted in ((card.next, most), (card.lifted, high)):
            assert [(t.id, t.count, t.text) for t in found] == [(i, following[concept][i], json.dumps(chr(i))) for i in wanted]
            assert [t.share for t in found] == pytest.approx([following[concept][i] / count for i in wanted])
            assert [t.lift for t in found] == pytest.approx([lift[i] for i in wanted])
        together = sum(following[concept][i] for i in high) / count / (sum(anywhere[i] for i in high) / places)
        assert card.lift == pytest.approx(together)
        around = {}
        for place in first[concept]:
            a, b = bytes(text[place - place % T : place]).decode(), bytes(text[place + 1 : place + 9]).decode()
            around[f"{a}«{chr(text[place])}»{b}"] = place
        assert len(card.contexts) == len(set(card.contexts)) == 3 and set(card.contexts) <= set(around)


def test_fewer_first_places_are_filled_up_with_second_ones_and_equal_texts_are_told_once(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh" * 60)
    build(Files([str(tmp_path / "a.txt")], validation=0, test=0), Bytes(), tmp_path / "store", 1, progress=False)
    store = TokenStore(tmp_path / "store", "train")
    ids = np.full((20, 8, 2), -1)
    ids[:10, 3, 0], ids[4, 5, 1], ids[5, 5, 1] = 1, 1, 1
    about = {"corpus": "abc", "context": 8, "labels": 2, "concepts": 3}
    labels.write(tmp_path / "labels", about, {"train": np.arange(20)}, lambda split, n: ids[n], lambda line: None)
    kept = labels.WindowLabels(tmp_path / "labels", "train")
    card = Cards.load(make(kept, store, Bytes(), contexts=6).parent)[1]
    assert card.count == 12 and card.contexts == ["abc«d»efghabcd", "abcde«f»ghabcdef"]
    assert [(t.text, t.count) for t in card.next] == [('"e"', 10), ('"g"', 2)] and [t.text for t in card.lifted] == ['"e"']
    assert card.lifted[0].lift == pytest.approx((10 / 12) / (1 / 8))
    about = json.loads(make(kept, store, Bytes(), windows=5).read_text())["about"]
    assert about["windows"] == 5 and about["places"] == 40


def test_a_page_names_tokens_and_places(made):
    cards = Cards.load(make(made[0], made[1], Bytes()).parent)
    page = cards.page([3, 0])
    assert page.startswith("## Concept 3\n") and "## Concept 0\n" in page and "⏎" in page and "«" in page
    assert '`" "`' in page and "\n\n    " in page
    assert cards.words(3, 2).count('"') == 4 and cards.words(11) == "never a label"
    with pytest.raises(ValueError, match="Concept 11 has no card"):
        cards.page([11])


def test_a_token_is_shown_so_that_it_can_be_seen():
    assert [shown(Bytes(), i) for i in (32, 10, 0xC3, 256)] == ['" "', '"\\n"', "<195>", "<end>"]
    tokenizer = train_bpe(["the the über über"] * 5, 300)
    assert shown(tokenizer, tokenizer.encode(" über")[0]) == '" über"'


def test_what_is_missing_damaged_or_of_other_concepts_is_said(made, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no cards in .*`zoo cards"):
        Cards.load(tmp_path)
    path = make(made[0], made[1], Bytes())
    with pytest.raises(ValueError, match="are of 12 concepts and the net has 13"):
        Cards.load(path.parent, 13)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"cards\.json is damaged: delete it"):
        Cards.load(path.parent)


def test_the_verb_makes_and_shows(home, capsys):  # noqa: F811
    cli(words(home, "--seeds", "0"))
    (home / "out" / CARDS).unlink(missing_ok=True)
    with pytest.raises(SystemExit, match="there are no cards in"):
        cli(["cards", str(home / "out"), "--show", "1"])
    recipe = ["-c", str(home / "recipe.yaml")]
    found = cli(["cards", str(home / "out"), *recipe])
    assert found["concepts"] == len(Cards.load(home / "out", 48).cards) > 5
    capsys.readouterr()
    one, two = sorted(Cards.load(home / "out").cards)[:2]
    cli(["cards", str(home / "out"), "--show", f"{one},{two}"])
    told = capsys.readouterr().out
    assert f"## Concept {two}" in told and (home / "out" / PAGE).read_text() in told
    for more, said in (
        (["--show", "a"], "numbers of concepts"),
        (["--windows", "0", *recipe], "at least 1"),
        ([*recipe, "--data.init_args.context=8"], "context 16, not 8"),
    ):
        with pytest.raises(SystemExit, match=said):
            cli(["cards", str(home / "out"), *more])
