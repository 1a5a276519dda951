"""What a run of a spec shows while it runs: its curve, for the record, and the paper's figure with itself in it (TensorBoard)."""

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import lightning as L

from benchmarks import record
from benchmarks.record import Record
from benchmarks.spec import load


class Running(L.Callback):
    """Collects `curve`: metric -> [[tokens, value], …] at each validation, and draws the spec's figures anew from the records of
    the finished runs and from this one's as it stands.

    spec: its name. about: the fields of the record that are known before the run. place: where the records are.
    """

    def __init__(self, spec: str, about: dict, place: str | Path):
        self.spec, self.about, self.place = spec, about, Path(place)
        self.curve: dict[str, list[list[float]]] = {}

    def on_fit_start(self, trainer, module) -> None:
        record.imported_code()  # remembered from now on: what runs is what was read, whatever is edited meanwhile

    def on_test_start(self, trainer, module) -> None:
        record.imported_code()  # likewise where a saved net is measured and nothing is fitted

    def on_validation_end(self, trainer, module) -> None:
        if trainer.sanity_checking or "tokens" not in module.measured:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                self.curve.setdefault(name, []).append([float(module.measured["tokens"]), float(value)])
        if hasattr(trainer.logger, "experiment") and hasattr(trainer.logger.experiment, "add_figure") and trainer.is_global_zero:
            for name, figure in drawn(self.spec, self.about["scale"], [*record.load(self.place)[0], self.so_far(module)]):
                trainer.logger.experiment.add_figure(f"{self.spec}/{name}", figure, trainer.global_step)

    def so_far(self, module) -> Record:
        """The record this run would leave if it ended now, its held-out values taken for those of the test."""
        values = {name.replace("val/", "test/", 1): points[-1][1] for name, points in self.curve.items()}
        data = {"fingerprint": module.trainer.datamodule.fingerprint}
        now = Record(**self.about, status="ok", date="9999", data=data, curve=self.curve, metrics=values, **module.measured)
        return replace(now, crowd=0.0) if now.crowd is None else now


def drawn(name: str, scale: str, records: Iterable[Record]) -> list[tuple[str, object]]:
    """(name, matplotlib figure) of what the spec's page shows; nothing where the libraries are missing, as on a bare node."""
    if any(find_spec(library) is None for library in ("matplotlib", "scipy")):
        return []
    from benchmarks import figures

    spec, records = load(name), list(records)
    both = [("gap", figures.gaps(spec, scale, records)), ("figure", figures.panels(spec, scale, records))]
    return [(kind, figure) for kind, figure in both if figure is not None]
