"""What TensorBoard shows: sentences beside predictions, codebooks, the sweep of guidance."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.zoo.lcm.arms import ARMS, WIDTH, arm, batch, parts
from zoo.lcm import board as board_module
from zoo.lcm.board import SentenceBoard
from zoo.nn.diffusion import Sampler

torch.set_num_threads(1)


class Digits:
    """A space that writes a vector's first number."""

    def decode(self, vectors, lang, beam):
        return [f"{x:.1f} | {lang}" for x in vectors[:, 0].tolist()]


@pytest.mark.parametrize("name", ARMS)
def test_what_a_run_leaves_on_the_board(name, tmp_path):
    net, given = arm(name, parts(tmp_path)), batch()
    if name in ("one", "two"):
        net.sampler = Sampler(taken=4)
    board = SentenceBoard(space="somewhere", sentences=3, guidance=(1.0, 3.0), sampler={"guidance": 1.25})
    board.space = Digits()
    logger = TensorBoardLogger(tmp_path, name="run", version="x")
    texts = [f"Sentence {n}." for n in range(5)]
    data = SimpleNamespace(
        stores={"validation": SimpleNamespace(texts=lambda number: texts if number == 0 else [])}, lang="eng_Latn"
    )
    trainer = SimpleNamespace(logger=logger, is_global_zero=True, sanity_checking=False, global_step=7, datamodule=data)
    module = SimpleNamespace(net=net)
    board.on_validation_end(trainer, module)  # before any batch there is nothing to show
    board.on_validation_batch_start(trainer, module, given, 0)
    board.on_validation_batch_start(trainer, module, batch(seed=4), 1)
    board.on_validation_end(trainer, module)
    sampler = net.sampler
    board.on_fit_end(trainer, module)
    assert net.sampler == sampler
    logger.experiment.flush()
    events = EventAccumulator(str(logger.log_dir), size_guidance={"tensors": 0, "images": 0, "histograms": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    if name != "base":
        net.sampler = replace(net.sampler, guidance=1.25)
    table = events.Tensors("sentence/text_summary")[0].tensor_proto.string_val[0].decode()
    said = net.predict(given)[0, :3, 0].tolist()
    assert table.splitlines()[2:] == [f"| Sentence {n}. | {x:.1f} \\| eng_Latn |" for n, x in enumerate(said)]
    quantized = name in ("discrete", "continuous")
    assert tags["images"] == ([] if name == "base" else ["guidance"])
    assert tags["histograms"] == (["codebook/1", "codebook/2", "codebook/3"] if quantized else [])
    if quantized:
        codes = net.quantizer.encode(net.predict(given).view(-1, WIDTH))
        used = sum(len(set(column)) for column in codes.T.tolist()) / codes.shape[1] / 8
        assert events.Scalars("codebook/used")[0].value == pytest.approx(used)


@pytest.mark.parametrize("name", ARMS)
def test_what_cannot_be_shown_is_told_before_the_training(name, tmp_path, monkeypatch):
    net = arm(name, parts(tmp_path))
    logger = TensorBoardLogger(tmp_path, name="run", version="x")
    trainer = SimpleNamespace(logger=logger, is_global_zero=True, sanity_checking=False)
    module, space = SimpleNamespace(net=net, vocab=WIDTH, device="cpu"), SimpleNamespace(decoder=1, width=WIDTH)
    monkeypatch.setattr(board_module, "Space", SimpleNamespace(opened=lambda *sources, device: space))
    kept = net.sampler
    for settings in ({"sampler": {"guidance": 2.0}}, {}):
        SentenceBoard("somewhere", **settings).on_fit_start(trainer, module)
    assert net.sampler == kept
    if name != "base":  # it has no guidance, and no settings
        with pytest.raises(ValueError, match="SentenceBoard: the net's sampler has no guidence"):
            SentenceBoard(sampler={"guidence": 2.0}).on_fit_start(trainer, module)
    space.width = WIDTH + 1
    with pytest.raises(ValueError, match="vectors of 7 numbers, and those of the data have 6"):
        SentenceBoard("somewhere").on_fit_start(trainer, module)
    space.decoder = None
    with pytest.raises(ValueError, match="somewhere has no decoder"):
        SentenceBoard("somewhere").on_fit_start(trainer, module)
    trainer.logger = None  # nothing is shown
    SentenceBoard("somewhere").on_fit_start(trainer, module)


def test_the_sweep_draws_what_was_measured(tmp_path):
    net, given = arm("two", parts(tmp_path)), batch(rows=6)
    net.sampler = Sampler(taken=4)
    figure = SentenceBoard(guidance=(1.0, 2.0)).sweep(net, given)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1.0, 2.0]
    for g, drawn in zip((1.0, 2.0), line.get_ydata().tolist()):
        net.sampler = Sampler(taken=4, guidance=g)
        far = (net.predict(given) - given["vec"])[:, 1:].norm(dim=-1).mean()
        assert drawn == pytest.approx(float(far), rel=1e-5)
