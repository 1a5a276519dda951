"""The data fingerprint is that of the DataModule which a configuration's data section makes."""

import sys

from benchmarks.run import _fingerprint

MODULE = """
from lightning.pytorch import LightningDataModule

class Corpus(LightningDataModule):
    def __init__(self, source: str = "hub", context: int = 4, seed: int = 0):
        super().__init__()
        self.fingerprint = f"{source}-{context}"
"""


def test_fingerprint_of_a_section(tmp_path, monkeypatch):
    (tmp_path / "made_up_corpus.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    section = {"class_path": "made_up_corpus.Corpus", "init_args": {"source": "installed", "context": 8}}
    assert _fingerprint(section) == "installed-8"
    assert _fingerprint({"class_path": "made_up_corpus.Corpus"}) == "hub-4"
    sys.modules.pop("made_up_corpus")
