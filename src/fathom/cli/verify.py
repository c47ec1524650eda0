"""``fathom verify``: our results beside those of the code that defines them."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class VerifyLeRobot:
    """Compare what our reader returns for a LeRobot dataset with what lerobot's own reader returned."""

    dataset: tyro.conf.Positional[Path]
    """The dataset's folder (the one that holds meta/info.json)."""

    expected: Path
    """The .npz with what lerobot's reader returned, its arrays named like the dataset's features."""

    def run(self) -> int:
        from fathom.data.verify import verify_lerobot

        verdict = verify_lerobot(self.dataset, self.expected)
        print(json.dumps(verdict))
        return 0 if verdict["ok"] else 1


@dataclass(frozen=True)
class VerifyOpenPiZero:
    """Compare what imported open-pi-zero weights compute with what open-pi-zero itself computed from them."""

    prefix: tyro.conf.Positional[Path]
    """The path of .config.json, .weights.safetensors and .cases.safetensors up to these endings."""

    tolerance: float = 1e-4
    """The largest difference that counts as the same."""

    def run(self) -> int:
        from fathom.policies.weights import verify_open_pi_zero

        verdict = verify_open_pi_zero(self.prefix, self.tolerance)
        for name, difference in verdict["max"].items():
            print(f"{name}: largest difference {difference:.2g}, allowed {self.tolerance:.2g}")
        print(json.dumps(verdict))
        return 0 if verdict["ok"] else 1


@dataclass(frozen=True)
class VerifyVideoDepthAnything:
    """Compare the depth of our Video-Depth-Anything with what the official code computed from the same weights."""

    prefix: tyro.conf.Positional[Path]
    """The path of .config.json, .weights.safetensors and .cases.safetensors up to these endings."""

    def run(self) -> int:
        from fathom.depth.estimators.verify import verify_video_depth_anything

        verdict = verify_video_depth_anything(self.prefix)
        for name, difference in verdict["max"].items():
            print(f"{name}: largest difference {difference:.2g}, allowed {verdict['tolerance'][name]:.2g}")
        print(json.dumps(verdict))
        return 0 if verdict["ok"] else 1
