"""Normalizer and quantizer on disk, as `zoo.saved` has them."""

from zoo.saved import opened, save

__all__ = ["opened", "save"]
