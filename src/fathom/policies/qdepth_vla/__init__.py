"""QDepth-VLA and its baseline without depth, open pi-zero."""

from .config import VISIBILITY, DepthConfig, QDepthVLAConfig, VisionConfig
from .model import QDepthVLA

__all__ = ["VISIBILITY", "DepthConfig", "QDepthVLA", "QDepthVLAConfig", "VisionConfig"]
