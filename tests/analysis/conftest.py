"""A policy whose every answer follows on paper, tiny real policies of every kind, and a dataset with an object."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.policies import conftest as qdepth
from tests.policies.deepvision_vla import conftest as deepvision
from torch import nn

from fathom.analysis import Grid, Sight
from fathom.data.batch import Observation
from fathom.data.features import Feature
from fathom.data.normalization import Normalization, Scaling
from fathom.data.writer import DatasetWriter
from fathom.mixture import Block, Mixture, Visibility
from fathom.policies.deepvision_vla import DeepVisionVLA
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.text import TextTokenizer

KINDS = ("qdepth", "pi0", "oft", "deepvision", "both")
"""QDepth-VLA, open π0, QwenVLA-OFT, DeepVision-VLA, and DeepVision-VLA with a depth expert."""


def policy_of(kind: str, **changes):
    """A fresh tiny policy."""
    text = TextTokenizer.from_instructions(qdepth.INSTRUCTIONS)
    normalization = Normalization(
        "quantile", Scaling((0.5,) * 5, (2.0,) * 5, clip=True), Scaling((0.1,) * 3, (0.5,) * 3, clip=True)
    )
    depth = qdepth.tiny_tokenizer() if kind in ("qdepth", "both") else None
    torch.manual_seed(0)
    if kind in ("qdepth", "pi0"):
        own = {} if depth else {"depth": None}
        # grids of 8 x 8: the depth tokenizer's, and fine enough for a region
        vision = replace(qdepth.tiny_config().vision, patch=4)
        config = qdepth.tiny_config(vocab_size=text.vocab_size, vision=vision, **own | changes)
        return QDepthVLA(config, normalization, text, depth).eval()
    own = {"expert": None} if kind == "oft" else {}
    own |= {"depth": deepvision.DEPTH} if depth else {}
    config = deepvision.tiny_config(vocab_size=text.vocab_size, **own | changes)
    return DeepVisionVLA(config, normalization, text, depth).eval()


# ------------------------------------------------------------------------------------------ on paper


@dataclass(frozen=True)
class PaperLayer:
    """Keys and values are the tokens themselves; every query is ``query``; what is read is added to the token."""

    query: torch.Tensor

    def project(self, hidden, positions):
        key = hidden[:, None]
        return self.query.expand_as(key), key, key

    def finish(self, hidden, attended):
        return hidden + attended


class PaperStream(nn.Module):
    def __init__(self, layers, query):
        super().__init__()
        self.layers = [PaperLayer(query)] * layers

    def encode_positions(self, hidden, positions):
        return None

    def norm(self, hidden):
        return hidden


SIDE, WIDTH, LAYERS = 2, 3, 3


@pytest.fixture
def on_paper():
    """A sight whose action token reads four image tokens, and nothing else, in each of three layers.

    With ``query`` 0 it reads their mean, so that after layer l the action is its start plus l means.
    """

    def make(image: torch.Tensor, start: torch.Tensor, query: float = 0.0) -> tuple[Sight, object]:
        mixture = Mixture(
            {
                "vlm": PaperStream(LAYERS, torch.zeros(WIDTH)),
                "action": PaperStream(LAYERS, torch.full((WIDTH,), query)),
            },
            {"vlm": "text image", "action": "action"},
            Visibility({"text": "", "image": "", "action": "image"}),
        )

        def chunk(inputs, noise):
            where = torch.zeros(len(image), 5)
            blocks = [
                Block("text", image.new_zeros(len(image), 1, WIDTH), where[:, :1]),
                Block("image", image, where[:, :4]),
                Block("action", start, where[:, :1]),
            ]
            return mixture(blocks)[0]["action"]

        policy = SimpleNamespace(mixture=mixture)
        sight = Sight(policy, "paper", (Grid("image", "image", 0, SIDE),), ("text", slice(None)), chunk)
        return sight, chunk

    return make


# ------------------------------------------------------------------------------------------ on disk

SIZE, EPISODES, STEPS = 40, 4, 4
LABELS = {0: "table", 1: "drawer_1", 2: "faucetBase", 3: "arm"}
OBJECT = (slice(10, 20), slice(20, 30))
"""Where the drawer is in every picture, rows and columns."""


def write_dataset(root, *, segmentation=True):
    """Four episodes of four frames; the last two are held out. The drawer is in all, the faucet hardly."""
    features = {
        "observation.images.main": Feature.rgb(SIZE, SIZE),
        "observation.state": Feature.vector(5),
        "action": Feature.vector(3),
    }
    if segmentation:
        features["observation.images.main_segmentation"] = Feature.segmentation(SIZE, SIZE, LABELS)
    writer = DatasetWriter(root, features, fps=10)
    rng = np.random.default_rng(0)
    labels = np.zeros((STEPS, SIZE, SIZE), np.int64)
    labels[:, OBJECT[0], OBJECT[1]] = 1
    labels[:, 0, :3] = 2
    for episode in range(EPISODES):
        frames = {
            "observation.images.main": rng.integers(0, 256, (STEPS, SIZE, SIZE, 3), dtype=np.uint8),
            "observation.state": rng.random((STEPS, 5), dtype=np.float32),
            "action": rng.random((STEPS, 3), dtype=np.float32),
        }
        if segmentation:
            frames["observation.images.main_segmentation"] = labels
        writer.stage_episode(episode, frames, qdepth.INSTRUCTIONS[0])
    writer.finish({"train": range(2), "validation": range(2, 4)})
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("analysis") / "demos")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of saved policies, by kind."""
    root = tmp_path_factory.mktemp("policies")
    folders = {kind: root / kind / "policy" for kind in ("pi0", "oft", "deepvision")}
    for kind, folder in folders.items():
        policy_of(kind).save(folder)
    return folders


@pytest.fixture
def make_observation():
    def make(seed: int = 0, count: int = 2) -> Observation:
        generator = torch.Generator().manual_seed(seed)
        pictures = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator).byte()
        return Observation({"main": pictures}, torch.zeros(count, 5), list(qdepth.INSTRUCTIONS[:count]))

    return make
