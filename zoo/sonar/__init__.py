"""SONAR's sentence space (Duquenne et al. 2023, arXiv 2308.11466), on which the LCMs stand: nets, training, texts to vectors."""

_PLACES = {  # looked up on first use: a net needs no lightning, and a tokenizer no torch
    "AutoEncoder": "autoencoder",
    "AutoEncoding": "data",
    "FromSpace": "language",
    "NewLanguage": "language",
    "QuantizedDecoder": "adapted",
    "RobustDecoder": "adapted",
    "Space": "space",
    "SpaceEncoder": "encoder",
    "TextDecoder": "net",
    "TextEncoder": "net",
    "Tokenizer": "tokens",
}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name in _PLACES:
        import importlib

        return getattr(importlib.import_module(f"zoo.sonar.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
