"""The depth expert: what it is asked for, the head around its transformer, and its losses."""

from fathom.policies.depth_expert.config import DepthConfig
from fathom.policies.depth_expert.head import DepthHead
from fathom.policies.depth_expert.losses import depth_losses
from fathom.policies.depth_expert.targets import check_fits

__all__ = ["DepthConfig", "DepthHead", "check_fits", "depth_losses"]
