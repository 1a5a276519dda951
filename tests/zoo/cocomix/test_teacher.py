"""The teacher beside the student: what it adds to a batch, and what it refuses."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.zoo.cocomix.test_sae import D, saved
from zoo.cocomix.attribution import NONE, ConceptExtractor
from zoo.cocomix.net import CoCoMix
from zoo.cocomix.sae import SparseAutoencoder
from zoo.cocomix.teacher import Teacher, about, opened_sae, opened_teacher, reading_flops
from zoo.data.labels import write
from zoo.data.tokenizer import Bytes, train_bpe
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained, to_transformers

T = 8


@pytest.fixture
def home(tmp_path):
    torch.manual_seed(0)
    net = NextToken(257, T, dim=D, layers=3, heads=2, hidden=16, flavour="gpt2")
    save_pretrained(net, tmp_path / "net")
    Bytes().save(tmp_path / "net" / "tokenizer")
    saved(tmp_path / "sae", normalize_activations="layer_norm")
    return tmp_path


def ready(callback, context=T, tokenizer=None, vocab=257, fingerprint="abc"):
    data = SimpleNamespace(context=context, tokenizer=tokenizer or Bytes(), fingerprint=fingerprint, sidecars={})
    trainer = SimpleNamespace(
        datamodule=data,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    callback.setup(trainer, SimpleNamespace(vocab=vocab), "fit")
    return trainer


def batch(ahead=1):
    return {"tokens": torch.randint(0, 257, (2, T + ahead)), "mask": torch.ones(2, T + ahead, dtype=torch.bool)}


def test_what_it_gives_is_what_the_net_takes(home):
    callback = Teacher(str(home / "net"), ["concepts", "states", "logits"], str(home / "sae"), layer=2, score="-attribution")
    trainer, given = ready(callback), batch()
    callback.on_train_batch_start(trainer, None, given, 0)
    extractor = ConceptExtractor(callback.teacher, SparseAutoencoder.load(home / "sae"), 2, score="-attribution")
    assert given["concepts"][:, :T].equal(extractor(given["tokens"])) and (given["concepts"][:, T] == NONE).all()
    trunk = callback.teacher.trunk
    states = trunk.blocks(trunk.embed(given["tokens"][:, :T]), stop=2)
    assert given["states"].equal(states)
    logits = given["teacher"] @ given["unembedding"].T
    torch.testing.assert_close(logits, trunk.unembed(trunk.norm(trunk.blocks(states, 2))))
    for inserted in ("concepts", "states"):
        net = CoCoMix(257, T, dim=16, layers=3, heads=2, insert=1, concepts=48, keep=5, inserted=inserted, teacher_dim=D, kd=0.1)
        out = net(given)
        out["loss"].backward()
        assert len(out["parts"]) == 3 and torch.isfinite(out["loss"])
    assert not any(p.requires_grad for p in callback.teacher.parameters())


def test_labels_do_not_hang_on_how_far_the_student_looks(home):
    callback = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2)
    trainer, far = ready(callback), batch(ahead=4)
    near = {name: x[:, : T + 1] for name, x in far.items()}
    callback.on_validation_batch_start(trainer, None, far, 0)
    callback.on_test_batch_start(trainer, None, near, 0)
    assert far["concepts"].shape == (2, T + 4, 4) and far["concepts"][:, : T + 1].equal(near["concepts"])


def test_it_labels_where_lightning_tests_in_inference_mode(home):
    callback = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2)
    trainer, given = ready(callback), batch()
    callback.on_train_batch_start(trainer, None, given, 0)
    with torch.inference_mode():
        again = {name: given[name].clone() for name in ("tokens", "mask")}
        callback.on_test_batch_start(trainer, None, again, 0)
    assert again["concepts"].equal(given["concepts"]) and (given["concepts"] >= 0).any()


def test_cached_labels_are_those_computed_on_the_spot(home):
    asked = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2)
    trainer, given = ready(asked), batch() | {"window": torch.tensor([5, 2])}
    asked.on_train_batch_start(trainer, None, given, 0)
    opened = opened_teacher(str(home / "net"), trainer.datamodule)
    of = about(trainer.datamodule, opened, asked.extractor, bf16=False)
    rows = {5: given["concepts"][0, :T].numpy(), 2: given["concepts"][1, :T].numpy()}
    write(home / "kept", of, {"train": np.array([2, 5])}, lambda split, n: np.stack([rows[i] for i in n]), lambda line: None)
    for sizes in ({"net": str(home / "net"), "sae": str(home / "sae"), "layer": 2}, {"net": None}):
        reader = Teacher(**sizes, gives=["concepts"], cached=str(home / "kept"))
        kept = ready(reader).datamodule.sidecars["concepts"]  # which the data's batches bring
        assert (kept["train"][np.array([5, 2])] == given["concepts"][:, :T].numpy()).all() and reader.teacher is None
        with pytest.raises(ValueError, match="window 5 of the test split has no labels"):
            kept["test"][np.array([5])]
    for other, words in [({"score": "random"}, "score 'attribution', not 'random'"), ({"layer": 1}, "layer 2, not 1")]:
        sizes = {"net": str(home / "net"), "sae": str(home / "sae"), "layer": 2}
        with pytest.raises(ValueError, match=words):
            ready(Teacher(**sizes | other, gives=["concepts"], cached=str(home / "kept")))
    with pytest.raises(ValueError, match="corpus 'abc', not 'xyz'"):
        ready(Teacher(None, ["concepts"], cached=str(home / "kept")), fingerprint="xyz")
    with pytest.raises(ValueError, match="without a net there are cached concepts only"):
        Teacher(None, ["states"], cached=str(home / "kept"))


def test_it_leaves_what_it_took(home):
    """Operations so far: online every window that was read, of cached labels each window of the text once."""
    both = str(home / "net"), ["concepts", "logits"], str(home / "sae")
    callback = Teacher(*both, layer=2)
    trainer, given, module = ready(callback), batch(), SimpleNamespace(measured={"tokens": 1})
    trainer.world_size, trainer.datamodule.windows = 2, lambda split: 5
    callback.on_train_batch_start(trainer, module, given, 0)
    for step in (0, 2):  # the second in another epoch, where batches are numbered anew
        trainer.fit_loop = SimpleNamespace(total_batch_idx=step)
        callback.on_train_batch_end(trainer, module, None, given, 0)
    net, extractor = callback.teacher, callback.extractor
    apart = reading_flops(net, extractor, T), reading_flops(net, None, T, 3) + 2 * T * net.trunk.unembedding.numel()
    assert module.measured == {"tokens": 1, "teacher_flops": 12 * sum(apart)} and min(apart) > 0  # 3 steps of 2 rows by 2
    assert reading_flops(net, None, T, 2) < reading_flops(net, None, T, 3) < apart[0]
    of = about(trainer.datamodule, opened_teacher(both[0], trainer.datamodule), extractor, bf16=False) | {"flops": 7.0}
    write(home / "kept", of, {"train": np.arange(2)}, lambda split, n: np.zeros((2, T, 4), np.int64), lambda line: None)
    for gives, wanted in ((["concepts"], 5 * 7.0), (["concepts", "logits"], 5 * 7.0 + 12 * apart[1])):
        reader = Teacher(both[0], gives, both[2], layer=2, cached=str(home / "kept"))
        trainer = ready(reader)
        trainer.world_size, trainer.datamodule.windows = 2, lambda split: 5
        reader.on_train_batch_start(trainer, module, given | {"window": torch.tensor([0, 1])}, 0)
        trainer.fit_loop = SimpleNamespace(total_batch_idx=2)
        reader.on_train_batch_end(trainer, module, None, given, 0)
        assert module.measured["teacher_flops"] == pytest.approx(wanted)


def test_a_transformers_folder_is_a_teacher_too(home):
    tokenizer = train_bpe(["a text of texts to learn from"], 300)
    to_transformers(NextToken(300, T, dim=D, layers=3, heads=2, hidden=16, flavour="gpt2"), home / "theirs")
    tokenizer.save(home / "theirs")
    callback, given = Teacher(str(home / "theirs"), ["logits"]), batch()
    callback.on_train_batch_start(ready(callback, tokenizer=tokenizer, vocab=300), None, given, 0)
    assert given["teacher"].shape == (2, T, D)


def test_what_does_not_fit_is_said(home):
    with pytest.raises(ValueError, match="go together"):
        Teacher("net", ["concepts"])
    with pytest.raises(ValueError, match="go together"):
        Teacher("net", ["logits"], sae="folder")
    with pytest.raises(ValueError, match="`gives` is empty"):
        Teacher("net", [])
    with pytest.raises(ValueError, match="another tokenizer than the data"):
        ready(Teacher(str(home / "net"), ["logits"]), tokenizer=train_bpe(["a text of texts to learn from"], 300))
    with pytest.raises(ValueError, match="has 257 token ids and the student 300: their logits cannot be compared"):
        ready(Teacher(str(home / "net"), ["logits"]), vocab=300)
    with pytest.raises(ValueError, match="16 positions were asked of a trunk that has 8"):
        ready(Teacher(str(home / "net"), ["logits"]), context=16)


def test_a_teacher_that_is_nowhere_is_said(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *names, **settings: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(FileNotFoundError, match=r"no folder nobody/nothing, and the hub does not give it \(OSError\)"):
        ready(Teacher("nobody/nothing", ["logits"]))


def test_only_a_plain_net_is_a_teacher(home):
    given = {"dim": 16, "layers": 3, "heads": 2, "insert": 1, "concepts": 48, "keep": 5}
    save_pretrained(CoCoMix(257, T, **given), home / "student", home / "net" / "tokenizer")
    with pytest.raises(ValueError, match="is a CoCoMix, and a teacher is read as a plain next-token net"):
        ready(Teacher(str(home / "student"), ["logits"]))


def test_an_autoencoder_of_other_states_is_refused(home):
    settings, name = home / "sae" / "settings.json", str(home / "sae")
    opened = opened_teacher(str(home / "net"), SimpleNamespace(context=T, tokenizer=Bytes()))
    opened_sae(name, 1, opened)  # one that says nothing of its training
    settings.write_text(json.dumps({"layer": 2, "teacher": opened.digest[:16]}))
    opened_sae(name, 2, opened)
    with pytest.raises(ValueError, match="trained on other states, of layer 2, not 1: give the layer and teacher"):
        ready(Teacher(str(home / "net"), ["concepts"], name, layer=1))
    settings.write_text(json.dumps({"layer": 2, "teacher": "another"}))
    with pytest.raises(ValueError, match="of teacher 'another', not "):
        opened_sae(name, 2, opened)


def test_a_release_says_its_layer(home, monkeypatch):
    made = SparseAutoencoder.load(home / "sae")
    monkeypatch.setattr(SparseAutoencoder, "released", lambda release, name: made)
    opened = opened_teacher(str(home / "net"), SimpleNamespace(context=T, tokenizer=Bytes()))
    assert opened_sae("some-v5/blocks.1.hook_resid_post", 2, opened) is made
    with pytest.raises(ValueError, match="of layer 1, not 2"):
        opened_sae("some-v5/blocks.1.hook_resid_pre", 2, opened)


def test_labels_of_another_size_and_missing_ones_are_refused_before_a_run(home):
    asked = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2)
    trainer = ready(asked)
    net = CoCoMix(257, T, dim=16, layers=3, heads=2, insert=1, concepts=40, keep=5)
    for start in (asked.on_fit_start, asked.on_validation_start, asked.on_test_start):
        with pytest.raises(ValueError, match="The labels are of 48 concepts and the net predicts 40: give model"):
            start(trainer, SimpleNamespace(net=net))
    of = about(trainer.datamodule, opened_teacher(str(home / "net"), trainer.datamodule), asked.extractor, bf16=False)
    labels = lambda split, n: np.zeros((len(n), T, 4), np.int64)
    write(
        home / "kept", of, {"train": np.arange(12), "validation": np.arange(2), "test": np.arange(1)}, labels, lambda line: None
    )
    with pytest.raises(ValueError, match="layer 2, not 1"):
        ready(Teacher(None, ["concepts"], cached=str(home / "kept"), layer=1))
    reader = Teacher(None, ["concepts"], cached=str(home / "kept"))
    trainer, data = ready(reader), trainer.datamodule
    scored = SimpleNamespace(batches=SimpleNamespace(scored=2, window=lambda numbers: numbers))
    data = trainer.datamodule
    data.windows, data.batch, data.seed = lambda split: 12, 3, 0
    data.val_dataloader = data.test_dataloader = lambda: scored
    trainer.max_steps, trainer.accumulate_grad_batches, trainer.world_size = 2, 1, 1
    module = SimpleNamespace(net=CoCoMix(257, T, dim=16, layers=3, heads=2, insert=1, concepts=48, keep=5))
    with pytest.raises(
        ValueError, match=r"1 of 2 windows of the test split have no labels .* 1 for one: run `zoo prepare concepts`"
    ):
        reader.on_fit_start(trainer, module)
    write(home / "kept", of, {"test": np.arange(2)}, labels, lambda line: None)
    reader = Teacher(None, ["concepts"], cached=str(home / "kept"))
    reader.setup(trainer, SimpleNamespace(vocab=257), "fit")
    reader.on_fit_start(trainer, module)


def test_a_run_goes_on_with_the_teacher_that_it_began_with(home):
    first = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2)
    ready(first)
    state = first.state_dict()
    first.load_state_dict(state)
    other = Teacher(str(home / "net"), ["concepts"], str(home / "sae"), layer=2, score="random")
    ready(other)
    with pytest.raises(ValueError, match="another teacher than this one, of score 'random', not 'attribution': give the teacher"):
        other.load_state_dict(state)
