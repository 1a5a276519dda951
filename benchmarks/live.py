"""What a run of a spec shows while it runs: its validation curve for the record, and the paper's figure in TensorBoard."""

import lightning as L


class Running(L.Callback):
    """Collects `curve`: metric -> [[tokens, value], …] at each validation."""

    def __init__(self, spec: str, about: dict):
        self.spec, self.about, self.curve = spec, about, {}

    def on_validation_end(self, trainer, module) -> None:
        if trainer.sanity_checking or "tokens" not in module.measured:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                self.curve.setdefault(name, []).append([float(module.measured["tokens"]), float(value)])
