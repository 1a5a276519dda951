"""Next-token prediction, the baseline of every table."""

from zoo.ntp.net import NextToken

__all__ = ["NextToken"]
