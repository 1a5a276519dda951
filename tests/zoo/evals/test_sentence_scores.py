"""Scores of sentence vectors: each beside a naive loop over sentences."""

import pytest
import torch
import torch.nn.functional as F

from zoo.evals.sentence_scores import Sums, add_vector_scores, contrastive, l2, nearest_earlier, places

B, S, E = 5, 7, 6


@pytest.fixture
def batch():
    """Chunks of several lengths; the last row only fills the batch, rows 1 and 2 are of one document, row 0 ends, row 3 was given
    its first three sentences; a sentence is there twice."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([7, 7, 4, 6, 6])
    role = torch.where(torch.arange(S) < lengths[:, None], 2, 0)
    role[3, :3] = 1
    true = torch.randn(B, S, E, generator=draw) * (role != 0)[..., None]
    true[1, 2] = true[2, 3]
    true[4] = true[3]
    ends = torch.zeros(B, S, dtype=torch.bool)
    ends[0, 6] = True
    said = true + 0.9 * torch.randn(B, S, E, generator=draw)
    return said, true, role, torch.tensor([True] * 4 + [False]), ends, torch.tensor([4, 9, 9, 5, 5])


def naive_places(role, mask, ends, first):
    present = [(b, n) for b in range(B) for n in range(S) if mask[b] and role[b, n] != 0 and not ends[b, n]]
    return present, [(b, n) for b, n in present if role[b, n] == 2 and n >= first]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_padding_fillers_ends_and_given_sentences_are_not_scored(batch, first):
    _, _, role, mask, ends, _ = batch
    at, (present, scored) = places(role, mask, ends, first), naive_places(role, mask, ends, first)
    assert [tuple(place) for place in at.present.nonzero().tolist()] == present
    assert [tuple(place) for place in at.scored.nonzero().tolist()] == scored
    assert (0, 6) not in present and (3, 2) in present and (3, 2) not in scored


def naive_contrast(said, true, present, scored, document):
    found = []
    for b, n in scored:
        far = {place: float((said[b, n].double() - true[place].double()).norm()) for place in present}
        plain = [far[place] for place in present if not (place[0] == b and abs(place[1] - n) <= 1)]
        others = [far[place] for place in present if document[place[0]] != document[b]]
        limit = far[b, n] + 1e-12
        found.append((sum(d > limit for d in plain), len(plain), sum(d > limit for d in others), len(others)))
    return found


@pytest.mark.parametrize("rows", [1024, 3])
def test_contrastive_accuracy_in_both_definitions(batch, rows, monkeypatch):
    monkeypatch.setattr("zoo.evals.sentence_scores.ROWS", rows)
    said, true, role, mask, ends, document = batch
    at, (present, scored) = places(role, mask, ends), naive_places(role, mask, ends, 1)
    wanted = naive_contrast(said, true, present, scored, document)
    assert torch.stack(contrastive(said, true, at, document), 1).tolist() == [list(row) for row in wanted]
    assert 0 < sum(row[0] for row in wanted) < sum(row[1] for row in wanted)
    exact = contrastive(true, true, at, document)  # the sentence that is there twice is as far as the true one, not farther
    assert [place for place, far, all_ in zip(scored, exact.farther, exact.count) if far < all_] == [(1, 2), (2, 3)]


def test_an_empty_choice_has_no_contrast(batch):
    said, true, role, mask, ends, document = batch
    at = places(role, mask & False, ends)
    assert [len(part) for part in contrastive(said, true, at, document)] == [0] * 4
    sums = Sums()
    add_vector_scores(sums, said, true, at, document)
    assert set(sums.pairs.values()) == {(0.0, 0.0)}


def test_distances_do_not_lose_digits_far_from_the_origin():
    """Sentences that lie close together and far out: squares of single floats would be equal."""
    draw = torch.Generator().manual_seed(1)
    true = 50 + 1e-3 * torch.randn(4, 6, 16, generator=draw)
    said = true + 1e-3 * torch.randn(4, 6, 16, generator=draw)
    role, mask, ends = torch.full((4, 6), 2), torch.ones(4, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    present, scored = naive_places_of(role)
    wanted = naive_contrast(said, true, present, scored, torch.arange(4))
    assert torch.stack(contrastive(said, true, places(role, mask, ends), torch.arange(4)), 1).tolist() == [*map(list, wanted)]


def naive_places_of(role):
    every = [tuple(place) for place in role.nonzero().tolist()]
    return every, [place for place in every if place[1] >= 1]


def test_paraphrasing_looks_at_earlier_true_sentences(batch):
    said, true, role, mask, ends, _ = batch
    present = places(role, mask, ends).present
    found = nearest_earlier(said, true, present)
    for b in range(B):
        for n in range(S):
            earlier = [float(F.cosine_similarity(said[b, n], true[b, m], 0)) for m in range(n) if present[b, m]]
            assert found[b, n].item() == pytest.approx(max(earlier, default=-float("inf")), abs=1e-6)
    assert (found[:, 0] == -torch.inf).all()


def test_sums_of_two_batches_are_those_of_their_sentences(batch):
    said, true, role, mask, ends, document = batch
    at, (_, scored) = places(role, mask, ends), naive_places(role, mask, ends, 1)
    sums = Sums()
    add_vector_scores(sums, said, true, at, document)
    add_vector_scores(sums, said[:1], true[:1], places(role[:1], mask[:1], ends[:1]), document[:1])
    again = [place for place in scored if place[0] == 0]
    distances = [float((said[place] - true[place]).norm()) for place in scored + again]
    assert sums.pairs["l2"] == (pytest.approx(sum(distances), rel=1e-6), len(scored) + len(again))
    alone = contrastive(said[:1], true[:1], places(role[:1], mask[:1], ends[:1]), document[:1])
    assert (alone.count_others == 0).all()  # one document has no others, and says nothing of them
    assert sums.pairs["contrastive_others"][1] == len(scored) and sums.pairs["contrastive"][1] == len(scored) + len(again)
    present = at.present
    ratio = lambda v, b, n: max(float(F.cosine_similarity(v[b, n], true[b, m], 0)) for m in range(n) if present[b, m])
    pairs = [(ratio(said, *place), ratio(true, *place)) for place in scored + again]
    kept = [a / b for a, b in pairs if b >= 0.01]
    assert sums.pairs["par"] == (pytest.approx(sum(kept), rel=1e-4), len(kept))
    assert sums.pairs["par_kept"] == (len(kept), len(pairs))
    pooled = sums.pairs["par_pooled"]
    assert pooled[0] / pooled[1] == pytest.approx(sum(a for a, _ in pairs) / sum(b for _, b in pairs), rel=1e-4)


def test_the_truth_has_no_distance_and_a_ratio_of_one(batch):
    _, true, role, mask, ends, document = batch
    sums = Sums()
    add_vector_scores(sums, true, true, places(role, mask, ends), document, "truth_")
    means = {name: total / count for name, (total, count) in sums.pairs.items()}
    assert means["truth_l2"] == 0 and means["truth_par"] == pytest.approx(1) and means["truth_par_pooled"] == pytest.approx(1)
    assert l2(true[0, 0], true[0, 1]).item() == pytest.approx((true[0, 0] - true[0, 1]).norm().item())
