"""DeepVision-VLA: a vision-language model whose deep layers share their attention with a vision expert.

Source: arXiv 2603.15618; without the expert it is the baseline QwenVLA-OFT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fathom.data.batch import Batch, Observation, Whole
from fathom.data.draws import Draws
from fathom.data.normalization import Normalization
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.mixture import AlignedStream, Block, Pass, Qwen3Stream
from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig
from fathom.policies.deepvision_vla.fusion import WholeExpert
from fathom.policies.deepvision_vla.inputs import Inputs
from fathom.policies.deepvision_vla.layout import Layout
from fathom.policies.deepvision_vla.outcome import Outcome
from fathom.policies.deepvision_vla.pictures import check_square, expert_picture, square, tower_picture
from fathom.policies.deepvision_vla.prompt import ChatTokenizer, fixed_words, tokenizer_kind
from fathom.policies.deepvision_vla.pruning import Pruner
from fathom.policies.deepvision_vla.streams import build_mixture, expert_blocks, joint_steps
from fathom.policies.deepvision_vla.vision_tower import VisionTower
from fathom.policies.depth_expert import DepthHead, depth_losses
from fathom.policies.losses import Losses, action_loss
from fathom.policies.policy import Policy
from fathom.policies.text import TextTokenizer


class DeepVisionVLA(Policy):
    """The policy of the paper, or with ``config.expert=None`` the baseline QwenVLA-OFT.

    Args:
        config: sizes and choices.
        normalization: of state and actions; saved with the policy. ``None`` for a network that is only run on
            :class:`Inputs`, as the two tokenizers may be.
        text_tokenizer: of the instructions; saved with the policy.
        depth_tokenizer: the frozen tokenizer whose codes a depth expert predicts; required with ``config.depth``.
    """

    kind = "deepvision_vla"
    config_type = DeepVisionVLAConfig
    config: DeepVisionVLAConfig

    def __init__(
        self,
        config: DeepVisionVLAConfig,
        normalization: Normalization | None = None,
        text_tokenizer: TextTokenizer | None = None,
        depth_tokenizer: DepthTokenizer | None = None,
    ) -> None:
        super().__init__(config, normalization, text_tokenizer)
        if text_tokenizer and (config.prompt == "chat") != isinstance(text_tokenizer, ChatTokenizer):
            raise ValueError(
                f"prompt is {config.prompt!r}: 'chat' needs Qwen's own text tokenizer, which comes with imported "
                "weights, and 'plain' another"
            )
        self.layout = Layout.of(config)
        self.entry = min(joint_steps(config), default=None)
        width = config.vlm_width
        self.vision_tower = VisionTower(config.vision, width)
        self.mixture = build_mixture(config)
        self.whole_expert = (
            WholeExpert(config.expert, config.vision.grid, width) if config.expert and not config.coupling else None
        )
        self.proprio_encoder = nn.Linear(config.state_dim, width) if config.proprio else None
        self.action_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.action_dim))
        self.depth_head = (
            DepthHead(config.depth, width, config.depth_width, config.vision.grid) if config.depth else None
        )
        self._take_depth_tokenizer(depth_tokenizer)

    @classmethod
    def text_tokenizer_type(cls, config: DeepVisionVLAConfig) -> type[TextTokenizer]:
        """See :class:`Policy`."""
        return tokenizer_kind(config)

    @classmethod
    def check_training(
        cls, config: DeepVisionVLAConfig, pictures: Mapping[str, tuple[int, int]], start: DeepVisionVLAConfig | None
    ) -> None:
        """See :class:`Policy`: pictures are square, and an expert that is never trained was trained before."""
        for camera, (height, width) in pictures.items():
            check_square(camera, height, width)
        if config.expert and config.expert.fusion == "aligned" and not (start and start.expert):
            raise UserError(
                "policy.expert.fusion is aligned, which never trains the vision expert: start from weights that have "
                "one (fathom import qwen3-vl --vision ... --fusion aligned), or choose mot or early"
            )

    def loss(self, batch: Batch, draws: Draws | None = None, whole: Whole | None = None) -> Losses:
        """Mean absolute error of the actions over what is valid, and error of the depth.

        ``draws`` gives the scale of DINOv3's own coordinates, which are scaled at random in training.
        """
        whole, batch = whole or Whole.of(batch), batch.to(self.device)
        inputs = replace(self.prepare(batch), expert_scale=self._drawn_scale(draws or Draws.fresh()))
        outcome = self._run(inputs, with_depth=True)
        error = (outcome.actions.float() - self._wanted(batch)).abs()
        losses: dict[str, Any] = {"action": action_loss(error, batch, whole)}
        if self.depth_head and outcome.depth is not None:
            losses |= depth_losses(self.depth_head, self.depth_tokenizer, outcome.depth, batch, whole)
        if self.config.expert and self.whole_expert and outcome.image is not None:
            missed = self.whole_expert.misalignment(outcome.image, cast(Tensor, inputs.expert_pixels))
            losses["alignment"] = self.config.expert.alignment_weight * missed.sum() / len(whole)
        return Losses(**losses)

    @torch.no_grad()
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`Policy`; there is one answer, whatever the noise."""
        return self._in_robot_units(self.chunk(self.prepare(observation.to(self.device))))

    def differing(self, config: DeepVisionVLAConfig) -> tuple[list[str], list[str]]:
        """See :class:`Policy`."""
        fresh, widened = list[str](), list[str]()
        if not self.config.expert or not config.expert:
            fresh += ["mixture.streams.expert", "mixture.bias", "whole_expert"]
        if not (self.config.proprio and config.proprio):
            fresh += ["proprio_encoder"]
        elif self.config.state_dim != config.state_dim:
            widened += ["proprio_encoder"]
        if self.config.action_dim != config.action_dim:
            widened += ["action_head.2"]
        return fresh, widened

    # ------------------------------------------------------------------------------------------ tensors alone

    def prepare(self, observation: Observation) -> Inputs:
        """See :class:`Policy`.

        Raises:
            UserError: also where a picture is not square.
        """
        pictures = [square(picture, name, self.config.blind) for name, picture in self._pictures(observation).items()]
        expert, side = self.config.expert, self.config.vision.image_size
        text, valid = self._words(observation)
        words = torch.tensor(fixed_words(cast(TextTokenizer, self.text_tokenizer)), dtype=torch.long)
        return Inputs(
            pixels=torch.stack([tower_picture(picture, side) for picture in pictures], 1).to(self.device),
            expert_pixels=None
            if expert is None
            else torch.stack([expert_picture(picture, expert) for picture in pictures], 1).to(self.device),
            words=words.expand(len(text), -1).to(self.device),
            text=text.to(self.device),
            text_valid=valid.to(self.device),
            state=self._state(observation).to(self.device),
        )

    def depth_tokens(self, inputs: Inputs) -> Float[Tensor, "batch tokens width"]:
        """See :class:`Policy`."""
        depth = self._run(inputs, with_depth=True).depth
        assert depth is not None
        return depth

    def chunk(self, inputs: Inputs) -> Float[Tensor, "batch horizon action"]:
        """A normalised action chunk, in one pass."""
        return self._run(inputs, with_depth=False).actions

    def _run(self, inputs: Inputs, *, with_depth: bool) -> Outcome:
        """All streams through the plan, with what happens between its steps."""
        images, deepstack = self._image_tokens(inputs)
        wanted = ["action", "depth"] if with_depth and self.depth_head else ["action"]
        passing = self.mixture.begin(self._blocks(inputs, images), wanted=wanted)
        pruner = self._pruner(inputs)
        middle = images if self._aligns else None
        for step in self.mixture.plan:
            if pruner and passing.place == self.entry:
                passing.select(pruner.kept())
            passing.advance()
            if pruner:
                pruner.watch(passing, step)
            if step.get("vlm", len(deepstack)) < len(deepstack):
                passing.add("prompt", self._among_prompt(deepstack[step["vlm"]], inputs))
            if self._aligns and step.get("vlm") == self.config.layers // 2 - 1:
                middle = self._image_part(passing)
        hidden = passing.outputs()
        return Outcome(self.action_head(hidden["action"]), hidden.get("depth"), middle)

    def _blocks(self, inputs: Inputs, images: Float[Tensor, "batch cameras tokens width"]) -> list[Block]:
        """Every stream's tokens, in the order of the sequence."""
        vlm, config, layout = self._language_model, self.config, self.layout
        words, text = vlm.embed_tokens(inputs.words), vlm.embed_tokens(inputs.text)
        prompt = layout.join(words.to(images.dtype), images, text.to(images.dtype))
        valid = F.pad(inputs.text_valid, (prompt.shape[1] - layout.text, 0), value=True)
        before = int(config.proprio)
        prompt_positions, suffix_positions = layout.positions(inputs.text_valid, before + config.horizon)
        blocks = [Block("prompt", prompt, prompt_positions, valid)]
        if self.proprio_encoder:
            state = self.proprio_encoder(inputs.state.to(self._last_layer.weight.dtype))[:, None]
            blocks.append(Block("proprio", state.to(images.dtype), suffix_positions[:, :before]))
        nothing = images.new_zeros(len(images), config.horizon, config.vlm_width)
        blocks.append(Block("action", nothing, suffix_positions[:, before:]))
        if self.depth_head:
            tokens = self.depth_head.project_in(images[:, 0])
            places = layout.image_positions(0, tokens.device).expand(len(tokens), -1, -1)
            blocks.append(Block("depth", tokens, places))
        return [*blocks, *self._expert_blocks(inputs)]

    def _expert_blocks(self, inputs: Inputs) -> Sequence[Block]:
        """Each camera's picture as the vision expert reads it."""
        expert = self.config.coupling
        if expert is None or inputs.expert_pixels is None:
            return []
        own = cast(AlignedStream, self.mixture.streams["expert"]).own
        tokens = own.embed(inputs.expert_pixels.flatten(0, 1)).unflatten(0, inputs.expert_pixels.shape[:2])
        scale = 1.0 if inputs.expert_scale is None else inputs.expert_scale
        blocks = []
        for camera, name in enumerate(expert_blocks(self.config)):
            places = self.layout.expert_positions(camera, own.prefix_tokens, expert.grid, scale, tokens.device)
            blocks.append(Block(name, tokens[:, camera], places.expand(len(tokens), -1, -1)))
        return blocks

    def _image_tokens(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Every camera's image tokens, and those that the language model's first layers add; (batch, cameras, …)."""
        shape = inputs.pixels.shape[:2]
        tokens, deepstack = self.vision_tower.encode(inputs.pixels.flatten(0, 1).to(self._last_layer.weight.dtype))
        images = tokens.unflatten(0, shape)
        if self.whole_expert and self.config.expert and self.config.expert.fusion == "early":
            scale = 1.0 if inputs.expert_scale is None else inputs.expert_scale
            images = images + self.whole_expert.added(cast(Tensor, inputs.expert_pixels), scale)
        return images, [features.unflatten(0, shape) for features in deepstack]

    def _among_prompt(self, images: Tensor, inputs: Inputs) -> Float[Tensor, "batch prompt width"]:
        """Image tokens where they stand in the prompt, and zeros elsewhere."""
        nothing = images.new_zeros(len(images), self.layout.words, images.shape[-1])
        return self.layout.join(nothing, images, images.new_zeros(*inputs.text.shape, images.shape[-1]))

    def _image_part(self, passing: Pass) -> Float[Tensor, "batch cameras tokens width"]:
        prompt = passing.hidden("prompt")
        return torch.stack([prompt[:, self.layout.image(camera)] for camera in range(self.layout.cameras)], 1)

    def _pruner(self, inputs: Inputs) -> Pruner | None:
        expert = self.config.coupling
        if expert is None or expert.pruning is None:
            return None
        own = cast(AlignedStream, self.mixture.streams["expert"]).own
        return Pruner(self.config, expert, expert.pruning, own.prefix_tokens, inputs.text_valid)

    def _drawn_scale(self, draws: Draws) -> Float[Tensor, ""] | None:
        """DINOv3's own augmentation: its coordinates are scaled at random, log-uniformly, while it is trained."""
        expert = self.config.expert
        if not self.training or expert is None or expert.encoder != "dinov3":
            return None
        largest = cast(float, expert.dinov3().pos_embed_rescale)
        return torch.tensor(largest ** (2 * draws.shared("coordinates") - 1), device=self.device)

    @property
    def _language_model(self) -> Qwen3Stream:
        return cast(Qwen3Stream, self.mixture.streams["vlm"])

    @property
    def _aligns(self) -> bool:
        """Whether image tokens are trained to resemble the vision expert's output."""
        return self.config.expert is not None and self.config.expert.fusion == "aligned"

    @property
    def _last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.action_head[2])
