"""Continuous concept mixing (Tack et al. 2025, arXiv 2502.08524)."""

from zoo.cocomix.net import CoCoMix

__all__ = ["CoCoMix"]
