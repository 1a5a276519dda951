"""Codebooks of a space, a decoder that is trained on with them, and what is left of sentences with more and more of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zoo.__main__ import main as own
from zoo.cli import main
from zoo.data.sources import Files
from zoo.evals.quantized import QuantizedScores
from zoo.nn.rvq import ResidualQuantizer
from zoo.pretrained import from_pretrained
from zoo.saved import save
from zoo.sonar import QuantizedDecoder, Space
from zoo.sonar.adapted import open_quantizer
from zoo.sonar.folder import write_folder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    """Texts, a space with random weights, and codebooks of it that the verb made."""
    home = tmp_path_factory.mktemp("home")
    _, parts = harbour(home)
    write_folder(home / "space", *parts)
    made = own(["prepare", "codebooks", "--space", str(home / "space"), "--out", str(home / "books"), "--books", "8", "--units",
                "12", "--steps", "5", "-c", str(ROOT / "recipes/sonar/small.yaml"), *words(home)])  # fmt: skip
    assert 0 < made["variance_left"] < made["variance_left_half"] < made["variance_left_first"] < 1
    return home


def words(home):
    found = [f"--data.init_args.tokenizer={home / 'space'}", "--data.init_args.source=files", "--data.init_args.tokens=128"]
    return [*found, f"--data.init_args.files=['{home}/*.txt']", f"--data.init_args.root={home}/data"]


def test_a_decoder_is_trained_on_with_them_and_measured(home):
    before, given = Space.opened(home / "space"), []
    for name, value in (("space", home / "space"), ("quantizer", home / "books")):
        given.append(f"--model.init_args.net.init_args.{name}={value}")
    given += ["--model.init_args.warmup=2", "--trainer.max_steps=20", "--trainer.val_check_interval=20", "--trainer.precision=32"]
    given += [f"--trainer.logger.init_args.save_dir={home}", "--trainer.callbacks=[]"]
    cli = main(["fit", "-c", str(ROOT / "recipes/sonar/quantized.yaml"), *words(home), *given])
    net, data = cli.model.net, cli.datamodule
    for name, weight in before.encoder.state_dict().items():
        assert weight.equal(net.encoder.state_dict()[name]), name
    assert any(not w.equal(net.decoder.state_dict()[name]) for name, w in before.decoder.state_dict().items())
    assert not any("centroids" in name for name in net.state_dict())  # the codebooks stay where they are
    scores = QuantizedScores(str(home / "books"), sentences=12)
    found = scores.measured(Space(net.encoder, net.decoder, data.tokenizer), data.sentences("test"))
    left = [found[f"variance_left_{part}of8"] for part in range(1, 9)]
    assert left == sorted(left, reverse=True) and [found[f"codebooks_{part}of8"] for part in (1, 4, 8)] == [1, 4, 8]
    assert all(0 <= found[f"quantized_{part}of8"] <= 100 for part in range(1, 9)) and "unquantized" in found
    (home / "other.md").write_text("A ship sailed. The sea was calm.")
    logged, other = {}, {"other": Files(f"{home}/other.md", validation=0.0, test=0.0)}
    module = SimpleNamespace(net=net, log_dict=logged.update)
    for longest, corpora in ((100, other), (1, other)):  # of another text every sentence counts, whatever its length
        QuantizedScores(str(home / "books"), longest=longest, corpora=corpora).on_test_epoch_end(cli.trainer, module)
        space = Space(net.encoder, net.decoder, data.tokenizer)
        wanted = QuantizedScores(str(home / "books")).measured(space, ["A ship sailed.", "The sea was calm."])
        assert logged == {f"test/{name}": value for name, value in wanted.items()}
    pretrained = Path(cli.trainer.log_dir) / "pretrained"
    (home / "books").rename(home / "elsewhere")
    try:  # a net that writes needs no codebooks; one that learns says which are missing
        again = from_pretrained(pretrained)
        assert again.decoder.unembedding.equal(net.decoder.unembedding)
        with pytest.raises(FileNotFoundError, match="there is no ResidualQuantizer"):
            again.moved(torch.zeros(2, 32))
    finally:
        (home / "elsewhere").rename(home / "books")


def test_training_reads_sums_of_centroids_and_at_times_of_fewer(home):
    space, vectors = Space.opened(home / "space"), torch.randn(300, 32)
    net = QuantizedDecoder(space.decoder.vocab, 64, str(home / "space"), str(home / "books"))
    quantizer = open_quantizer(home / "books", 32)
    codes = quantizer.encode(vectors)
    prefixes = torch.stack(quantizer.prefixes(codes, list(range(1, 9))))  # (8, N, E)
    torch.manual_seed(0)
    distance = (net.moved(vectors) - prefixes).abs().amax(2)  # (8, N)
    kept = 1 + distance.argmin(0)
    assert distance.min(0).values.max() < 1e-5 and kept.min() == 6  # two thirds of 8 and up
    assert 0.6 < (kept == 8).float().mean() < 0.9 and {6, 7, 8} == set(kept.tolist())
    torch.testing.assert_close(QuantizedDecoder(space.decoder.vocab, 64, str(home / "space"), str(home / "books"), share=0.0)
                               .moved(vectors), prefixes[-1])  # fmt: skip


def test_what_does_not_fit_is_said(home, tmp_path):
    space = Space.opened(home / "space")
    vocab = space.decoder.vocab
    with pytest.raises(FileNotFoundError, match=r"there is no ResidualQuantizer .* fit one"):
        QuantizedDecoder(vocab, 16, str(home / "space"), str(tmp_path))
    with pytest.raises(ValueError, match="share"):
        QuantizedDecoder(vocab, 16, str(home / "space"), str(home / "books"), share=1.5)
    with pytest.raises(ValueError, match="are for vectors of 32 numbers, not 16"):
        open_quantizer(home / "books", 16)
    small = tmp_path / "quantizer.safetensors"
    save(ResidualQuantizer(32, 4, 4), small)
    with pytest.raises(ValueError, match="has 4 codebooks, too few for eighths"):
        QuantizedScores(str(small)).measured(space, ["A ship sailed."])
    with pytest.raises(SystemExit, match="another tokenizer than these data"):
        own(["prepare", "codebooks", "--space", str(home / "space"), "--out", str(tmp_path), "-c",
             str(ROOT / "recipes/sonar/small.yaml"), *words(home)[1:], "--data.init_args.vocab_size=56"])  # fmt: skip
