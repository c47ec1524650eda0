"""DeepVision-VLA: a vision-language model whose deep layers share their attention with a vision expert.

Source: arXiv 2603.15618; without the expert it is the baseline QwenVLA-OFT.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fathom.config import parse_config, write_config
from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.mixture import AlignedStream, Block, Pass, Qwen3Stream
from fathom.policies.card import Provenance
from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig
from fathom.policies.deepvision_vla.fusion import WholeExpert
from fathom.policies.deepvision_vla.inputs import Inputs
from fathom.policies.deepvision_vla.layout import Layout
from fathom.policies.deepvision_vla.outcome import AlignedLosses, Outcome
from fathom.policies.deepvision_vla.pictures import expert_picture, square, tower_picture
from fathom.policies.deepvision_vla.prompt import ChatTokenizer, fixed_words, tokenizer_kind
from fathom.policies.deepvision_vla.pruning import Pruner
from fathom.policies.deepvision_vla.streams import build_mixture, expert_blocks, joint_steps
from fathom.policies.deepvision_vla.vision_tower import VisionTower
from fathom.policies.policy import Losses, Policy
from fathom.policies.qdepth_vla.depth_losses import depth_losses
from fathom.policies.qdepth_vla.depth_targets import check_fits
from fathom.policies.qdepth_vla.experts import DepthHead
from fathom.policies.text import TextTokenizer
from fathom.weights import load_weights, parameters_unset, put_in_corner, save_weights


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

    def __init__(
        self,
        config: DeepVisionVLAConfig,
        normalization: Normalization | None = None,
        text_tokenizer: TextTokenizer | None = None,
        depth_tokenizer: DepthTokenizer | None = None,
    ) -> None:
        super().__init__()
        if text_tokenizer and (config.prompt == "chat") != isinstance(text_tokenizer, ChatTokenizer):
            raise ValueError(
                f"prompt is {config.prompt!r}: 'chat' needs Qwen's own text tokenizer, which comes with imported "
                "weights, and 'plain' another"
            )
        self.config = config
        self.normalization = normalization
        self.text_tokenizer = text_tokenizer
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
        self.depth_tokenizer = depth_tokenizer
        if config.depth and self.depth_head and depth_tokenizer:
            check_fits(config.depth, depth_tokenizer)
            depth_tokenizer.requires_grad_(False).eval()
            self.depth_head.target.attach(depth_tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._last_layer.weight.device

    @property
    def noise_shape(self) -> tuple[int, int]:
        """See :class:`Policy`; no noise is needed, the chunk comes out of one pass."""
        return self.config.horizon, self.config.action_dim

    @property
    def action_width(self) -> int:
        """See :class:`Policy`; fewer than the model's own, where it was widened for other robots."""
        return len(self._known_normalization.actions.offset)

    @property
    def cameras(self) -> tuple[str, ...]:
        """See :class:`Policy`."""
        return self.config.cameras

    def train(self, mode: bool = True) -> "DeepVisionVLA":
        """The depth tokenizer is frozen: it stays in evaluation mode."""
        super().train(mode)
        if self.depth_tokenizer:
            self.depth_tokenizer.eval()
        return self

    def loss(self, batch: Batch, generator: torch.Generator | None = None, whole: Batch | None = None) -> Losses:
        """Mean absolute error of the actions over what is valid, and error of the depth.

        ``generator`` draws the scale of DINOv3's own coordinates, which are scaled at random in training.
        """
        whole, batch = batch if whole is None else whole, batch.to(self.device)
        wanted = self._padded(self._known_normalization.actions.normalize(batch.actions), self.config.action_dim)
        inputs = replace(self.prepare(batch), expert_scale=self._drawn_scale(generator))
        outcome = self._run(inputs, with_depth=True)
        error = (outcome.actions.float() - wanted).abs()
        own = error[..., : batch.actions.shape[-1]].mean(-1)
        action = (own * ~batch.action_is_pad).sum() / (~whole.action_is_pad).sum().clamp(min=1)
        depth: dict[str, Any] = {}
        if self.depth_head and outcome.depth is not None:
            depth = depth_losses(self.depth_head, self.depth_tokenizer, outcome.depth, batch, whole)
        if self.config.expert and self.whole_expert and self.config.expert.fusion == "aligned":
            missed = self.whole_expert.misalignment(outcome.image, cast(Tensor, inputs.expert_pixels))
            return AlignedLosses(
                action, **depth, alignment=self.config.expert.alignment_weight * missed.sum() / len(whole)
            )
        return Losses(action, **depth)

    @torch.no_grad()
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`Policy`; there is one answer, whatever the noise."""
        scaling = self._known_normalization.actions
        chunk = self.chunk(self.prepare(observation.to(self.device))).float()
        return scaling.unnormalize(chunk[..., : len(scaling.offset)])

    @torch.no_grad()
    def predict_depth(self, observation: Observation, *, ahead: bool = False) -> Float[Tensor, "batch 1 height width"]:
        """The depth picture of the main camera in metres, now or ``config.depth.future`` frames ahead.

        Raises:
            UserError: the policy was trained without depth, or without the depth ahead.
        """
        if not self.config.depth or not self.depth_head or not self.depth_tokenizer:
            raise UserError("this policy was trained without a depth expert: it predicts no depth")
        if ahead and not self.config.depth.future:
            raise UserError("this policy was trained without depth.future: it predicts no depth ahead")
        outcome = self._run(self.prepare(observation.to(self.device)), with_depth=True)
        values = self.depth_head(outcome.depth, ahead=ahead)
        return self.depth_head.target.picture(values, self.depth_tokenizer)

    def save(self, folder: Path) -> None:
        """See :class:`Policy`."""
        if self.text_tokenizer is None:
            raise ValueError("a policy without a text tokenizer cannot be saved: nothing could tell it what to do")
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors", without=["depth_tokenizer"])
        self._known_normalization.save(folder)
        self.text_tokenizer.save(folder)
        self.provenance.save(folder)
        if self.depth_tokenizer:
            self.depth_tokenizer.save(folder / "depth_tokenizer")
        write_config(self.config, folder / "config.json", type=self.kind)

    @classmethod
    def load(cls, folder: Path, values: dict[str, Any], dtype: torch.dtype = torch.float32) -> "DeepVisionVLA":
        """See :class:`Policy`."""
        config = parse_config(DeepVisionVLAConfig, values, folder / "config.json")
        if config.depth and not (folder / "depth_tokenizer").is_dir():
            raise UserError(
                f"{folder} has a depth expert but no depth_tokenizer: it is a start for training "
                "(fathom train DATASET --init, with a tokenizer), not a policy yet"
            )
        tokenizer = DepthTokenizer.load(folder / "depth_tokenizer") if config.depth else None
        text = tokenizer_kind(config).load(folder)
        with parameters_unset(dtype):
            policy = cls(config, Normalization.load(folder), text, tokenizer)
        load_weights(policy, folder / "model.safetensors", without=["depth_tokenizer"])
        policy.provenance = Provenance.load(folder)
        return policy.eval()

    def start_from(self, folder: Path, config: DeepVisionVLAConfig) -> None:
        """Take over the weights of a policy or an imported checkpoint; an expert that is not there stays fresh.

        Args:
            config: that of the folder.

        Where this policy has more numbers of state or action, the weights of those begin at zero.

        Raises:
            UserError: its weights are not exactly those that this policy has.
        """
        path, fresh, widened = folder / "model.safetensors", ["depth_tokenizer"], []
        if not self.config.expert or not config.expert:
            fresh += ["mixture.streams.expert", "mixture.bias", "whole_expert"]
        if not self.config.depth or not config.depth:
            fresh += ["depth_head", "mixture.streams.depth"]
        elif self.config.depth.head_shape != config.depth.head_shape:
            fresh += ["depth_head"]
        if not (self.config.proprio and config.proprio):
            fresh += ["proprio_encoder"]
        elif self.config.state_dim != config.state_dim:
            widened += ["proprio_encoder"]
        if self.config.action_dim != config.action_dim:
            widened += ["action_head.2"]
        load_weights(self, path, without=[*fresh, *widened])
        for name in (f"{module}.{leaf}" for module in widened for leaf in ("weight", "bias")):
            put_in_corner(self.get_parameter(name), path, name)
        if self.depth_head and self.depth_tokenizer:
            self.depth_head.target.attach(self.depth_tokenizer)

    # ------------------------------------------------------------------------------------------ tensors alone

    def prepare(self, observation: Observation) -> Inputs:
        """The observation in the network's own terms, on its device.

        Raises:
            UserError: a camera is missing or its picture not square, an instruction is too long, or the state is that
                of another robot.
        """
        if missing := [camera for camera in self.config.cameras if camera not in observation.images]:
            raise UserError(f"the policy needs camera {missing}; the observation has {sorted(observation.images)}")
        if self.text_tokenizer is None:
            raise ValueError("this network was built without a text tokenizer: it can only be run on Inputs")
        pictures = [square(observation.images[camera], camera, self.config.blind) for camera in self.config.cameras]
        expert, side = self.config.expert, self.config.vision.image_size
        text, valid = self.text_tokenizer(observation.instruction, self.config.text_tokens)
        words = torch.tensor(fixed_words(self.text_tokenizer), dtype=torch.long).expand(len(text), -1)
        state = self._padded(self._known_normalization.state.normalize(observation.state), self.config.state_dim)
        return Inputs(
            pixels=torch.stack([tower_picture(picture, side) for picture in pictures], 1).to(self.device),
            expert_pixels=None
            if expert is None
            else torch.stack([expert_picture(picture, expert) for picture in pictures], 1).to(self.device),
            words=words.to(self.device),
            text=text.to(self.device),
            text_valid=valid.to(self.device),
            state=state.to(self.device),
        )

    def chunk(self, inputs: Inputs) -> Float[Tensor, "batch horizon action"]:
        """A normalised action chunk, in one pass."""
        return self._run(inputs, with_depth=False).actions

    def _run(self, inputs: Inputs, *, with_depth: bool) -> Outcome:
        """All streams through the plan, with what happens between its steps."""
        images, deepstack = self._image_tokens(inputs)
        wanted = ["action", "depth"] if with_depth and self.depth_head else ["action"]
        passing = self.mixture.begin(self._blocks(inputs, images), wanted=wanted)
        pruner = self._pruner(inputs)
        middle = images
        for step in self.mixture.plan:
            if pruner and passing.place == self.entry:
                passing.select(pruner.kept())
            passing.advance()
            if pruner:
                pruner.watch(passing, step)
            if step.get("vlm", len(deepstack)) < len(deepstack):
                passing.add("prompt", self._among_prompt(deepstack[step["vlm"]], inputs))
            if step.get("vlm") == self.config.layers // 2 - 1:
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

    def _drawn_scale(self, generator: torch.Generator | None) -> Float[Tensor, ""] | None:
        """DINOv3's own augmentation: its coordinates are scaled at random, log-uniformly, while it is trained."""
        expert = self.config.expert
        if not self.training or expert is None or expert.encoder != "dinov3":
            return None
        device = generator.device if generator is not None else "cpu"
        largest = cast(float, expert.dinov3().pos_embed_rescale)
        return (largest ** (2 * torch.rand((), generator=generator, device=device) - 1)).to(self.device)

    def _padded(self, values: Float[Tensor, "*batch own"], size: int) -> Float[Tensor, "*batch {size}"]:
        """With zeros behind a robot's own numbers, up to the size that the network was built for."""
        if values.shape[-1] > size:
            raise UserError(f"the robot has {values.shape[-1]} numbers where the policy was built for at most {size}")
        return F.pad(values, (0, size - values.shape[-1]))

    @property
    def _language_model(self) -> Qwen3Stream:
        return cast(Qwen3Stream, self.mixture.streams["vlm"])

    @property
    def _last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.action_head[2])

    @property
    def _known_normalization(self) -> Normalization:
        if self.normalization is None:
            raise ValueError("this network was built without normalisation: it can only be run on Inputs")
        return self.normalization
