import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from zoo.nn.normalizer import Normalizer
from zoo.sonar.cards import write_space
from zoo.sonar.folder import CONFIG, PIECES, filled, load_weights, open_folder, read_weights, write_folder
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import Tokenizer, train_sentencepiece


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(w, other[name]) for name, w in state.items())


def test_a_folder_comes_back(tiny, folder):
    found = open_folder(folder)
    assert equal(found.encoder.state_dict(), tiny.encoder.state_dict())
    assert equal(found.decoder.state_dict(), tiny.decoder.state_dict())
    assert (found.encoder.config, found.decoder.config) == (tiny.encoder.config, tiny.decoder.config)
    assert found.tokenizer.fingerprint == tiny.tokenizer.fingerprint and found.normalizer is None
    assert not found.encoder.training and not any(p.is_meta for p in found.decoder.parameters())
    frozen = {name for name, p in tiny.decoder.named_parameters() if not p.requires_grad}
    assert {name for name, p in found.decoder.named_parameters() if not p.requires_grad} == frozen


def test_shards_and_whole_files_are_the_same(tiny, folder, tmp_path):
    write_space(tmp_path, tiny.encoder, tiny.decoder, tiny.tokenizer, "x", dtype=torch.float32)
    write_space(tmp_path, tiny.encoder, tiny.decoder, tiny.tokenizer, "x", dtype=torch.float32, shard=9000)
    shards = sorted((tmp_path / "encoder").glob("*.safetensors"))
    assert len(shards) > 3 and not (tmp_path / "encoder.safetensors").exists()
    assert equal(open_folder(tmp_path).encoder.state_dict(), tiny.encoder.state_dict())
    assert equal(read_weights(tmp_path / "decoder"), read_weights(folder / "decoder.safetensors"))
    write_folder(tmp_path, tiny.encoder, tiny.decoder, tiny.tokenizer, shard=20000)  # fewer, in place of those
    assert len(list((tmp_path / "encoder").glob("*.safetensors"))) < len(shards)
    assert open_folder(tmp_path).encoder.dim == 32


def test_half_precision_and_a_normalizer(tiny, tmp_path):
    normalizer = Normalizer.fitted(torch.randn(50, 32))
    write_folder(tmp_path, tiny.encoder, None, tiny.tokenizer, normalizer=normalizer)
    assert all(w.dtype == torch.float16 for w in load_file(tmp_path / "encoder.safetensors").values())
    found = open_folder(tmp_path, torch.bfloat16)
    assert found.decoder is None and equal(found.normalizer.state_dict(), normalizer.state_dict())
    assert all(p.dtype == torch.bfloat16 for p in found.encoder.parameters())


def test_cards_name_the_sizes_and_relative_files(tiny, folder):
    encoder, decoder = yaml.safe_load_all((folder / "cards" / "tiny_zoo.yaml").read_text())
    assert (folder / "cards" / encoder["checkpoint"]).is_file() and (folder / "cards" / decoder["checkpoint"]).is_file()
    assert encoder["model_config"]["vocab_info"] == {
        "size": tiny.tokenizer.vocab, "unk_idx": 1, "bos_idx": 2, "eos_idx": 3, "pad_idx": 0
    }  # fmt: skip
    assert decoder["tokenizer_ref"] == encoder["name"] == "tiny_zoo_encoder"


@pytest.mark.parametrize("wrapped", [False, True])
def test_files_of_torch_save(tiny, tmp_path, wrapped):
    state = tiny.decoder.sonar_state()
    names = list(state)
    torch.save({"model": state} if wrapped else state, tmp_path / "whole.pt")
    (tmp_path / "shards").mkdir()
    torch.save({name: state[name] for name in names[:9]}, tmp_path / "shards" / "0.pt")
    torch.save({name: state[name] for name in names[9:]}, tmp_path / "shards" / "1.pt")
    for path in ("whole.pt", "shards"):
        net = TextDecoder(**tiny.decoder.config)
        load_weights(net, tmp_path / path)
        assert equal(net.state_dict(), tiny.decoder.state_dict())


