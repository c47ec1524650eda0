"""QDepth-VLA and its baseline without depth, open pi-zero."""

from fathom.policies.qdepth_vla.config import VISIBILITY, DepthConfig, QDepthVLAConfig, VisionConfig
from fathom.policies.qdepth_vla.model import QDepthVLA

__all__ = ["VISIBILITY", "DepthConfig", "QDepthVLA", "QDepthVLAConfig", "VisionConfig"]
