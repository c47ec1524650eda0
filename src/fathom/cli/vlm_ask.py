"""``fathom vlm ask``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class VlmAsk:
    """Ask a picture how far things are."""

    image: tyro.conf.Positional[Path]
    """A photograph or another picture."""

    model: str
    """A depth-aware VLM's folder or hub id, or that of a published Qwen2.5-VL or Qwen3-VL."""

    question: tyro.conf.Positional[str | None] = None
    """Such as "How far is the yellow car?"; with `--mode marker` it may be left out."""

    depth: Path | None = None
    """Its depth: a 16-bit PNG or a .npy file, as large as the picture."""

    unit: Literal["m", "mm"] | None = None
    """Of the depth; by default whole numbers are millimetres and fractions are metres."""

    estimator: str | None = None
    """Where there is no depth, what estimates it: `transformers` and others, as for `fathom annotate`."""

    weights: str | None = None
    """The estimator's: a file, folder or hub id."""

    mode: Literal["plain", "depth_tool", "marker"] = "plain"
    """`plain`; `depth_tool`: the model may look up depths by `Depth(x,y)`; `marker`: an arrow shows the `--point`."""

    point: tuple[float, float] | None = None
    """For `marker`: x and y in pixels."""

    focal_length: float | None = None
    """For `marker`: of the camera, in pixels; the picture is brought to the one that DepthLM's models know."""

    max_new_tokens: int = 128
    """How long an answer may be."""

    def run(self) -> int:
        import sys

        from fathom.errors import UserError
        from fathom.training.device import pick_device
        from fathom.vlm.ask import ask, check_request, open_for_asking

        if self.depth is not None and self.estimator is not None:
            raise UserError("--depth and --estimator: give one of them, the depth or what estimates it.")
        if self.unit is not None and self.depth is None:
            raise UserError(f"--unit {self.unit}: is the unit of --depth, which is not there.")
        check_request(self.question, self.mode, self.point, self.focal_length, self.max_new_tokens)
        model = open_for_asking(self.model, self.estimator, self.weights, device=pick_device())
        answer = ask(
            model,
            self.image,
            self.question,
            self.depth,
            unit=self.unit,
            mode=self.mode,
            point=self.point,
            focal_length=self.focal_length,
            max_new_tokens=self.max_new_tokens,
        )
        if self.depth is not None and self.mode != "depth_tool" and model.config.fusion == "none":
            print("this model reads no depth (fusion = none): --depth changes nothing", file=sys.stderr)
        for lookup in answer.lookups:
            print(f"looked up {lookup}", file=sys.stderr)
        print(answer.text)
        if not answer.finished:
            print("the model went on asking for depths and gave no answer", file=sys.stderr)
        return 0 if answer.finished else 1
