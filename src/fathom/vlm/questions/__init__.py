"""Questions about space, made from depth and instance segmentation by geometry alone (SPEC §2, MSMU's types).

>>> scene = look(depth, labels, {0: "table", 1: "mug_1"}, View(fovy=47.0, tilt=30.2))
>>> make_questions(scene, per_frame=6, rng=np.random.default_rng(0))
[Question(kind='camera_distance', type='absolute_distance', question='How far is the mug from the camera?', …), …]
"""

from fathom.vlm.questions.geometry import View
from fathom.vlm.questions.making import KINDS, Question, make_questions
from fathom.vlm.questions.scene import Scene, Thing, look

__all__ = [
    "KINDS",
    "Question",
    "Scene",
    "Thing",
    "View",
    "look",
    "make_questions",
]
