"""A normalizer and a quantizer on disk: the same on return, and a sentence for what is none."""

import pytest
import torch

from zoo.nn.normalizer import Normalizer
from zoo.nn.rvq import ResidualQuantizer
from zoo.saved import opened, save


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def test_a_normalizer_comes_back(vectors, tmp_path):
    made = Normalizer.fitted(vectors, clip=1.5)
    save(made, tmp_path / "normalizer.safetensors")
    again = opened(Normalizer, tmp_path / "normalizer.safetensors")
    assert torch.equal(again.normalize(vectors), made.normalize(vectors)) and again.clip == 1.5


def test_a_quantizer_comes_back(vectors, tmp_path):
    made = ResidualQuantizer(6, 3, 16)
    made.fit(vectors, steps=3)
    save(made, tmp_path / "rvq.safetensors")
    again = opened(ResidualQuantizer, tmp_path / "rvq.safetensors")
    assert torch.equal(again.encode(vectors), made.encode(vectors)) and made.encode(vectors).unique().numel() > 4


def test_other_files_are_refused(vectors, tmp_path):
    with pytest.raises(FileNotFoundError, match="fit one"):
        opened(Normalizer, tmp_path / "no.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(ValueError, match="damaged"):
        opened(ResidualQuantizer, tmp_path / "bad.safetensors")
    save(Normalizer.fitted(vectors), tmp_path / "normalizer.safetensors")
    with pytest.raises(ValueError, match="holds Normalizer and no ResidualQuantizer"):
        opened(ResidualQuantizer, tmp_path / "normalizer.safetensors")