class Trap:
    def __reduce__(self):
        return print, ("this ran",)


def test_nothing_but_tensors_is_unpickled(tmp_path, capsys):
    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        read_weights(tmp_path / "trap.pt")
    assert "this ran" not in capsys.readouterr().out


def test_sentences_for_bad_checkpoints(tiny, tmp_path):
    state = tiny.encoder.state_dict()
    for name, content, said in [
        (
            "few",
            dict(list(state.items())[1:]),
            "lacks encoder_frontend.embed.weight: it is no checkpoint of a TextEncoder",
        ),
        ("more", state | {"x": torch.zeros(1)}, "has x, for which there is no place"),
        ("shape", state | {"layer_norm.bias": torch.zeros(3)}, r"layer_norm.bias is \(3,\) in .* and \(32,\) in the net"),
        ("nan", state | {"layer_norm.bias": torch.full((32,), torch.nan)}, "holds NaN or infinite numbers"),
        ("old", {"state_dict": {}}, "fairseq's old names"),
        ("number", {"a": 1}, "holds no state_dict"),
    ]:
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match=said):
            load_weights(TextEncoder(**tiny.encoder.config), tmp_path / f"{name}.pt")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="The sizes of here are not those of a TextEncoder"):
        filled(TextEncoder, {"width": 3}, {}, "here")
    (tmp_path / "shards").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors and no \.pt files"):
        read_weights(tmp_path / "shards")
    for i in range(2):
        save_file({"a": torch.zeros(1)}, tmp_path / "shards" / f"{i}.safetensors")
    with pytest.raises(ValueError, match="a is in two files"):
        read_weights(tmp_path / "shards")


def test_sentences_for_bad_folders(tiny, copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        open_folder(tmp_path)
    config = json.loads((copy / CONFIG).read_text())
    other = Tokenizer(train_sentencepiece(["abc abd acd " * 3] * 50, 10), tiny.tokenizer.langs)
    other.save(copy / PIECES)
    with pytest.raises(ValueError, match="is not the model that the nets"):
        open_folder(copy)
    (copy / CONFIG).write_text(json.dumps(config | {"tokenizer": other.fingerprint}))
    with pytest.raises(ValueError, match=rf"has {tiny.tokenizer.vocab} token ids and the tokenizer {other.vocab}"):
        open_folder(copy)
    tiny.tokenizer.save(copy / PIECES)
    (copy / CONFIG).write_text(json.dumps(config))
    whole = (copy / "decoder.safetensors").read_bytes()
    (copy / "decoder.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"decoder.safetensors cannot be read as a file of tensors: fetch it again"):
        open_folder(copy)
    (copy / CONFIG).write_text("[]")
    with pytest.raises(ValueError, match="damaged or of another kind"):
        open_folder(copy)
    with pytest.raises(ValueError, match="token ids and the tokenizer"):
        write_folder(tmp_path / "new", tiny.encoder, tiny.decoder, other)


def test_what_cannot_be_stored_is_refused(tiny, tmp_path):
    net = TextEncoder(**tiny.encoder.config)
    with torch.no_grad():
        net.layer_norm.bias[0] = 1e6
    with pytest.raises(ValueError, match="of the encoder holds NaN or numbers beyond"):
        write_folder(tmp_path, net, None, tiny.tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(folder, copy, tiny, monkeypatch):
    monkeypatch.setattr("zoo.sonar.folder.save_file", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match=r"could not be written: make room or give another folder \(No space left"):
        write_folder(copy, tiny.encoder, tiny.decoder, tiny.tokenizer)
    assert equal(open_folder(copy).encoder.state_dict(), open_folder(folder).encoder.state_dict())
    assert not [path for path in copy.iterdir() if path.name.startswith(".")]
