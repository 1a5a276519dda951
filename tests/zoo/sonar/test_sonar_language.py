"""A new language on a frozen space: its decoder learns, the space does not change, and both open together."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from zoo.cli import main
from zoo.pretrained import from_pretrained
from zoo.sonar import FromSpace, NewLanguage, Space
from zoo.sonar.corpus import Cipher
from zoo.sonar.folder import write_folder
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import Tokenizer, train_sentencepiece

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    """Texts, and a space with random weights whose tokenizer knows them."""
    home = tmp_path_factory.mktemp("home")
    lines, parts = harbour(home)
    write_folder(home / "space", *parts)
    with gzip.open(home / "pairs.jsonl.gz", "wt") as file:
        for line in lines:
            file.write(json.dumps({"eng": line, "text": line[::-1], "lang": "gnl_Latn"}) + "\n")
    return home


def words(home, *more):
    small = {"dim": 24, "layers": 1, "heads": 2, "hidden": 48, "space": home / "space"}
    found = [f"--model.init_args.net.init_args.{name}={value}" for name, value in small.items()]
    found += ["--data.init_args.source=files", f"--data.init_args.files=['{home}/*.txt']", "--data.init_args.vocab_size=60"]
    found += [f"--data.init_args.space={home / 'space'}", f"--data.init_args.root={home}/data", "--trainer.max_steps=400"]
    found += ["--trainer.val_check_interval=400", f"--trainer.logger.init_args.save_dir={home}", "--data.init_args.tokens=128"]
    return ["fit", "-c", str(ROOT / "recipes/sonar/language.yaml"), "--trainer.precision=32", *found, *more]


def test_a_decoder_is_trained_and_the_space_stays_as_it_is(home):
    before = Space.opened(home / "space")
    cli = main(words(home, "--model.init_args.warmup=2"))
    net, data = cli.model.net, cli.datamodule
    assert net.vocab == data.tokenizer.vocab == 60 != net.encoder.vocab == before.encoder.vocab
    for name, weight in before.encoder.state_dict().items():
        assert weight.equal(net.encoder.state_dict()[name]), name
    found = cli.trainer.test(cli.model, datamodule=data, verbose=False)[0]
    assert 0 < found["test/bits_per_byte"] < 3 and 0 <= found["test/autobleu_60"] <= 100
    texts, references = data.sentences("test"), data.references("test")
    assert references == [Cipher()(text) for text in texts]
    pretrained = Path(cli.trainer.log_dir) / "pretrained"
    both = Space.opened(home / "space", pretrained)
    assert both.fingerprint == before.fingerprint and both.tokenizer.langs == before.tokenizer.langs
    torch.testing.assert_close(both.encode(texts[:3]), before.encode(texts[:3]))
    here = Space(net.encoder, net.decoder, data.source_tokenizer, data.tokenizer)
    vectors = before.encode(texts[:5])
    assert both.decode(vectors, beam=1) == here.decode(vectors, beam=1)
    letters = "".join(both.decode(vectors, beam=1)).lower()
    assert any(c in letters for c in "аеиоуы") and not any(c.isascii() and c.isalpha() for c in letters)
    again = from_pretrained(pretrained)  # stands for itself: the space's folder is not read
    assert again.config["encoder"] == before.encoder.config and not any(p.requires_grad for p in again.encoder.parameters())


def test_a_batch_reads_the_space_and_writes_the_language(home):
    data = FromSpace(
        str(home / "space"), source="files", files=[f"{home}/*.txt"], vocab_size=60, tokens=96, root=str(home / "two")
    )
    data.prepare_data()
    data.setup()
    for batch, _ in zip(data.train_dataloader(), range(4)):
        source = data.source_tokenizer.decode(batch["source"].tolist())
        target = data.tokenizer.decode(batch["tokens"].tolist())
        assert [Cipher()(text) for text in source] == target and "other" not in batch
        assert (batch["source"][:, 0] == data.source_tokenizer.lang_id()).all()
        assert (batch["tokens"][:, 1] == data.tokenizer.lang_id(Cipher.lang)).all()


def test_aligned_pairs_take_the_ciphers_place(home):
    pairs = {"pairs": [f"{home}/pairs.jsonl.gz"], "fewest": 100}
    data = FromSpace(
        str(home / "space"), source="files", files=[f"{home}/*.txt"], vocab_size=50, root=str(home / "three"), **pairs
    )
    data.prepare_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    source, target = data.source_tokenizer.decode(batch["source"].tolist()), data.tokenizer.decode(batch["tokens"].tolist())
    assert [text[::-1] for text in source] == target and data.tokenizer.langs == ("gnl_Latn",)
    texts, references = data.sentences("test"), data.references("test")
    assert texts and [text[::-1] for text in texts] == references


def test_what_does_not_fit_is_said(home):
    with pytest.raises(ValueError, match="makes its own tokenizer"):
        FromSpace(str(home / "space"), cipher=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        NewLanguage(60, 16, str(home))
    with pytest.raises(ValueError, match="noise"):
        NewLanguage(60, 16, str(home / "space"), noise=-1)
    tokenizer = Tokenizer(train_sentencepiece([(home / "0.txt").read_text()], 40))
    write_folder(home / "other", TextEncoder(tokenizer.vocab, 32, 1, 2, 64, 66, 0), None, tokenizer)
    with pytest.raises(SystemExit, match="name one space in both"):
        main(words(home, f"--data.init_args.space={home / 'other'}"))
    copied = home / "copied"
    shutil.copytree(home / "space", copied)
    shutil.copy(home / "other" / "sentencepiece.model", copied)
    with pytest.raises(ValueError, match="is not the model that this space was saved with: copy the whole folder"):
        Tokenizer.opened(copied)
    write_folder(home / "half", None, TextDecoder(tokenizer.vocab, 32, 1, 2, 64, 66, 0), tokenizer)
    with pytest.raises(ValueError, match="has no encoder"):
        NewLanguage(60, 16, str(home / "half"))
