"""Where a net's normalizer comes from, if the recipe names none (LCM paper, sec. 2.3.1)."""

import lightning as L


class StoreNormalizer(L.Callback):
    """At the start of a fit, a net without a normalizer takes the one that was fitted to the store it is to read. From then on it
    is saved with the net, so a run that goes on keeps its own."""

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        ours = module.net.normalizer
        untouched = bool((ours.scale == 1).all()) and not bool(ours.center.any())
        if untouched and hasattr(trainer.datamodule, "normalizer"):
            ours.load_state_dict(trainer.datamodule.normalizer.state_dict())
