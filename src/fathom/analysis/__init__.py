"""What a policy looks at, layer by layer, and whether it matters: the layer-wise analysis of arXiv 2603.15618.

The parts work on any policy whose tokens :func:`sight_of` knows; none of them changes the policy, which is watched from
outside (:meth:`fathom.mixture.Mixture.watched`).
"""

from fathom.analysis.attention import Looking, measures
from fathom.analysis.gradcam import GradCam
from fathom.analysis.grounding import Settings, analyze_grounding, load_policies
from fathom.analysis.regions import Box, Named, Region
from fathom.analysis.removal import METHODS, Removal
from fathom.analysis.result import Grounding, PolicyGrounding, Removed
from fathom.analysis.sight import Grid, Sight, sight_of

__all__ = [
    "METHODS",
    "Box",
    "GradCam",
    "Grid",
    "Grounding",
    "Looking",
    "Named",
    "PolicyGrounding",
    "Region",
    "Removal",
    "Removed",
    "Settings",
    "Sight",
    "analyze_grounding",
    "load_policies",
    "measures",
    "sight_of",
]
