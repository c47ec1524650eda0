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
