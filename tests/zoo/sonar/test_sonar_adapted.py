"""A decoder trained on with noise: it starts as the space's, the rest stays, and its fragility is measured beside the space's."""

from pathlib import Path

import pytest
import torch

from zoo.cli import main
from zoo.evals.fragility import LEVELS, FragilityScores
from zoo.nn.normalizer import Normalizer
from zoo.pretrained import Saved, from_pretrained
from zoo.sonar import RobustDecoder, Space
from zoo.sonar.folder import write_folder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    """Texts, and a space with random weights and a normalizer."""
    home = tmp_path_factory.mktemp("home")
    lines, parts = harbour(home)
    write_folder(home / "bare", *parts)
    normalizer = Normalizer.fitted(Space.opened(home / "bare").encode(lines))
    write_folder(home / "space", *parts, normalizer=normalizer)
    return home


def words(home, *more):
    found = [f"--model.init_args.net.init_args.space={home / 'space'}", f"--data.init_args.tokenizer={home / 'space'}"]
    found += ["--data.init_args.source=files", f"--data.init_args.files=['{home}/*.txt']", "--model.init_args.warmup=2"]
    found += [f"--data.init_args.root={home}/data", "--trainer.max_steps=20", "--trainer.val_check_interval=20"]
    found += [f"--trainer.logger.init_args.save_dir={home}", "--data.init_args.tokens=128", "--trainer.precision=32"]
    return ["fit", "-c", str(ROOT / "recipes/sonar/robust.yaml"), *found, *more]


def test_only_the_decoder_moves_and_its_fragility_is_measured(home):
    before = Space.opened(home / "space")
    cli = main(words(home))
    net, data = cli.model.net, cli.datamodule
    for name, weight in before.encoder.state_dict().items():
        assert weight.equal(net.encoder.state_dict()[name]), name
    assert net.normalizer.center.equal(before.normalizer.center) and net.normalizer.scale.equal(before.normalizer.scale)
    assert any(not w.equal(net.decoder.state_dict()[name]) for name, w in before.decoder.state_dict().items())
    found = cli.trainer.test(cli.model, datamodule=data, verbose=False)[0]
    assert all(0 <= found[f"test/{score}@{level}"] <= 1 for score in ("bleu", "cosine") for level in LEVELS)
    mean = sum(found[f"test/bleu@{level}"] for level in LEVELS) / len(LEVELS)
    assert found["test/fragility_bleu"] == pytest.approx(-mean, abs=1e-6)
    assert found["test/kept_bleu"] * found["test/bleu@0"] == pytest.approx(mean, abs=1e-6)
    pretrained = Path(cli.trainer.log_dir) / "pretrained"
    texts = data.sentences("test")[:4]
    again, opened = from_pretrained(pretrained), Space.opened(pretrained)
    assert again.config["sizes"]["encoder"] == before.encoder.config
    torch.testing.assert_close(opened.encode(texts), before.encode(texts))
    assert opened.decoder.unembedding.equal(net.decoder.unembedding)
    saved = Saved(data.vocab, data.context, str(pretrained))  # where a recipe measures it
    assert saved.decoder.unembedding.equal(net.decoder.unembedding)
    with pytest.raises(ValueError, match="this decoder has 66 positions, and sentences of 65 pieces need 67"):
        Saved(data.vocab, 65, str(pretrained))
    own = FragilityScores(sentences=5, learnt=0, levels=(0.2, 0.8)).measured(opened, again, data)
    named = FragilityScores(str(home / "space"), sentences=5, learnt=0, levels=(0.2, 0.8)).measured(opened, again, data)
    assert own == named and {"bleu@0.2", "cosine@0.8", "bleu_sd@0.2", "bleu_60"} <= set(own)


def test_it_begins_as_the_space_and_learns_with_noise(home):
    space, tokens = Space.opened(home / "space"), torch.randint(10, 40, (64, 9))
    net = RobustDecoder(space.decoder.vocab, 64, str(home / "space"), dropout=0.0)
    batch = {"source": tokens, "tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)}
    net.eval()
    plain = net(batch)["loss"]
    with torch.no_grad():
        vectors = space.encoder(tokens)
        logits = space.decoder(vectors, tokens[:, :-1])
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:]))
    seen = []
    net.train()
    written = net.decoder.hidden
    net.decoder.hidden = lambda vectors, tokens: seen.append(vectors) or written(vectors, tokens)
    net(batch)
    moved = space.normalizer.normalize(seen[0]) - space.normalizer.normalize(vectors)
    assert not net.encoder.training and net.decoder.training and moved.abs().mean(1).min() > 0
    assert moved.std(1).max() > 3 * moved.std(1).min()  # each sentence has a level of its own


def test_what_does_not_fit_is_said(home):
    with pytest.raises(ValueError, match="has no normalizer: give the folder of a whole space"):
        RobustDecoder(60, 16, str(home / "bare"))
    with pytest.raises(ValueError, match="token ids and the data 61: give data"):
        RobustDecoder(61, 16, str(home / "space"))
    with pytest.raises(ValueError, match="level"):
        RobustDecoder(60, 16, str(home / "space"), level=1.5)
    with pytest.raises(ValueError, match="has no normalizer: `zoo prepare space`"):
        FragilityScores(str(home / "bare"))._normalizer(None, None, None)
