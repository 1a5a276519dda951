"""Bridges to sonar-space: asset cards of our folders, so that its pipelines load them by name, and its models by their cards.

Needs sonar-space (with fairseq2 under it); nothing else in zoo.sonar does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from zoo.files import put
from zoo.nn.normalizer import Normalizer
from zoo.sonar.folder import filled, write_folder
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import BOS, EOS, UNK, Tokenizer


def write_space(
    folder: str | Path,
    encoder: TextEncoder,
    decoder: TextDecoder,
    tokenizer: Tokenizer,
    name: str,
    *,
    normalizer: Normalizer | None = None,
    dtype: torch.dtype = torch.float16,
    shard: int | None = None,
) -> None:
    """Write a folder (see zoo.sonar.folder) and in its cards/ the asset cards `name`_encoder and `name`_decoder.

    sonar-space's pipelines load those by name where FAIRSEQ2_USER_ASSET_DIR is folder/cards. The cards point to the folder's own
    files, relative to themselves: the folder can be moved.
    """
    import yaml

    write_folder(folder, encoder, decoder, tokenizer, normalizer=normalizer, dtype=dtype, shard=shard)
    cards = [encoder_card(encoder, tokenizer, f"{name}_encoder"), decoder_card(decoder, f"{name}_decoder", f"{name}_encoder")]
    if shard is not None:
        for card in cards:
            card["checkpoint"] = card["checkpoint"].removesuffix(".safetensors")
    put(Path(folder) / "cards" / f"{name}.yaml", lambda path: path.write_text(yaml.safe_dump_all(cards, sort_keys=False)))


def encoder_card(net: TextEncoder, tokenizer: Tokenizer, name: str) -> dict:
    """The asset card of an encoder and its tokenizer."""
    return {
        "name": name,
        "model_family": "transformer_encoder",
        "model_arch": "small",  # the configuration has no defaults of its own; every size is overridden
        "model_config": _sizes(net.config) | {"pooling": net.config["pooling"], "_from_fairseq": False},
        "checkpoint": "../encoder.safetensors",
        "tokenizer": "../sentencepiece.model",
        "tokenizer_family": "nllb",
        "tokenizer_config": {"_set_": {"default_lang": tokenizer.default, "langs": list(tokenizer.langs)}},
    }


def decoder_card(net: TextDecoder, name: str, encoder: str) -> dict:
    """The asset card of a decoder whose tokenizer is that of the card `encoder`."""
    return {
        "name": name,
        "model_family": "transformer_decoder",
        "model_arch": "toy",
        "model_config": _sizes(net.config) | {"input_dim": net.config["memory"]},
        "checkpoint": "../decoder.safetensors",
        "tokenizer_ref": encoder,
    }


def _sizes(config: dict) -> dict:
    return {
        "model_dim": config["dim"],
        "max_seq_len": config["positions"],
        "num_encoder_layers": config["layers"],
        "num_decoder_layers": config["layers"],
        "num_encoder_attn_heads": config["heads"],
        "num_decoder_attn_heads": config["heads"],
        "ffn_inner_dim": config["hidden"],
        **dict.fromkeys(("emb_dropout_p", "attention_dropout_p", "activation_dropout_p"), config["dropout"]),
        "vocab_info": {"size": config["vocab"], "unk_idx": UNK, "bos_idx": BOS, "eos_idx": EOS, "pad_idx": config["pad"]},
    }


def from_card(name: str, dtype: torch.dtype = torch.float32) -> tuple[TextEncoder | TextDecoder, Tokenizer]:
    """The net and the tokenizer of a text encoder's or decoder's asset card, its weights fetched by sonar-space where needed.

    Raises ImportError, ValueError (no such card) or OSError (no weights), each in a sentence.
    """
    card = _card(name)
    net = from_sonar(load_model(name, dtype))
    with _fetching(f"The tokenizer of {name!r} is"):
        return net, _tokenizer(card)


def tokenizer_of_card(name: str) -> Tokenizer:
    """The tokenizer of a card, without its weights. Raises what `from_card` raises."""
    card = _card(name)
    with _fetching(f"The tokenizer of {name!r} is"):
        return _tokenizer(card)


def _card(name: str):
    _sonar(f"open the card {name!r}")
    from fairseq2.assets import AssetNotFoundError, AssetStore
    from fairseq2.runtime.dependency import get_dependency_resolver

    try:
        return get_dependency_resolver().resolve(AssetStore).retrieve_card(name)
    except AssetNotFoundError:
        raise ValueError(
            f"There is no folder and no card of sonar-space named {name!r}: give a folder of weights, or a name such as "
            "text_sonar_basic_encoder."
        ) from None


def load_model(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """sonar-space's own model of a card (text or speech), on the CPU and in evaluation mode.

    Raises ImportError or OSError in a sentence, the latter where weights are neither here nor to be fetched.
    """
    _sonar(f"open the card {name!r}")
    from fairseq2.models import load_model

    with _fetching(f"The weights of {name!r} are"):
        return load_model(name, device=torch.device("cpu"), dtype=dtype).eval()


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Turn what fairseq2 says of files that are not to be had into one sentence."""
    from fairseq2.assets import AssetCardError, AssetDownloadError

    try:
        yield
    except (AssetDownloadError, AssetCardError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise OSError(
            f"{what} not here and cannot be fetched: run this once where there is network, or use a local folder ({reason})."
        ) from None


def from_sonar(model: nn.Module) -> TextEncoder | TextDecoder:
    """Our net with the weights (shared, not copied, where the type is float32) of sonar-space's text encoder or decoder.

    Raises ValueError for a model that is built differently: learned positions, unscaled vectors, attention pooling.
    """
    decodes = hasattr(model, "decoder_frontend")
    front, layers = (model.decoder_frontend, model.decoder.layers) if decodes else (model.encoder_frontend, model.encoder.layers)
    table, first = front.embed.weight, layers[0]
    places = getattr(front, "pos_encoder", None)
    odd = None
    if not hasattr(places, "sin_offset"):
        odd = "positions that are not sinusoids"
    elif abs(front.scale - table.shape[1] ** 0.5) > 1e-6:
        odd = "token vectors that are not scaled by the root of their width"
    elif not isinstance(first.ffn.inner_activation, nn.ReLU):
        odd = "another activation than ReLU"
    elif getattr(model, "normalize_emb", False) or getattr(model, "pooler", None) is not None:
        odd = "a trained pooling, or vectors that are normed first"
    if odd:
        raise ValueError(f"This model of sonar-space has {odd}: zoo.sonar.net has the architecture of its text cards only.")
    config = {
        "vocab": table.shape[0],
        "dim": table.shape[1],
        "layers": len(layers),
        "heads": first.self_attn.num_heads,
        "hidden": first.ffn.inner_proj.weight.shape[0],
        "positions": places.max_seq_len,
        "pad": places.sin_offset - 1,
    }
    if decodes:
        config["memory"] = first.encoder_decoder_attn.v_proj.weight.shape[1]
    else:
        config["pooling"] = model.pooling.name.lower()
    state = {name: w.detach() for name, w in model.state_dict().items()}
    return filled(TextDecoder if decodes else TextEncoder, config, state, "The model of sonar-space", table.dtype)


def _tokenizer(card) -> Tokenizer:
    """The tokenizer of an asset card, from its SentencePiece file."""
    from fairseq2.assets import AssetDownloadManager, AssetStore
    from fairseq2.data.tokenizers.ref import resolve_tokenizer_reference
    from fairseq2.models.nllb import get_nllb_tokenizer_hub
    from fairseq2.runtime.dependency import get_dependency_resolver

    resolver = get_dependency_resolver()
    card = resolve_tokenizer_reference(resolver.resolve(AssetStore), card)
    path = resolver.resolve(AssetDownloadManager).download_tokenizer(card.field("tokenizer").as_uri())
    config = get_nllb_tokenizer_hub().get_tokenizer_config(card)
    return Tokenizer(path, config.langs, config.default_lang)


def _sonar(purpose: str) -> None:
    """Import sonar-space, in the order that it needs."""
    try:
        import soundfile  # noqa: F401, I001  # first: it carries libsndfile, which fairseq2 looks for
        import sonar  # noqa: F401
    except ImportError:
        raise ImportError(
            f"To {purpose} sonar-space is needed: `pip install sonar-space soundfile` (Linux on x86), or use a folder of weights."
        ) from None
