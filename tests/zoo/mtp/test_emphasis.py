"""The loss of a real net puts the paper's weight on a choice, and notices when a term is missing."""

from types import SimpleNamespace

import pytest
import torch

from zoo.mtp import MTP
from zoo.mtp.emphasis import Emphasis, loss_terms, weigh
from zoo.ntp.net import NextToken


def small(n: int) -> MTP:
    torch.manual_seed(0)
    return MTP(11, 24, n=n, dim=8, layers=n + 1, heads=2).eval()


def logged(net) -> dict[str, float]:
    values = {}
    Emphasis().on_test_epoch_end(None, SimpleNamespace(net=net, log=lambda name, value: values.update({name: value})))
    return values


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_choice_weighs_as_the_paper_says(n):
    values = logged(small(n))
    assert values["test/terms_choice"] == n * (n + 1) / 2 and values["test/terms_other"] == n
    assert values["test/emphasis"] == pytest.approx((n + 1) / 2, rel=1e-12)
    assert values["test/emphasis_formula"] == (n + 1) / 2


def test_the_baseline_has_no_emphasis():
    assert logged(NextToken(11, 24, dim=8, layers=2, heads=2).eval())["test/emphasis"] == 1.0


def test_loss_terms_are_those_of_the_loss():
    assert loss_terms(small(2), 6) == {(t, i) for t in range(4) for i in (1, 2)}


def test_a_missing_term_is_noticed(monkeypatch):
    """A net whose second head has lost a target counts one term less."""
    net, plain = small(2), MTP._shifted

    def lossy(self, x, length):
        out = plain(self, x, length).clone()
        if x.dtype == torch.bool:
            out[1, :, 1] = False
        return out

    monkeypatch.setattr(MTP, "_shifted", lossy)
    assert len(weigh(net)) == 2 and (1, 2) not in weigh(net)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="longer than the net's context"):
        loss_terms(small(2), 40)
