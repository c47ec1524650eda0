"""The streams of a DeepVision-VLA: who carries what, who reads whom, and which layers meet.

Each part is added here and nowhere else: a language model alone is the baseline, with a vision expert it is the paper's
model, and a depth expert is one more stream beside either.
"""

from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from fathom.mixture import (
    AlignedStream,
    DINOv3Stream,
    LogitBias,
    Mixture,
    Plan,
    Qwen3Stream,
    SiglipStream,
    Stream,
    Visibility,
)
from fathom.mixture.aligned import VisionStream
from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig
from fathom.policies.deepvision_vla.vision_config import ExpertConfig

READS = {"all": "prompt proprio action", "prompt": "prompt", "none": ""}
"""What of the language model the vision expert reads, by name."""


def build_mixture(config: DeepVisionVLAConfig) -> Mixture:
    """The streams of a policy, joined."""
    streams: dict[str, Stream] = {"vlm": Qwen3Stream(config.qwen("vlm"), embed_tokens=True)}
    carries = {"vlm": "prompt proprio action" if config.proprio else "prompt action"}
    if config.depth:
        streams["depth"], carries["depth"] = Qwen3Stream(config.qwen("depth")), "depth"
    if config.coupling:
        streams["expert"], carries["expert"] = aligned_stream(config, config.coupling), " ".join(expert_blocks(config))
    return Mixture(
        streams, carries, visibility(config), plan=plan(config), bias=logit_bias(config), backend=config.attention
    )


def expert_blocks(config: DeepVisionVLAConfig) -> list[str]:
    """The vision expert's blocks: one for each camera, since it sees each picture by itself."""
    return [f"expert_{camera}" for camera in config.cameras] if config.coupling else []


def visibility(config: DeepVisionVLAConfig) -> Visibility:
    """Who reads whom within a layer. The vision expert's rows and columns count where it takes part.

    The prompt is causal, and the actions read each other in both directions (QwenVLA-OFT). The depth expert reads the
    prompt and the vision expert, and only the actions read it, as in QDepth-VLA.
    """
    experts = " ".join(expert_blocks(config))
    rows = {
        "prompt": f"prompt {experts}",
        "proprio": f"prompt proprio {experts}",
        "depth": f"prompt depth {experts}",
        "action": f"prompt proprio depth action {experts}",
    }
    for block in expert_blocks(config):
        rows[block] = f"{block} {READS[config.coupling.reads] if config.coupling else ''}"
    absent = [name for name, there in (("proprio", config.proprio), ("depth", config.depth)) if not there]
    return Visibility(rows, causal={"prompt": "prompt"}).without(*absent)


def plan(config: DeepVisionVLAConfig) -> Plan:
    """The language model's first layers alone, then the vision expert's, then the layers that meet.

    The depth expert runs beside the language model throughout.
    """
    beside = ["vlm", "depth"] if config.depth else ["vlm"]
    steps = [dict.fromkeys(beside, layer) for layer in range(config.alone)]
    done = 0
    for layer, own in zip(
        range(config.alone, config.layers), config.coupling.joining if config.coupling else (), strict=True
    ):
        steps += [{"expert": alone} for alone in range(done, own)]
        steps.append(dict.fromkeys(beside, layer) | {"expert": own})
        done = own + 1
    return steps


def joint_steps(config: DeepVisionVLAConfig) -> list[int]:
    """The places in the plan where the vision expert meets the language model."""
    return [place for place, step in enumerate(plan(config)) if {"vlm", "expert"} <= step.keys()]


def logit_bias(config: DeepVisionVLAConfig) -> LogitBias | None:
    """The reluctance of the language model's blocks, and of the depth expert's, to read the vision expert.

    The actions read the depth expert: what it reads, they would hear of.
    """
    if config.coupling is None:
        return None
    experts = " ".join(expert_blocks(config))
    table = visibility(config)
    shy = ("prompt", "proprio", "depth", "action")
    pairs = Visibility({name: experts if name in shy else "" for name in table.blocks})
    return LogitBias(pairs, joint_steps(config), config.coupling.bias)


def vision_stream(expert: ExpertConfig) -> VisionStream:
    """The vision expert's own transformer, as far as it is of use."""
    return DINOv3Stream(expert.dinov3()) if expert.encoder == "dinov3" else SiglipStream(expert.siglip())


def aligned_stream(config: DeepVisionVLAConfig, expert: ExpertConfig) -> AlignedStream:
    """The vision expert with the maps into the language model's head space."""
    return AlignedStream(
        vision_stream(expert),
        expert.joining,
        width=expert.width,
        heads=config.heads,
        kv_heads=expert.kv_heads,
        head_dim=config.head_dim,
        rotary=Qwen3VLTextRotaryEmbedding(config.qwen("vlm")),
        positions=expert.positions,
    )
