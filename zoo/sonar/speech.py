"""SONAR's speech encoder: sound to the same vectors, through sonar-space (LCM paper, sec. 2.1, Table 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

RATE = 16000  # samples per second that the encoder was trained on


class Speech:
    """Sounds -> vectors of the space, by sonar-space's own speech encoder.

    model: of sonar-space, from `opened` or made by its SonarSpeechEncoderFactory.
    """

    def __init__(self, model: nn.Module):
        self.model = model.eval()

    @classmethod
    def opened(cls, card: str = "sonar_speech_encoder_eng", device: torch.device | str = "cpu") -> "Speech":
        """The encoder of one language's card. Raises ImportError or OSError (no weights, no network) in a sentence."""
        from zoo.sonar.cards import load_model

        return cls(load_model(card).to(device))

    def encode(self, sounds: Sequence[Tensor], batch: int = 4) -> Tensor:
        """One vector (N, E), float32, per mono sound (samples,) of 16 kHz in [-1, 1]; `batch` sounds at a time, by length."""
        wrong = [tuple(sound.shape) for sound in sounds if sound.ndim != 1 or len(sound) < RATE // 20]
        if wrong:
            raise ValueError(f"A sound is (samples,) of one channel, at least 50 ms at {RATE} Hz, and not {wrong[0]}.")
        if not len(sounds):
            return torch.empty(0, self.model.encoder_pooler.projection_out.output_dim)
        from sonar.inference_pipelines.speech import SpeechToEmbeddingModelPipeline

        device = next(self.model.parameters()).device
        order = sorted(range(len(sounds)), key=lambda i: len(sounds[i]))
        found = SpeechToEmbeddingModelPipeline(self.model, device=device).predict(
            [sounds[i].float().cpu()[None] for i in order], batch_size=batch
        )
        out = torch.empty_like(found)
        out[torch.tensor(order, device=device)] = found
        return out.float().clone()
