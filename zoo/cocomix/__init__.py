"""Continuous concept mixing (Tack et al. 2025, arXiv 2502.08524)."""
