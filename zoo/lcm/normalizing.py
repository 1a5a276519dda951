"""Where a net's normalizer comes from, if the recipe names none (LCM paper, sec. 2.3.1)."""

from typing import Literal

import lightning as L
import numpy as np
import torch

from zoo.nn.normalizer import Normalizer


class StoreNormalizer(L.Callback):
    """At the start of a fit, a net without a normalizer takes the one that was fitted to the store it is to read. From then on it
    is saved with the net, so a run that goes on keeps its own.

    kind: "robust" is the store's own, of median and quartiles, as the paper's text says; "released" fits what the released code
        does, whose percentiles are 0.25 and 0.75 (`Normalizer.as_released`).
    """

    def __init__(self, kind: Literal["robust", "released"] = "robust"):
        self.kind = kind

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        ours, data = module.net.normalizer, trainer.datamodule
        untouched = bool((ours.scale == 1).all()) and not bool(ours.center.any())
        if not untouched or not hasattr(data, "normalizer"):
            return
        if self.kind == "robust":
            found = data.normalizer
        elif not hasattr(data, "stores"):
            raise ValueError('StoreNormalizer: kind "released" is fitted to a store of sentences, and these data have none.')
        else:
            from zoo.data.sentences import FITTED

            found = Normalizer.as_released(torch.from_numpy(data.stores["train"].sample(FITTED, np.float16)))
        ours.load_state_dict(found.state_dict())
