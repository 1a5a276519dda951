"""A frozen teacher that reads every batch before the student does (CoCoMix, secs. 2.1 and 3)."""

from pathlib import Path
from typing import Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cocomix.attribution import NONE, ConceptExtractor, Score
from zoo.cocomix.sae import SparseAutoencoder
from zoo.evals.checkpoint import Checkpoint, open_checkpoint

FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt"]


class Teacher(L.Callback):
    """Adds to each batch what a teacher makes of it, computed on the spot, in training, validation and test.

    Args:
        net: the teacher: a run folder, a folder of save_pretrained or of transformers' GPT-2 or Llama, or a name of the hub (the
            paper's: "openai-community/gpt2"). It has the tokenizer of the data.
        gives: what is added, for `zoo.cocomix.CoCoMix`: "concepts" (B, T + ahead, K), labels as `ConceptExtractor` finds them;
            "states" (B, T, E), hidden states after `layer` blocks; "logits": teacher (B, T, F) and unembedding (V, F).
        sae: for concepts, the autoencoder of the states after `layer` blocks: a folder that sae-lens saved, or, with sae_id, one
            of its releases (the paper's: "gpt2-small-resid-post-v5-32k", "blocks.5.hook_resid_post").
        layer: blocks below the states (6 of GPT-2's 12: "layer index 5").
        labels, score, candidates: of `ConceptExtractor`.

    The teacher is no part of the student, its parameters or its checkpoints. Under autocast its products run in the same type as
    the student's.
    """

    def __init__(
        self,
        net: str,
        gives: list[Literal["concepts", "states", "logits"]],
        sae: str | None = None,
        sae_id: str | None = None,
        layer: int = 6,
        labels: int = 4,
        score: Score = "attribution",
        candidates: Literal["active", "all"] = "active",
    ):
        if ("concepts" in gives) != (sae is not None):
            raise ValueError("Teacher: `sae` and concepts among `gives` go together: give both, or neither.")
        if not gives:
            raise ValueError("Teacher: `gives` is empty: name concepts, states or logits, or leave the teacher out.")
        self.net, self.gives, self.sae, self.sae_id, self.layer = net, gives, sae, sae_id, layer
        self.choice = {"labels": labels, "score": score, "candidates": candidates}
        self.teacher: nn.Module | None = None
        self.extractor: ConceptExtractor | None = None

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Raises FileNotFoundError or ValueError, in a sentence, where the teacher cannot be had or does not fit the data."""
        if self.teacher is not None:
            return
        opened, device = opened_teacher(self.net, trainer.datamodule), trainer.strategy.root_device  # the module moves later
        if "logits" in self.gives and opened.net.vocab != module.vocab:
            raise ValueError(
                f"The teacher in {self.net} has {opened.net.vocab} token ids and the student {module.vocab}: their logits cannot "
                "be compared, leave logits out of `gives`."
            )
        self.teacher = opened.net.requires_grad_(False).eval().to(device)
        if self.sae is not None:
            sae = SparseAutoencoder.released(self.sae, self.sae_id) if self.sae_id else SparseAutoencoder.load(self.sae)
            self.extractor = ConceptExtractor(self.teacher, sae.to(device), self.layer, **self.choice)

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self._read(trainer, batch)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        self._read(trainer, batch)

    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0) -> None:
        self._read(trainer, batch)

    def _read(self, trainer: L.Trainer, batch: dict[str, Tensor]) -> None:
        length, trunk = trainer.datamodule.context, self.teacher.trunk
        tokens = batch["tokens"]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            if "concepts" in self.gives:
                labels = self.extractor(tokens[:, : length + 1])
                batch["concepts"] = F.pad(labels, (0, 0, 0, tokens.shape[1] - length), value=NONE)
            if "states" in self.gives or "logits" in self.gives:
                states = trunk.blocks(trunk.embed(tokens[:, :length]), stop=self.layer)
                if "states" in self.gives:
                    batch["states"] = states
                if "logits" in self.gives:
                    batch |= {"teacher": trunk.norm(trunk.blocks(states, start=self.layer)), "unembedding": trunk.unembedding}


def opened_teacher(name: str, data) -> Checkpoint:
    """The net in the folder of this name, or that the hub has under it, for windows of a DataModule.

    Raises FileNotFoundError or ValueError, in a sentence, where it cannot be had or does not fit the data.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and name.count("/") < 2:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=FILES))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"There is no folder {name}, and the hub does not give it ({type(error).__name__}): give a folder of the teacher."
            ) from None
    opened = open_checkpoint(folder)
    if opened.tokenizer.fingerprint != data.tokenizer.fingerprint:
        raise ValueError(f"The teacher in {name} has another tokenizer than the data: give data.tokenizer its own.")
    opened.net.trunk.fits(data.context)
    return opened
