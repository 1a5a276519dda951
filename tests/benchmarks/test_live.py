"""A run of a spec in TensorBoard while it runs, and the dashboard made of records."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import board, child, live, record, report
from benchmarks import spec as spec_module
from benchmarks.record import Record
from benchmarks.spec import expand, load

SPEC = {
    "title": "made up",
    "source": {"arxiv": "0000.00000", "item": "Figure 9"},
    "recipe": "recipes/mtp/code.yaml",
    "runs": {
        f"n{n}": {"label": f"n = {n}", "overrides": {"model.init_args.net.init_args.n": n}, "x": n, "line": "a"} for n in (1, 2)
    },
    "metrics": [{"keys": ["test/bits_per_byte"], "label": "bits/byte", "direction": "lower", "digits": 3}],
    "claims": [{"kind": "better", "rows": ["n1", "n2"], "metrics": ["test/bits_per_byte"], "sentence": "One beats two."}],
    "panels": [{"y": "test/bits_per_byte", "title": "t", "xlabel": "n", "ylabel": "bits/byte"}],
    "scales": {"smoke": {"seeds": [0]}, "laptop": {"seeds": [0, 1, 2]}},
}  # fmt: skip


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A spec of its own beside the real recipes; records and boards go to a folder of their own."""
    (tmp_path / "figure-made-9.yaml").write_text(yaml.safe_dump(SPEC))
    (tmp_path / "recipes").symlink_to(spec_module.ROOT / "recipes")
    for module in (spec_module, record, report, child, board):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(spec_module, "SPECS", tmp_path)
    return load("figure-made-9")


def made(spec, scale, value, every=100):
    """A record for every run; value(row, seed, tokens) along four validations."""
    found = []
    for r in expand(spec, scale):
        curve = {"val/bits_per_byte": [[float(every * i), value(r.row, r.seed, every * i)] for i in range(1, 5)]}
        last = {"test/bits_per_byte": curve["val/bits_per_byte"][-1][1]}
        found.append(Record(r.recipe, r.row, scale, r.seed, r.key, r.command, "ok", "2026-01-01", metrics=last, curve=curve,
                            data={"description": "made", "fingerprint": "f"}, tokens=400))  # fmt: skip
    return found


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_the_code_is_remembered_before_a_saved_net_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(record, "imported_code", lambda: asked.append(True))
    live.Running("figure-made-9", {}, "records").on_test_start(None, None)
    assert asked


def test_a_run_leaves_its_curve_and_redraws_the_figure(spec, tmp_path, monkeypatch):
    """The real thing: a smoke run through the very function that the runner's processes call."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "records"
    r = expand(spec, "smoke")[1]
    same = {"description": "made", "fingerprint": child.datamodule(r.config()["data"]).fingerprint}
    record.save(replace(made(spec, "smoke", lambda row, seed, tokens: 5.0, 1024)[0], data=same), place)
    about = {"recipe": r.recipe, "run": r.row, "scale": "smoke", "seed": 0, "key": r.key, "command": r.command, "needs": []}
    words = [*r.arguments({"trainer.max_steps": 8, "trainer.logger.init_args.version": "v"})]
    child.child(
        {
            "identity": about,
            "spec": spec.name,
            "arguments": words,
            "place": str(place),
            "home": str(tmp_path / "home"),
            "devices": 1,
        }
    )
    [left] = [x for x in record.load(place)[0] if x.key == r.key]
    points = left.curve["val/bits_per_byte"]
    assert [tokens for tokens, _ in points] == [1024.0, 2048.0] and left.tokens == 2048
    assert points[0][1] > points[1][1] > 3 and left.allocated_mib > 0 and left.threads >= 1 and left.crowd is not None
    events = read(tmp_path / "runs/mtp-code/v")
    for tag in (f"{spec.name}/gap", f"{spec.name}/figure"):
        assert [image.step for image in events.Images(tag)] == [4, 8]
        assert events.Images(tag)[0].encoded_image_string != events.Images(tag)[1].encoded_image_string


def test_the_dashboard_has_a_band_per_arm_and_the_claims(spec, tmp_path):
    records = made(spec, "laptop", lambda row, seed, tokens: 4 - tokens / 1000 + 0.1 * seed + 0.2 * (row == "n2"))
    assert board.write(spec, "laptop", records, tmp_path / "out") == 2
    one = read(tmp_path / "out" / "n = 1")
    mean, low, high = ([e.value for e in one.Scalars(f"bits_per_byte/{edge}")] for edge in ("mean", "low", "high"))
    assert mean == pytest.approx([4.0, 3.9, 3.8, 3.7]) and [e.step for e in one.Scalars("bits_per_byte/mean")] == [
        100,
        200,
        300,
        400,
    ]
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile for three seeds, their spread, and its share
    assert [h - m for h, m in zip(high, mean)] == pytest.approx([half] * 4) == [m - x for m, x in zip(mean, low)]
    claims = read(tmp_path / "out" / "claims")
    tag = "gap/n1 - n2: bits_per_byte"
    assert [e.value for e in claims.Scalars(f"{tag}/mean")] == pytest.approx([-0.2] * 4)
    layout = str(claims.Tensors("custom_scalars__config__")[0].tensor_proto)
    assert "bits_per_byte/mean" in layout and tag in layout
    assert {"page/gap", "page/figure"} <= set(claims.Tags()["images"])
    text = str(claims.Tensors("verdicts/text_summary")[0].tensor_proto)
    assert "holds" in text and "One beats two." in text


def test_arms_without_a_record_are_left_out_and_none_is_a_sentence(spec, tmp_path, capsys):
    records = made(spec, "laptop", lambda row, seed, tokens: 1.0)
    assert board.write(spec, "laptop", [r for r in records if r.run == "n1"], tmp_path / "out") == 1
    assert not (tmp_path / "out" / "n = 2").exists()
    assert board.main(["figure-made-9", "--scale", "laptop", "--write-only"]) == 1
    assert "make reproduce-figure-made-9 SCALE=laptop" in capsys.readouterr().err
    for r in records:
        record.save(r, record.folder("laptop"))
    assert board.main(["figure-made-9", "--scale", "laptop", "--write-only"]) == 0
    assert "2 arms in runs/boards/figure-made-9-laptop" in capsys.readouterr().out


def test_a_run_of_one_seed_still_draws(spec):
    records = made(spec, "smoke", lambda row, seed, tokens: 1.0)
    assert [name for name, _ in live.drawn(spec.name, "smoke", records)] == ["gap", "figure"]
    assert live.drawn(spec.name, "smoke", [replace(r, curve={}) for r in records[:1]])[0][0] == "figure"
