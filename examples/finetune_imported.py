"""Fine-tune an imported checkpoint on a LeRobot dataset, with a depth expert added to it.

    python examples/finetune_imported.py google/paligemma-3b-pt-224 path/to/dataset --out runs/finetuned

The cells (`# %%`) run one after another in an editor that knows them, too. Interrupted? Run it again.
"""

# %% What to start from, and what to learn from.
import argparse
from pathlib import Path

import fathom
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizerConfig
from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.policies.weights import import_paligemma
from fathom.report.depth_pictures import draw, predict
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe, train_policy
from fathom.training.tokenizer import TokenizerRecipe, train_tokenizer
from fathom.training.tuning import LoRA

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", help="a PaliGemma: folder or hub id")
parser.add_argument("dataset", type=Path, help="a LeRobot v3.0 dataset with depth")
parser.add_argument("--out", type=Path, default=Path("runs/finetuned"))
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--expert-width", type=int, default=1024)
options = parser.parse_args()
out = options.out

# %% Import: PaliGemma's weights as they are, a depth and an action expert that know nothing yet.
robot = fathom.open_dataset(options.dataset).info.features
sizes = QDepthVLAConfig(
    state_dim=robot["observation.state"].shape[0],
    action_dim=robot["action"].shape[0],
    expert_width=options.expert_width,
    expert_mlp=4 * options.expert_width,
)
if not (out / "start" / "config.json").exists():
    print("\n".join(import_paligemma(options.checkpoint, out / "start", sizes).lines))

# %% The depth tokenizer: what the depth expert will predict. Its range is that of the sensor.
training = TrainingConfig(
    steps=options.steps,
    batch_size=options.batch_size,
    optimizer=OptimizerConfig(lr=5e-4, warmup_steps=options.steps // 20, cycle_steps=options.steps),
)
tokenizer = train_tokenizer(
    options.dataset,
    TokenizerRecipe(DepthTokenizerConfig(depth_range=LogRange(0.1, 5.0)), training),
    out / "tokenizer",
)

# %% Fine-tune: adapters on the language model, SigLIP and word embeddings frozen, the experts in full.
recipe = PolicyRecipe(
    policy=QDepthVLAConfig(horizon=4),  # chunks of 4; the sizes come with the weights
    training=training,
    freeze=("vision", "embeddings"),
    lora=LoRA(rank=16),
)
train_policy(options.dataset, recipe, out / "policy", tokenizer, init=out / "start")

# %% Use it: the folder needs nothing else, and `push_to_hub` takes it as it is.
policy = fathom.load_policy(out / "policy")
frames = fathom.open_dataset(options.dataset, horizon=4).batch([0])
print("predicted", policy.sample_actions(frames)[0].tolist())
print("recorded ", frames.actions[0].tolist())
(out / "depth.png").write_bytes(draw(predict(policy, options.dataset, "train", rows=3).rows))
print(f"the depth that it predicts: {out / 'depth.png'}")
