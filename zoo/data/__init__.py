"""Corpora for language models: sources of documents, tokenizers, token stores, and the LightningDataModules over them.

`zoo.data.Code`, `OpenWebText` and `CommonCrawlSentences` are looked up on first use, so that worker processes need not import
torch.
"""

from importlib import import_module

MODULES = {"Code": "zoo.data.modules", "OpenWebText": "zoo.data.modules", "CommonCrawlSentences": "zoo.data.crawl"}


def __getattr__(name: str):
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *MODULES]
