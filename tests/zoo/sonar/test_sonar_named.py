"""Spaces by name: folders, cards and normalizers joined by a plus, wherever a space is asked for."""

import shutil
from pathlib import Path

import pytest
import torch

from zoo.__main__ import main
from zoo.lcm.base import read_normalizer
from zoo.nn.normalizer import Normalizer
from zoo.saved import save
from zoo.sonar import AutoEncoding, RobustDecoder, Space, SpaceEncoder, cards, folder
from zoo.sonar.folder import write_folder
from zoo.sonar.named import open_named, open_parts, sources, tokenizer_of
from zoo.sonar.net import TextDecoder
from zoo.sonar.speech import Speech
from zoo.sonar.tokens import PAD, Tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    """A space without a normalizer, a normalizer for it, a decoder alone, and texts."""
    home = tmp_path_factory.mktemp("home")
    lines, (encoder, decoder, tokenizer) = harbour(home)
    write_folder(home / "bare", encoder, decoder, tokenizer)
    save(Normalizer.fitted(Space.opened(home / "bare").encode(lines)), home / "normalizer.safetensors")
    torch.manual_seed(1)
    other = TextDecoder(tokenizer.vocab, 32, 2, 2, 64, 66, PAD, 32)
    write_folder(home / "decoder", None, other, tokenizer)
    other = TextDecoder(tokenizer.vocab + 1, 32, 2, 2, 64, 66, PAD, 32)
    write_folder(home / "foreign", None, other, Tokenizer(tokenizer.model, ("eng_Latn", "fra_Latn")))
    return home


@pytest.fixture
def two_cards(home, monkeypatch):
    """A stand-in for sonar-space, with the cards an_encoder and a_decoder; returns what was asked of it."""
    asked = []

    def from_card(name, dtype):
        asked.append(name)
        found = open_parts(home / "bare", dtype=dtype)
        return {"an_encoder": (found.encoder, found.source), "a_decoder": (found.decoder, found.target)}[name]

    def tokenizer_of_card(name):
        asked.append(f"tokenizer of {name}")
        return open_parts(home / "bare").source

    monkeypatch.setattr(cards, "from_card", from_card)
    monkeypatch.setattr(cards, "tokenizer_of_card", tokenizer_of_card)
    return asked


def test_what_is_there_is_one_source_whatever_its_name(home, tmp_path):
    assert sources("a+b + c") == ["a", "b", "c"] and sources(home / "bare") == [str(home / "bare")]
    shutil.copytree(home / "bare", tmp_path / "one+two")
    assert sources(tmp_path / "one+two") == [str(tmp_path / "one+two")]
    assert open_named(tmp_path / "one+two").encoder.dim == 32


def test_later_sources_take_the_place_of_earlier_ones(home):
    bare = Space.opened(home / "bare")
    joined = Space.opened(f"{home}/bare+{home}/decoder+{home}/normalizer.safetensors")
    apart = Space.opened(home / "bare", home / "decoder", home / "normalizer.safetensors")
    for space in (joined, apart):
        assert space.decoder.config["layers"] == 2 and space.normalizer is not None and bare.normalizer is None
        assert space.fingerprint == bare.fingerprint
    found = open_named(f"{home}/bare+{home}/decoder")
    assert found.encoder is not None and found.decoder.config["layers"] == 2 and found.normalizer is None
    assert found.tokenizer.fingerprint == bare.tokenizer.fingerprint == tokenizer_of(f"{home}/bare+{home}/decoder").fingerprint


