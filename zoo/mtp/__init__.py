"""Multi-token prediction (Gloeckle et al. 2024, arXiv 2404.19737)."""

from zoo.mtp.net import MTP

__all__ = ["MTP"]
