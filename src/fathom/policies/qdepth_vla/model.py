"""QDepth-VLA: a vision-language model, a depth expert and an action expert that meet in every layer.

Source: arXiv 2510.14836; the base without depth is open pi-zero.
"""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import SiglipVisionModel

from fathom.config import parse_config, write_config
from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization
from fathom.data.resize import resize
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.mixture import Block, GemmaStream, Mixture, Stream
from fathom.policies.card import Provenance
from fathom.policies.conventions import count
from fathom.policies.policy import Losses, Policy
from fathom.policies.qdepth_vla.compiled import compile_chunk
from fathom.policies.qdepth_vla.config import QDepthVLAConfig
from fathom.policies.qdepth_vla.depth_losses import depth_losses
from fathom.policies.qdepth_vla.depth_targets import check_fits
from fathom.policies.qdepth_vla.experts import ActionEncoder, DepthHead
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.policies.qdepth_vla.prefix import Prefix
from fathom.policies.text import TextTokenizer
from fathom.weights import load_weights, parameters_unset, put_in_corner, save_weights


class QDepthVLA(Policy):
    """The policy of the paper, or with ``config.depth=None`` the open pi-zero baseline.

    Args:
        config: sizes and choices.
        normalization: of state and actions; saved with the policy. ``None`` for a network that is only run on
            :class:`Inputs`, as the two tokenizers may be.
        text_tokenizer: of the instructions; saved with the policy.
        depth_tokenizer: the frozen tokenizer whose codes the depth expert predicts; required with ``config.depth``.
    """

    kind = "qdepth_vla"

    def __init__(
        self,
        config: QDepthVLAConfig,
        normalization: Normalization | None = None,
        text_tokenizer: TextTokenizer | None = None,
        depth_tokenizer: DepthTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalization = normalization
        self.text_tokenizer = text_tokenizer
        self.vision_tower = SiglipVisionModel(config.vision.siglip())
        self.multi_modal_projector = nn.Linear(config.vision.width, config.vlm_width)

        width = config.expert_width
        streams: dict[str, Stream] = {"vlm": GemmaStream(config.gemma("vlm"), embed_tokens=True)}
        carries = {"vlm": "image text"}
        self.depth_head: DepthHead | None = None
        if config.depth:
            streams["depth"] = GemmaStream(config.gemma("expert"))
            carries["depth"] = "depth"
            self.depth_head = DepthHead(config.depth, config.vision.width, width, config.vision.grid)
        streams["action"] = GemmaStream(config.gemma("expert"))
        carries["action"] = "proprio action"
        self.mixture = Mixture(streams, carries, config.visibility, softcap=config.softcap, backend=config.attention)
        self.proprio_encoder = nn.Linear(config.state_dim, width)
        self.action_encoder = ActionEncoder(config.action_dim, width, config.convention)
        self.action_decoder = nn.Linear(width, config.action_dim)
        self.depth_tokenizer = depth_tokenizer
        if config.depth and self.depth_head and depth_tokenizer:
            check_fits(config.depth, depth_tokenizer)
            depth_tokenizer.requires_grad_(False).eval()
            self.depth_head.target.attach(depth_tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.action_decoder.weight.device

    @property
    def noise_shape(self) -> tuple[int, int]:
        """See :class:`Policy`."""
        return self.config.horizon, self.config.action_dim

    @property
    def action_width(self) -> int:
        """See :class:`Policy`; fewer than the model's own, where it was widened for other robots."""
        return len(self._known_normalization.actions.offset)

    @property
    def cameras(self) -> tuple[str, ...]:
        """See :class:`Policy`."""
        return self.config.cameras

    def train(self, mode: bool = True) -> "QDepthVLA":
        """The tokenizer is frozen: it stays in evaluation mode."""
        super().train(mode)
        if self.depth_tokenizer:
            self.depth_tokenizer.eval()
        return self

    def loss(self, batch: Batch, generator: torch.Generator | None = None, whole: Batch | None = None) -> Losses:
        """Flow-matching error of the actions and error of the depth, each a mean over what is valid."""
        whole, batch = batch if whole is None else whole, batch.to(self.device)
        draws, scaling = self.config.flow_draws, self._known_normalization.actions
        actions = self._padded(scaling.normalize(batch.actions), self.config.action_dim).repeat_interleave(draws, 0)
        device = generator.device if generator is not None else "cpu"
        noise = torch.randn(actions.shape, generator=generator, device=device).to(actions)
        time = self.config.convention.flow.sample_time(len(actions), generator).to(actions)

        prefix = self._prefix(self.prepare(batch), with_depth=True)
        error = self._action_error(prefix.repeat(draws), actions, noise, time)
        counts = ~batch.action_is_pad.repeat_interleave(draws, 0)
        own = error[..., : batch.actions.shape[-1]].mean(-1)
        action = (own * counts).sum() / (draws * _share(~whole.action_is_pad))
        if prefix.depth is None or self.depth_head is None:
            return Losses(action)
        return Losses(action, **depth_losses(self.depth_head, self.depth_tokenizer, prefix.depth, batch, whole))

    @torch.no_grad()
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`Policy`: the prefix is computed once, each flow step runs the action tokens alone."""
        scaling = self._known_normalization.actions
        if noise is None:
            noise = torch.randn(len(observation), *self.noise_shape)
        inputs = self.prepare(observation.to(self.device))
        chunk = self.chunk(inputs, noise.to(inputs.state)).float()
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
        prefix = self._prefix(self.prepare(observation.to(self.device)), with_depth=True)
        values = self.depth_head(prefix.depth, ahead=ahead)
        return self.depth_head.target.picture(values, self.depth_tokenizer)

    def speed_up(self, batch: int = 1) -> "QDepthVLA":
        """Compile the action chunk for observations of this batch size; on a GPU it becomes one CUDA graph.

        It takes a minute or more, once per process. Weights must not change afterwards. Returns the policy itself.
        """
        compile_chunk(self.eval().requires_grad_(False), batch)
        return self

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
    def load(cls, folder: Path, values: dict[str, Any], dtype: torch.dtype = torch.float32) -> "QDepthVLA":
        """See :class:`Policy`."""
        config = parse_config(QDepthVLAConfig, values, folder / "config.json")
        if config.depth and not (folder / "depth_tokenizer").is_dir():
            raise UserError(
                f"{folder} has a depth expert but no depth_tokenizer: it is a start for training "
                "(fathom train DATASET --init, with a tokenizer), not a policy yet"
            )
        tokenizer = DepthTokenizer.load(folder / "depth_tokenizer") if config.depth else None
        with parameters_unset(dtype):
            policy = cls(config, Normalization.load(folder), TextTokenizer.load(folder), tokenizer)
        load_weights(policy, folder / "model.safetensors", without=["depth_tokenizer"])
        policy.provenance = Provenance.load(folder)
        return policy.eval()

    def start_from(self, folder: Path, config: QDepthVLAConfig) -> None:
        """Take over the weights of a policy or an imported checkpoint; a depth expert that is not there stays fresh.

        Args:
            config: that of the folder.

        Where this policy has more numbers of state or action, the weights of those begin at zero.

        Raises:
            UserError: its weights are not exactly those that this policy has.
        """
        path = folder / "model.safetensors"
        fresh = ["depth_tokenizer"]
        if not self.config.depth or not config.depth:
            fresh += ["depth_head", "mixture.streams.depth"]
        elif self.config.depth.head_shape != config.depth.head_shape:
            fresh += ["depth_head"]
        if (self.config.state_dim, self.config.action_dim) != (config.state_dim, config.action_dim):
            widened = ["proprio_encoder", "action_encoder.linear_1", "action_decoder"]
            load_weights(self, path, without=[*fresh, *widened])
            for name in (f"{module}.{leaf}" for module in widened for leaf in ("weight", "bias")):
                put_in_corner(self.get_parameter(name), path, name)
        else:
            load_weights(self, path, without=fresh)
        if self.depth_head and self.depth_tokenizer:
            self.depth_head.target.attach(self.depth_tokenizer)

    # ------------------------------------------------------------------------------------------ tensors alone

    def prepare(self, observation: Observation) -> Inputs:
        """The observation in the network's own terms, on its device.

        Raises:
            UserError: a camera is missing, an instruction is too long, or the state is that of another robot.
        """
        if missing := [camera for camera in self.config.cameras if camera not in observation.images]:
            raise UserError(f"the policy needs camera {missing}; the observation has {sorted(observation.images)}")
        if self.text_tokenizer is None:
            raise ValueError("this network was built without a text tokenizer: it can only be run on Inputs")
        pixels = torch.stack([self._pixels(observation.images[camera]) for camera in self.config.cameras], 1)
        text, valid = self.text_tokenizer(observation.instruction, self.config.text_tokens)
        state = self._padded(self._known_normalization.state.normalize(observation.state), self.config.state_dim)
        return Inputs(*(tensor.to(self.device) for tensor in (pixels, text, valid, state)))

    def embed_prefix(
        self, inputs: Inputs
    ) -> tuple[Float[Tensor, "batch image width"], Float[Tensor, "batch text width"]]:
        """Image and text as the language model reads them."""
        visual = self._visual_tokens(inputs)
        return self.multi_modal_projector(visual), self._text_tokens(inputs)

    def chunk(
        self, inputs: Inputs, noise: Float[Tensor, "batch horizon action"]
    ) -> Float[Tensor, "batch horizon action"]:
        """A normalised action chunk: Euler steps from ``noise``, the prefix computed once."""
        prefix = self._prefix(inputs, with_depth=False)

        def velocity(point: Tensor, time: Tensor) -> Tensor:
            return self._velocity(prefix, point, time).float()

        chunk = self.config.convention.flow.integrate(velocity, noise.float(), self.config.flow_steps)
        bound = self.config.clip_actions
        return chunk if bound is None else chunk.clamp(-bound, bound)

    def action_error(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action"],
        noise: Float[Tensor, "batch horizon action"],
        time: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch horizon action"]:
        """Squared error of the flow's velocity, all in normalised units; what counts of it is the caller's to say."""
        return self._action_error(self._prefix(inputs, with_depth=False), actions, noise, time)

    def _prefix(self, inputs: Inputs, *, with_depth: bool) -> Prefix:
        visual, text = self._visual_tokens(inputs), self._text_tokens(inputs)
        image = self.multi_modal_projector(visual)
        valid = torch.cat([inputs.text_valid.new_ones(image.shape[:2]), inputs.text_valid], 1)
        image_positions, text_positions = self.config.convention.prefix_positions(valid).split(
            [image.shape[1], text.shape[1]], 1
        )
        blocks = [
            Block("image", image, image_positions),
            Block("text", text.to(image.dtype), text_positions, inputs.text_valid),
        ]
        if self.depth_head:
            # The main camera's tokens, before the language model has touched them.
            main = visual[:, : self.config.vision.grid**2]
            blocks.append(Block("depth", self._scaled(self.depth_head.project_in(main)), count(main[..., 0])))
        proprio = self._scaled(self.proprio_encoder(inputs.state.to(self.proprio_encoder.weight.dtype))[:, None])
        blocks.append(Block("proprio", proprio, self._suffix_positions(valid)[:, :1]))
        wanted = {"depth"} if with_depth and self.depth_head else set()
        hidden, cache = self.mixture(blocks, wanted=wanted)
        return Prefix(valid, cache, hidden.get("depth"))

    def _velocity(
        self, prefix: Prefix, point: Float[Tensor, "batch horizon action"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch horizon action"]:
        """The flow's velocity at ``point``: one pass of the action tokens over the cached prefix."""
        tokens = self._scaled(self.action_encoder(point.to(self.action_decoder.weight.dtype), time))
        block = Block("action", tokens, self._suffix_positions(prefix.valid)[:, 1:])
        hidden, _ = self.mixture([block], prefix.cache)
        return self.action_decoder(hidden["action"])

    def _action_error(self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        point, target = self.config.convention.flow.interpolate(actions, noise, time)
        return (self._velocity(prefix, point, time).float() - target).square()

    def _visual_tokens(self, inputs: Inputs) -> Float[Tensor, "batch tokens vision_width"]:
        """SigLIP's tokens of all cameras, one camera after another."""
        pixels = inputs.pixels.flatten(0, 1).to(self.multi_modal_projector.weight.dtype)
        tokens = self.vision_tower(pixels).last_hidden_state
        return tokens.unflatten(0, inputs.pixels.shape[:2]).flatten(1, 2)

    def _text_tokens(self, inputs: Inputs) -> Float[Tensor, "batch text width"]:
        vlm = cast(GemmaStream, self.mixture.streams["vlm"])
        return vlm.embed_tokens(inputs.text) * self.config.vlm_width**0.5

    def _pixels(self, image: Tensor) -> Float[Tensor, "batch 3 size size"]:
        """A picture in [-1, 1] at the encoder's size."""
        small = resize(image, self.config.vision.image_size)
        pixels = small.float() / 255 if small.dtype == torch.uint8 else small.float()
        return torch.zeros_like(pixels) if self.config.blind else pixels * 2 - 1

    def _padded(self, values: Float[Tensor, "*batch own"], size: int) -> Float[Tensor, "*batch {size}"]:
        """With zeros behind a robot's own numbers, up to the size that the network was built for."""
        if values.shape[-1] > size:
            raise UserError(f"the robot has {values.shape[-1]} numbers where the policy was built for at most {size}")
        return F.pad(values, (0, size - values.shape[-1]))

    def _suffix_positions(self, prefix_valid: Tensor) -> Int[Tensor, "batch suffix"]:
        return self.config.convention.suffix_positions(prefix_valid, 1 + self.config.horizon)

    def _scaled(self, embedding: Tensor) -> Tensor:
        return embedding * self.config.expert_width**0.5 if self.config.convention.scale_experts else embedding

    @property
    def _known_normalization(self) -> Normalization:
        if self.normalization is None:
            raise ValueError("this network was built without normalisation: it can only be run on Inputs")
        return self.normalization


def _share(counts: Tensor) -> int:
    """By how much a sum over what counts is divided for its mean; nothing counts nowhere."""
    return int(counts.sum().clamp(min=1))
