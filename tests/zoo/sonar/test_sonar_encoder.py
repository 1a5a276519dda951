"""The encoder of a space as settings: it opens late, travels light, and is named in a configuration."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from zoo.data.crawl import CommonCrawlSentences
from zoo.data.sentences import END
from zoo.sonar import Space, SpaceEncoder
from zoo.sonar.folder import write_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    home = tmp_path_factory.mktemp("home")
    lines, parts = harbour(home)
    write_folder(home / "space", *parts)
    (home / "texts.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(lines[i : i + 10])}) + "\n" for i in range(0, 400, 10))
    )
    return home


def test_it_opens_late_and_travels_as_its_settings(home):
    made = SpaceEncoder(str(home / "space"), device="cpu")
    assert made.truncated == 0 and len(made.fingerprint) == 32 and "opened" not in vars(made)
    space = Space.opened(home / "space")
    texts = ["The sea was calm.", "A ship sailed slowly to its old town."]
    torch.testing.assert_close(made.encode(texts, "eng_Latn"), space.encode(texts))
    sent = pickle.dumps(made)
    assert len(sent) < 500 and "opened" not in vars(pickle.loads(sent))
    again = pickle.loads(sent)
    assert again.fingerprint == made.fingerprint and again.width == 32
    with pytest.warns(UserWarning):
        made.encode(["sea " * 200], "eng_Latn")
    assert made.truncated == 1


def test_its_fingerprint_is_of_what_decides_a_vector(home, tmp_path):
    fingerprint = lambda folder, **more: SpaceEncoder(str(folder), **more).fingerprint
    shutil.copytree(home / "space", tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == fingerprint(home / "space") != fingerprint(home / "space", dtype="bfloat16")
    (tmp_path / "copy" / "decoder.safetensors").write_bytes(b"")
    (tmp_path / "copy" / "about.json").write_text("{}")
    (tmp_path / "copy" / "LOG.md").write_text("what helped")
    assert fingerprint(tmp_path / "copy") == fingerprint(home / "space")
    weights = tmp_path / "copy" / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert fingerprint(tmp_path / "copy") != fingerprint(home / "space")
    assert fingerprint("text_sonar_basic_encoder") != fingerprint("another_encoder")  # cards are not opened
    with pytest.raises(FileNotFoundError, match="give the folder of a space"):
        fingerprint(home)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        fingerprint(home / "nowhere")
    joined = fingerprint(f"{home}/space+another_decoder")
    assert len({joined, fingerprint(home / "space"), fingerprint("another_decoder")}) == 3


def test_a_store_of_one_language_may_be_read_as_another(home, tmp_path):
    heard, plain = [], SpaceEncoder(str(home / "space"), device="cpu")

    class Rules:
        fingerprint = "rules"

        def __call__(self, text, lang):
            heard.append(lang)
            return text.splitlines()

    rows = [{"sentences": [f"A ship {i}.", "The sea was calm."]} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"source": "files", "files": [f"{tmp_path}/rows.jsonl"], "column": "sentences", "lang": "hin_Deva"}
    given |= {"segmenter": Rules(), "root": str(tmp_path / "data")}
    with pytest.raises(ValueError, match="no language 'hin_Deva'"):
        CommonCrawlSentences(**given, encoder=plain).prepare_data()
    encoder = pickle.loads(pickle.dumps(SpaceEncoder(str(home / "space"), device="cpu", lang="eng_Latn")))
    data = CommonCrawlSentences(**given, encoder=encoder)
    data.prepare_data()
    data.setup()
    assert set(heard) == {"hin_Deva"} and data.stores["train"].texts(0) == [*rows[0]["sentences"], END]
    vectors, _ = data.stores["train"].chunks(np.array([0]))
    np.testing.assert_allclose(vectors[0], plain.encode(data.stores["train"].texts(0), "eng_Latn").numpy(), atol=2e-3)
    assert len({each.fingerprint for each in (plain, encoder, SpaceEncoder(str(home / "space"), lang="fra_Latn"))}) == 3


def test_a_configuration_names_it(home, tmp_path):
    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    encoder = {"class_path": "zoo.sonar.SpaceEncoder", "init_args": {"space": str(home / "space"), "device": "cpu"}}
    given = {"source": "files", "files": [f"{home}/texts.jsonl"], "encoder": encoder, "root": str(tmp_path), "context": 6}
    found = parser.parse_object({"data": {"class_path": "zoo.data.crawl.CommonCrawlSentences", "init_args": given}})
    data = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(found).data
    data.prepare_data()
    data.setup()
    store, space = data.stores["train"], Space.opened(home / "space")
    for number in (0, len(store) - 1):
        expected = space.encode(store.texts(number)).numpy().astype(np.float16)
        vectors, lengths = store.chunks(np.array([number]))
        np.testing.assert_allclose(vectors[0, : lengths[0]], expected, atol=2e-3)
