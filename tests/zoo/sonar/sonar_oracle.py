"""Run by conftest.py in a process of its own: sonar-space's answers about the folder given, written there as answers.pt."""

import sys
from pathlib import Path

import soundfile  # noqa: F401  # before fairseq2
import torch
from fairseq2.data.tokenizers import VocabularyInfo
from fairseq2.models.nllb.tokenizer import NllbTokenizerConfig, load_nllb_tokenizer
from fairseq2.nn import BatchLayout
from sonar.inference_pipelines.text import EmbeddingToTextModelPipeline, TextToEmbeddingModelPipeline
from sonar.models.sonar_text import (
    SonarTextDecoderConfig,
    SonarTextDecoderFactory,
    SonarTextEncoderConfig,
    SonarTextEncoderFactory,
)

from zoo.sonar.cards import from_card
from zoo.sonar.space import Space
from zoo.sonar.speech import RATE, Speech

RELEASED = (
    "text_sonar_basic_encoder",
    "text_sonar_basic_decoder",
    "text_sonar_finetuned_decoder",
    "sonar_speech_encoder_eng",
)
TEXTS = ["The sea was calm.", "A ship sailed slowly to its old town."]


def decoded(model, vectors: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    memory = vectors[:, None]
    return model(memory, BatchLayout.of(memory), tokens, BatchLayout.of(tokens))


@torch.inference_mode()
def by_name(asked: dict, folder: Path) -> dict:
    """Its pipelines on our cards; and our own reading of the same cards."""
    name, texts, lang = asked["name"], asked["texts"], asked["langs"][0]
    encode = TextToEmbeddingModelPipeline(f"{name}_encoder", f"{name}_encoder")
    write = EmbeddingToTextModelPipeline(f"{name}_decoder", f"{name}_decoder")
    vectors = encode.predict(texts, source_lang=lang)
    strange = torch.cat([vectors, asked["vectors"]])
    kwargs = {"target_lang": lang, "batch_size": 16, "max_seq_len": 30}
    found = {f"beam{beam}": write.predict(strange, beam_size=beam, **kwargs) for beam in (1, 3, 5)}
    found["penalty"] = write.predict(strange, beam_size=4, len_penalty=0.3, **kwargs)
    opened = Space.opened(f"{name}_encoder", f"{name}_decoder")
    found |= {"vectors": vectors, "opened": opened.encode(texts), "opened_langs": opened.tokenizer.langs}
    found["opened_texts"] = opened.decode(strange, limit=30)
    half = asked["half"]
    found["half"] = TextToEmbeddingModelPipeline(f"{half}_encoder", f"{half}_encoder").predict(texts, source_lang=lang)
    found["half_texts"] = EmbeddingToTextModelPipeline(f"{half}_decoder", f"{half}_decoder").predict(
        found["half"], beam_size=5, **kwargs
    )
    config = NllbTokenizerConfig(langs=list(asked["langs"]), default_lang=lang)
    tokenizer = load_nllb_tokenizer(folder / "sentencepiece.model", config)
    samples = [*texts[:8], "", "é à 漢字 <pad> </s> __eng_Latn__", " two  spaces\tand a tab\n", "“UPPER” … ﬁ"]
    found["samples"] = samples
    for mode in ("source", "target"):
        for code in asked["langs"]:
            found[f"{mode} {code}"] = [tokenizer.create_encoder(lang=code, mode=mode)(text).tolist() for text in samples]
    write_text = tokenizer.create_decoder()
    found["read"] = [write_text(torch.tensor(row)) for row in found[f"target {lang}"]]
    info = tokenizer.vocab_info
    found["vocab_info"] = [info.size, info.pad_idx, info.unk_idx, info.bos_idx, info.eos_idx]
    return found


@torch.inference_mode()
def at_random(folder: Path) -> dict:
    """Models of its factories, and what they make of tokens; pad 1 and _from_fairseq as its "basic" architecture has them."""
    torch.manual_seed(0)
    info = VocabularyInfo(size=50, unk_idx=1, bos_idx=2, eos_idx=3, pad_idx=1)
    sizes = {"model_dim": 24, "max_seq_len": 20, "vocab_info": info, "num_encoder_layers": 3, "num_decoder_layers": 3}
    sizes |= {"num_encoder_attn_heads": 2, "num_decoder_attn_heads": 2, "ffn_inner_dim": 40}
    dropouts = {"emb_dropout_p": 0.1, "attention_dropout_p": 0.1, "activation_dropout_p": 0.1}
    flags = {"activation_fn": "ReLU", "no_scale_embedding": False, "no_token_positional_embeddings": False, "learned_pos": False}
    lengths = [9, 4, 7, 1]
    tokens = torch.randint(4, 50, (4, 9))
    found = {"tokens": tokens, "lengths": torch.tensor(lengths)}
    for pooling in ("mean", "max", "last"):
        encoder = (
            SonarTextEncoderFactory(SonarTextEncoderConfig(**sizes, pooling=pooling, _from_fairseq=True)).create_model().eval()
        )
        found[f"{pooling} padded"] = encoder(tokens, BatchLayout.of(tokens, lengths)).sentence_embeddings
        found[f"{pooling} full"] = encoder(tokens, BatchLayout.of(tokens)).sentence_embeddings
        torch.save(encoder.state_dict(), folder / f"{pooling}.pt")
    config = SonarTextDecoderConfig(**sizes, **dropouts, **flags, normalize_before=True, input_dim=16)
    decoder = SonarTextDecoderFactory(config).create_model().eval()
    found["memory"] = torch.randn(4, 16)
    found["logits"] = decoded(decoder, found["memory"], tokens)
    torch.save({"model": decoder.state_dict()}, folder / "decoder.pt")
    return found


def released() -> dict[str, str]:
    """Model family of each released card that recipes and specs name, from the installed package alone: nothing is fetched."""
    from fairseq2.assets import AssetStore
    from fairseq2.runtime.dependency import get_dependency_resolver

    cards = get_dependency_resolver().resolve(AssetStore)
    return {name: cards.retrieve_card(name).field("model_family").as_(str) for name in RELEASED}


@torch.inference_mode()
def shipped(name: str) -> torch.Tensor:
    """Vectors of the space of this repository, by its card."""
    return TextToEmbeddingModelPipeline(f"{name}_encoder", f"{name}_encoder").predict(TEXTS, source_lang="eng_Latn")


def refused(folder: Path) -> dict:
    """What our side says about cards that cannot be opened."""
    card = (folder / "cards" / "tiny_zoo.yaml").read_text().split("---")[0]
    (folder / "cards" / "gone.yaml").write_text(card.replace("tiny_zoo", "gone").replace("../encoder", "../gone"))
    (folder / "cards" / "far.yaml").write_text(
        card.replace("tiny_zoo", "far").replace("../encoder", "http://127.0.0.1:9/encoder")
    )
    said = {}
    for name in ("gone_encoder", "far_encoder", "no_such_card"):
        try:
            from_card(name)
        except (OSError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def spoken() -> dict:
    """Shapes of a tiny speech encoder with random weights."""
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
    from sonar.models.sonar_speech import SonarSpeechEncoderConfig
    from sonar.models.sonar_speech.factory import SonarSpeechEncoderFactory

    torch.manual_seed(0)
    inner = Wav2Vec2EncoderConfig(
        model_dim=32, max_seq_len=256, feature_dim=160, use_fbank=True, first_pass_dropout_p=0.0, layer_norm_features=False,
        feature_extractor_layer_descs=[], feature_extractor_bias=False, feature_grad_scale=0.0, num_fbank_channels=80,
        fbank_stride=2, sample_fbank_every_k=1, num_encoder_layers=1, num_encoder_attn_heads=2, ffn_inner_dim=64,
        use_conformer=True, pos_encoder_type="relative", depthwise_conv_kernel_size=3, norm_order=TransformerNormOrder.POST,
    )  # fmt: skip
    config = SonarSpeechEncoderConfig(
        w2v2_encoder_config=inner, final_dropout_p=0.1, model_dim=32, max_seq_len=256, pad_idx=1, bos_idx=2, num_decoder_layers=1,
        num_decoder_attn_heads=2, decoder_norm_order=TransformerNormOrder.POST, ffn_inner_dim=64, dropout_p=0.1,
    )  # fmt: skip
    speech = Speech(SonarSpeechEncoderFactory(config).create_model())
    sounds = [torch.randn(int(seconds * RATE)) * 0.1 for seconds in (0.5, 0.2, 0.35)]
    return {"together": speech.encode(sounds, batch=2), "alone": torch.cat([speech.encode([sound]) for sound in sounds])}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    asked = torch.load(folder / "asked.pt", weights_only=True)
    refusals = refused(folder)
    answers = {"named": by_name(asked, folder), "random": at_random(folder), "speech": spoken(), "refused": refusals}
    answers |= {"released": released(), "shipped": shipped(asked["shipped"]) if asked["shipped"] else None, "texts": TEXTS}
    torch.save(answers, folder / "answers.pt")
