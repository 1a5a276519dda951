"""Corpora for language models: sources of documents, tokenizers, token stores, and the LightningDataModules over them.

`zoo.data.Code` and `zoo.data.OpenWebText` are looked up on first use, so that worker processes need not import torch.
"""


def __getattr__(name: str):
    if name in ("Code", "OpenWebText"):
        from zoo.data import modules

        return getattr(modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Code", "OpenWebText"]
