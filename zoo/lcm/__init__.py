"""Large Concept Models (Barrault et al. 2024, arXiv 2412.08821): nets that say the next sentence's vector."""

from zoo.lcm.base import Base
from zoo.lcm.one_tower import OneTower
from zoo.lcm.quant import Quant
from zoo.lcm.two_tower import TwoTower

__all__ = ["Base", "OneTower", "Quant", "TwoTower"]