def test_decoders_and_data_take_names_of_cards(home, two_cards):
    tokenizer = Tokenizer.opened(home / "bare")
    net = RobustDecoder(tokenizer.vocab, 64, f"an_encoder+a_decoder+{home}/normalizer.safetensors", level=0.5, dropout=0.0)
    assert two_cards == ["an_encoder", "a_decoder"]
    wanted = open_named(home / "bare")
    for half in ("encoder", "decoder"):
        for name, weight in getattr(wanted, half).state_dict().items():
            assert weight.equal(getattr(net, half).state_dict()[name])
    with torch.device("meta"):
        counted = RobustDecoder(tokenizer.vocab, 64, f"an_encoder+a_decoder+{home}/normalizer.safetensors")
    assert sum(p.numel() for p in counted.parameters()) == sum(p.numel() for p in net.parameters())
    two_cards.clear()
    data = AutoEncoding(source="files", files=[f"{home}/*.txt"], tokenizer="an_encoder+a_decoder")
    assert two_cards == []  # a plan opens none
    same = AutoEncoding(source="files", files=[f"{home}/*.txt"], tokenizer=str(home / "bare"))
    assert (data.vocab, data.fingerprint) == (same.vocab, same.fingerprint) and two_cards == ["tokenizer of an_encoder"]
    encoder = SpaceEncoder("an_encoder", device="cpu")
    torch.testing.assert_close(encoder.encode(["the sea"], "eng_Latn"), Space.opened(home / "bare").encode(["the sea"]))
    with pytest.raises(ValueError, match=r"an_encoder\+a_decoder has no normalizer: give the folder of a whole space"):
        RobustDecoder(tokenizer.vocab, 64, "an_encoder+a_decoder")


def test_a_folder_of_a_space_is_made_of_cards(home, two_cards, tmp_path):
    recipe = Path(__file__).parents[3] / "recipes/sonar/small.yaml"
    given = ["--run", "an_encoder+a_decoder", "--out", str(tmp_path / "space"), "--sentences=200", "--scored=3"]
    data = ["source=files", f"files=['{home}/*.txt']", f"root={tmp_path}", "tokens=128", "tokenizer=an_encoder+a_decoder"]
    main(["prepare", "space", *given, "-c", str(recipe), *(f"--data.init_args.{each}" for each in data)])
    made = open_named(tmp_path / "space")
    assert made.normalizer is not None and made.decoder.config == open_named(home / "bare").decoder.config
    assert made.tokenizer.fingerprint == Tokenizer.opened(home / "bare").fingerprint


def test_what_does_not_fit_is_said(home):
    with pytest.raises(ValueError, match="have different tokenizers: give halves that share one"):
        open_named(f"{home}/bare+{home}/foreign")
    with pytest.raises(FileNotFoundError, match=r"is no folder: give the one that holds config\.json, or a card's name"):
        open_named(f"{home}/bare+{home}/nowhere")
    for opened in (open_named, Space.opened):
        with pytest.raises(ValueError, match="no encoder and no decoder"):
            opened(home / "normalizer.safetensors")
    with pytest.raises(FileNotFoundError, match=r"is no folder: give the one that holds config\.json, or a card's name"):
        tokenizer_of(home / "nowhere")


def test_what_is_shipped_is_there_from_any_directory(home, tmp_path, monkeypatch):
    shutil.copytree(home / "bare", tmp_path / "installed/zoo/sonar/small")
    save(open_parts(home / "normalizer.safetensors").normalizer, tmp_path / "installed/zoo/sonar/small/normalizer.safetensors")
    monkeypatch.setattr(folder, "PACKAGE", tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    name = "zoo/sonar/small"
    assert Space.opened(name).normalizer is not None and open_named(name).encoder.dim == read_normalizer(name, 32).width == 32
    assert tokenizer_of(name).fingerprint == open_named(f"{name}+{home}/decoder").tokenizer.fingerprint
    assert SpaceEncoder(name).fingerprint == SpaceEncoder(str(home / "bare")).fingerprint
    shutil.copytree(home / "decoder", tmp_path / "elsewhere/zoo/sonar/small")  # what is there is taken before
    assert open_named(name).encoder is None


def test_the_speech_encoder_is_had_by_the_name_of_its_card(monkeypatch):
    asked, model = [], torch.nn.Linear(2, 2)
    monkeypatch.setattr(cards, "load_model", lambda card: asked.append(card) or model)
    assert Speech.opened().model is model and not model.training
    Speech.opened("sonar_speech_encoder_fra", device="cpu")
    assert asked == ["sonar_speech_encoder_eng", "sonar_speech_encoder_fra"]
    with pytest.raises(ValueError, match=r"at least 50 ms at 16000 Hz, and not \(2, 800\)"):
        Speech.opened().encode([torch.zeros(2, 800)])
