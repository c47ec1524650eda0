"""open-pi-zero, the policy that QDepth-VLA builds on (allenzren/open-pi-zero)."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from fathom.config import parse_config, read_json
from fathom.errors import UserError
from fathom.policies.qdepth_vla import QDepthVLAConfig, VisionConfig
from fathom.policies.weights.checkpoint import Checkpoint, open_checkpoint
from fathom.policies.weights.conversion import KeyMap, plan
from fathom.policies.weights.folder import Imported, check_free, find_tokenizer, fresh_depth, write_policy
from fathom.policies.weights.paligemma import ACTION, FRESH_DEPTH, VLM
from fathom.policies.weights.statistics import open_pi_zero_normalization

PREFIXES = {
    "vision_tower.vision_model.": "vision_tower.",
    "multi_modal_projector.linear.": "multi_modal_projector.",
    "embed_tokens.": f"{VLM}embed_tokens.",
    "joint_model.mixtures.vlm.": VLM,
    "joint_model.mixtures.action.": ACTION,
    "proprio_encoder.": "proprio_encoder.",
    "action_encoder.": "action_encoder.",
    "action_decoder.": "action_decoder.",
}
TIED = {
    "lm_head.": f"{VLM}embed_tokens.",  # only there with use_lm_head
    "joint_model.mixtures.proprio.": ACTION,  # proprio and actions share one expert
}

RELEASED = QDepthVLAConfig(softcap=50.0, clip_actions=1.0, flow_sigma_min=0.001, time_max_period=10_000.0, depth=None)
"""The published checkpoints: PaliGemma-3B, chunks of 4 actions, 20 text tokens (the evaluation settings there)."""


@dataclass(frozen=True)
class _Widths:
    width: int
    mlp: int


@dataclass(frozen=True)
class _Siglip:
    width: int
    mlp: int
    layers: int
    heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float


@dataclass(frozen=True)
class Sizes:
    """Sizes and conventions of an open-pi-zero, as the ``.config.json`` beside recorded numbers gives them.

    Attributes:
        vlm, expert: width and MLP width of the two kinds of stream.
        layers, heads, kv_heads, head_dim, rms_norm_eps: of all streams.
        rope_theta, expert_rope_theta: base of the rotary positions.
        time_max_period: of the flow time's embedding.
        attention_softcap: cap on the attention logits, or ``None``.
        flow_sig_min: noise left at the data's end of the flow.
        num_inference_steps: Euler steps in a chunk.
        horizon, action_dim, proprio_dim: of the chunk and the robot.
        vocab_size, image_token_index, pad_token_id: of the token ids.
        siglip: the vision encoder.
        max_image_text_tokens: image and text tokens together, padding included.
        clip_final_action: the finished chunk is clipped to this, or ``None``.
    """

    vlm: _Widths
    expert: _Widths
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    expert_rope_theta: float
    time_max_period: float
    attention_softcap: float | None
    flow_sig_min: float
    num_inference_steps: int
    horizon: int
    action_dim: int
    proprio_dim: int
    vocab_size: int
    image_token_index: int
    pad_token_id: int
    siglip: _Siglip
    max_image_text_tokens: int
    clip_final_action: float | None

    @classmethod
    def read(cls, path: Path) -> "Sizes":
        """Read a ``.config.json``; what it says beyond the fields here is not looked at.

        Raises:
            UserError: the file or a field is missing, or of the wrong type.
        """
        values = read_json(path, "configuration of an open-pi-zero")
        known = {field.name for field in fields(cls)}
        sizes = parse_config(cls, {name: value for name, value in values.items() if name in known}, path)
        if sizes.siglip.patch_size < 1:
            raise UserError(f"{path}: siglip.patch_size is {sizes.siglip.patch_size}: it must be at least 1")
        if sizes.text_tokens < 1:
            raise UserError(
                f"{path}: max_image_text_tokens is {sizes.max_image_text_tokens}, which leaves no place for text "
                f"behind {sizes.image_tokens} image tokens"
            )
        if not 0 <= sizes.pad_token_id < sizes.vocab_size:
            raise UserError(f"{path}: pad_token_id is {sizes.pad_token_id}, and there are {sizes.vocab_size} words")
        try:
            _ = sizes.config
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        return sizes

    @property
    def image_tokens(self) -> int:
        """One for each patch of the picture."""
        return (self.siglip.image_size // self.siglip.patch_size) ** 2

    @property
    def text_tokens(self) -> int:
        """The places behind the image tokens."""
        return self.max_image_text_tokens - self.image_tokens

    @property
    def config(self) -> QDepthVLAConfig:
        """The same as our configuration, without depth."""
        tower = self.siglip
        return QDepthVLAConfig(
            state_dim=self.proprio_dim,
            action_dim=self.action_dim,
            horizon=self.horizon,
            vision=VisionConfig(
                width=tower.width,
                mlp=tower.mlp,
                layers=tower.layers,
                heads=tower.heads,
                image_size=tower.image_size,
                patch=tower.patch_size,
                norm_eps=tower.layer_norm_eps,
            ),
            vlm_width=self.vlm.width,
            vlm_mlp=self.vlm.mlp,
            expert_width=self.expert.width,
            expert_mlp=self.expert.mlp,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            norm_eps=self.rms_norm_eps,
            rope_theta=self.rope_theta,
            expert_rope_theta=self.expert_rope_theta,
            vocab_size=self.vocab_size,
            text_tokens=self.text_tokens,
            depth=None,
            time_max_period=self.time_max_period,
            flow_sigma_min=self.flow_sig_min,
            clip_actions=self.clip_final_action,
            softcap=self.attention_softcap,
            flow_steps=self.num_inference_steps,
        )


def import_open_pi_zero(
    checkpoint: Path,
    out: Path,
    *,
    tokenizer: str | Path | None = None,
    statistics: Path | None = None,
    sizes: Path | None = None,
    depth: bool = True,
    seed: int = 0,
) -> Imported:
    """open-pi-zero with all its weights, and a depth expert with first values beside them.

    Without the depth expert the actions are open-pi-zero's; with it they change, because they read its tokens.

    Args:
        checkpoint: a ``.pt`` as published, or safetensors.
        out: the folder to write.
        tokenizer: PaliGemma's ``tokenizer.json``, a folder or a hub id with it; ``None`` to look beside the checkpoint.
        statistics: the dataset statistics that the checkpoint was trained with, as open-pi-zero writes them.
        sizes: a file that :meth:`Sizes.read` reads; ``None`` for those of the published checkpoints.
        depth: add a depth expert; without it the policy is open-pi-zero itself.
        seed: of the first values.

    Raises:
        UserError: the checkpoint is no open-pi-zero of these sizes, is not whole, or something it needs is missing.
    """
    check_free(out)
    source = open_checkpoint(checkpoint)
    config = Sizes.read(sizes).config if sizes else _released(source)
    config = replace(config, depth=fresh_depth(config.vision) if depth else None)
    conversion = plan(source, keys(config), config)
    normalization = open_pi_zero_normalization(statistics) if statistics else None
    words = find_tokenizer(tokenizer, checkpoint, config.vocab_size)
    return write_policy(out, conversion, words, normalization, seed, checkpoint)


def keys(config: QDepthVLAConfig) -> KeyMap:
    """The key map; which layer is the last depends on the size."""
    last = f"{VLM}layers.{config.layers - 1}."
    behind_attention = ("self_attn.q_proj.*", "self_attn.o_proj.*", "mlp.*", "post_attention_layernorm.*")
    return KeyMap(
        PREFIXES,
        TIED,
        fresh=FRESH_DEPTH,
        # What the language model itself would say is never asked: of its last layer only keys and values are read.
        needless=(f"{VLM}norm.*", *(last + name for name in behind_attention)),
    )


def _released(source: Checkpoint) -> QDepthVLAConfig:
    """The published sizes; the proprio is 7 wide for Bridge and 8 for Fractal, and the checkpoint knows which."""
    encoder = source.entries.get("proprio_encoder.weight")
    return replace(RELEASED, state_dim=encoder.shape[1]) if encoder and len(encoder.shape) == 2 else RELEASED
