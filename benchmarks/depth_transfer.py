"""What a depth tokenizer and a depth expert that learned in one simulator know of another.

    python benchmarks/depth_transfer.py --data metaworld=demos libero=libero_demos \\
        --tokenizers metaworld=tokenizer libero=libero_tokenizer --policies metaworld=policy libero=libero_policy

On frames of each dataset's held-out episodes: how well each tokenizer reconstructs the depth, and how well each
policy's depth expert predicts it from the picture, in the codes of its own tokenizer. Only pixels within the range of
the tokenizer at hand count, and codes of patches that lie within it; what share that is stands beside. In a simulator
that is not its own a policy is told its own first instruction, and the robot's state is left out everywhere: the depth
expert does not read it.

The yardstick is a dataset's mean depth picture, taken from its training episodes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from fathom import load_policy
from fathom.data.batch import Batch, Observation
from fathom.data.dataset import known_split, open_dataset
from fathom.depth.metrics import depth_error
from fathom.depth.tokenizer import DepthTokenizer
from fathom.policies.depth_expert.targets import Codes
from fathom.policies.policy import Policy

AT_ONCE = 32


class Score(NamedTuple):
    """Errors on one dataset: of depth within the range, of codes, and what share of the pixels that was."""

    abs_rel: float
    delta_1: float
    code_accuracy: float | None
    within: float

    def __str__(self) -> str:
        accuracy = "" if self.code_accuracy is None else f"{self.code_accuracy:.1%}"
        return f"{self.abs_rel:.3f} | {self.delta_1:.3f} | {accuracy} | {self.within:.0%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table: a row for each of the trained on each of the datasets."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    frames = {name: held_out(path, options.frames) for name, path in options.data.items()}
    print("| trained | tried on | AbsRel | δ1 | codes right | pixels within range |\n|---|---|---|---|---|---|")
    for name, path in options.tokenizers.items():
        tokenizer = DepthTokenizer.load(path).eval()
        for place, batches in frames.items():
            print(f"| tokenizer, {name} | {place} | {score_tokenizer(tokenizer, batches)} |", flush=True)
            mean = mean_picture(options.data[place], options.frames)
            print(f"| its mean picture | {place} | {score_mean(mean, tokenizer, batches)} |", flush=True)
    for name, path in options.policies.items():
        policy = load_policy(path)
        for place, batches in frames.items():
            print(
                f"| depth expert, {name} | {place} | {score_policy(policy, batches, own=name == place)} |", flush=True
            )
    return 0


def held_out(path: Path, count: int, split: str = "validation") -> list[Batch]:
    """Frames spread evenly over a split, or over everything where there is none."""
    dataset = open_dataset(path, cameras=("main",), horizon=1, depth=True, split=known_split(path, split))
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    return [dataset.batch(chosen[i : i + AT_ONCE].tolist()) for i in range(0, len(chosen), AT_ONCE)]


def mean_picture(path: Path, count: int) -> Tensor:
    """The geometric mean of the depth of training frames, (1, 1, height, width) in metres."""
    depth = torch.cat([_depth(batch) for batch in held_out(path, count, "train")])
    return depth.log().mean(0, keepdim=True).exp()


@torch.no_grad()
def score_tokenizer(tokenizer: DepthTokenizer, batches: Sequence[Batch]) -> Score:
    """Of depth that went through the codes and back."""
    return _score(tokenizer, batches, torch.cat([tokenizer.reconstruct(_depth(batch)) for batch in batches]), None)


def score_mean(mean: Tensor, tokenizer: DepthTokenizer, batches: Sequence[Batch]) -> Score:
    """Of one and the same picture for all frames."""
    guess = tokenizer.true_depth(mean).expand(sum(len(batch) for batch in batches), -1, -1, -1)
    return _score(tokenizer, batches, guess, None)


@torch.no_grad()
def score_policy(policy: Policy, batches: Sequence[Batch], *, own: bool) -> Score:
    """Of the depth that a policy's expert predicts."""
    tokenizer, head = policy.depth_tokenizer, policy.depth_head
    if tokenizer is None or head is None or not isinstance(head.target, Codes):
        raise SystemExit("a policy whose depth expert predicts codes is needed")
    words = policy.provenance.data["tasks"][0]
    pictures, right = [], []
    for batch in batches:
        seen = Observation(
            images=batch.images,
            state=torch.zeros(len(batch), len(policy.scaling.state.offset)),
            instruction=batch.instruction if own else [words] * len(batch),
        )
        predicted = head(policy.depth_tokens(policy.prepare(seen)))
        pictures.append(head.target.picture(predicted, tokenizer))
        codes = head.target.logits(predicted).argmax(-1) == tokenizer.encode(_depth(batch))
        inside = F.avg_pool2d(_inside(tokenizer, batch).float(), tokenizer.config.image_size // tokenizer.config.grid)
        right.append(codes[inside.flatten(1) == 1])
    return _score(tokenizer, batches, torch.cat(pictures), torch.cat(right).float().mean().item())


def _score(tokenizer: DepthTokenizer, batches: Sequence[Batch], guess: Tensor, accuracy: float | None) -> Score:
    true = torch.cat([tokenizer.true_depth(_depth(batch)) for batch in batches])
    inside = torch.cat([_inside(tokenizer, batch) for batch in batches])
    error = depth_error(guess, true, inside)
    return Score(error.abs_rel, error.delta_1, accuracy, inside.float().mean().item())


def _inside(tokenizer: DepthTokenizer, batch: Batch) -> Bool[Tensor, "batch 1 size size"]:
    """Pixels that the tokenizer's range holds."""
    picture, known = tokenizer.prepare(_depth(batch))
    return (picture > 0) & (picture < 1) & (known > 0)


def _depth(batch: Batch) -> Tensor:
    assert batch.depth is not None  # the datasets were opened with depth
    return batch.depth


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} should be NAME=FOLDER")
    return name, Path(path)


class _Collect(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        setattr(namespace, self.dest, dict(values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, what in {"data": "datasets", "tokenizers": "tokenizers", "policies": "policies with depth"}.items():
        parser.add_argument(
            f"--{option}", nargs="+", type=_named, action=_Collect, default={}, metavar="NAME=FOLDER", help=what
        )
    parser.add_argument("--frames", type=int, default=256, help="of each dataset")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
