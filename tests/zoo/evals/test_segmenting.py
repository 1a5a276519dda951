"""Segmenters scored by a space, and the statistics of documents: against counts made by hand."""

from types import SimpleNamespace

import pytest

from zoo.data.segment import Capped, Sentencex
from zoo.evals.segmenting import SegmenterScores, SentenceStatistics, texts_of

TEXTS = ["A ship sailed. It was old.\nThe sea was calm.", "One town, and no more than that one town by the sea.", "Old. Sea."]


class Echo:
    """A space that gives every text back, but for those longer than it has room for, which lose their end."""

    def __init__(self, room: int = 1000):
        self.room, self.truncated = room, 0

    def encode(self, texts, lang=None):
        self.truncated += sum(len(text) > self.room for text in texts)
        return [text[: self.room] for text in texts]

    def decode(self, vectors, lang, beam):
        return vectors


def test_segmenters_are_scored_by_length():
    found = SegmenterScores(Sentencex(), edges=(30, 60), cap=20).measured(Echo(), TEXTS)
    assert found["segments"] == pytest.approx(6 / 3) and found["segment_long"] == pytest.approx(100 / 6)
    assert found["segment_bleu"] == found["segment_bleu_30"] == found["segment_bleu_60"] == pytest.approx(100)
    assert found["segment_cut"] == 0 and (found["segment_edge1"], found["segment_edge2"]) == (30, 60)
    plain = SegmenterScores(Sentencex(), edges=(30, 60)).measured(Echo(20), TEXTS)
    capped = SegmenterScores(Capped(Sentencex(), 20), edges=(30, 60)).measured(Echo(20), TEXTS)
    assert plain["segment_cut"] > 0 == capped["segment_cut"] and plain["segment_bleu"] < capped["segment_bleu"]
    assert plain["segment_bleu_60"] < 60 and "segment_bleu_60" not in capped
    assert capped["segment_length"] < plain["segment_length"]
    with pytest.raises(ValueError, match="no sentence in 1 documents"):
        SegmenterScores(Sentencex()).measured(Echo(), ["1 2 3"])


def test_documents_are_counted_as_they_were_before_they_were_cut():
    whole = SimpleNamespace(documents=lambda split: [SimpleNamespace(text=text) for text in TEXTS if split == "test"])
    tokenizer = SimpleNamespace(prefix=lambda: [7], encode=lambda texts: [[7, *map(len, text.split()), 2] for text in texts])
    data = SimpleNamespace(corpus=SimpleNamespace(corpus=whole), tokenizer=tokenizer, description="three texts")
    found = SentenceStatistics().measured(data, Sentencex())
    assert found["documents"] == 3 and found["all_sentences"] == 6
    assert [found[f"sentences_q{i}"] for i in (1, 2, 3)] == [1.5, 2, 2.5]
    assert [found[f"tokens_q{i}"] for i in (1, 2, 3)] == [6, 10, 11]  # of 2, 10 and 12 words
    asked = []
    data.lang = "deu_Latn"
    counted = SentenceStatistics(tokenizer="bytes").measured(data, lambda text, lang: asked.append(lang) or [text])
    assert [counted[f"tokens_q{i}"] for i in (1, 2, 3)] == sorted(counted[f"tokens_q{i}"] for i in (1, 2, 3))
    assert counted["tokens_q2"] == sorted(len(text.encode()) for text in TEXTS)[1] and asked == ["deu_Latn"] * 3
    assert texts_of(data, 2) == TEXTS[:2] and texts_of(SimpleNamespace(corpus=whole)) == TEXTS
    with pytest.raises(ValueError, match="three texts has no document in its validation split"):
        SentenceStatistics("validation").measured(data, Sentencex())
