"""Video-Depth-Anything (arXiv 2501.12375), the paper's annotator: consistent relative or metric depth of videos."""

from fathom.depth.estimators.video_depth_anything.config import SIZES, EncoderConfig, VideoDepthConfig
from fathom.depth.estimators.video_depth_anything.estimator import INPUT_SIZE, VideoDepthAnything
from fathom.depth.estimators.video_depth_anything.model import VideoDepthModel
from fathom.depth.estimators.video_depth_anything.weights import HUB_IDS, load_model, read_tensors

__all__ = [
    "HUB_IDS",
    "INPUT_SIZE",
    "SIZES",
    "EncoderConfig",
    "VideoDepthAnything",
    "VideoDepthConfig",
    "VideoDepthModel",
    "load_model",
    "read_tensors",
]
