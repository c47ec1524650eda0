"""DeepVision-VLA and its baseline without a vision expert, QwenVLA-OFT."""

from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig
from fathom.policies.deepvision_vla.model import DeepVisionVLA
from fathom.policies.deepvision_vla.vision_config import ExpertConfig, PruningConfig, TowerConfig

__all__ = ["DeepVisionVLA", "DeepVisionVLAConfig", "ExpertConfig", "PruningConfig", "TowerConfig"]
