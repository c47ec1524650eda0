"""QDepth-VLA: a vision-language model, a depth expert and an action expert that meet in every layer.

Source: arXiv 2510.14836; the base without depth is open pi-zero.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import SiglipVisionModel

from fathom.data.batch import Batch, Observation, Whole
from fathom.data.draws import Draws
from fathom.data.normalization import Normalization
from fathom.data.resize import unit_picture
from fathom.depth.tokenizer import DepthTokenizer
from fathom.mixture import Block, GemmaStream, Mixture, Stream
from fathom.policies.conventions import count
from fathom.policies.depth_expert import DepthHead, depth_losses
from fathom.policies.losses import Losses, action_loss
from fathom.policies.policy import Policy
from fathom.policies.qdepth_vla.action_encoder import ActionEncoder
from fathom.policies.qdepth_vla.compiled import compile_chunk
from fathom.policies.qdepth_vla.config import QDepthVLAConfig
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.policies.qdepth_vla.prefix import Prefix
from fathom.policies.text import TextTokenizer


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
    config_type = QDepthVLAConfig
    config: QDepthVLAConfig

    def __init__(
        self,
        config: QDepthVLAConfig,
        normalization: Normalization | None = None,
        text_tokenizer: TextTokenizer | None = None,
        depth_tokenizer: DepthTokenizer | None = None,
    ) -> None:
        super().__init__(config, normalization, text_tokenizer)
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
        self._take_depth_tokenizer(depth_tokenizer)

    def loss(self, batch: Batch, draws: Draws | None = None, whole: Whole | None = None) -> Losses:
        """Flow-matching error of the actions and error of the depth, each a mean over what is valid."""
        draws, whole, flow = draws or Draws.fresh(), whole or Whole.of(batch), self.config.convention.flow
        count, shape = self.config.flow_draws, self.noise_shape
        noise, uniform = draws.normal(batch, (count, *shape), "noise"), draws.uniform(batch, (count,), "time")
        batch = batch.to(self.device)
        actions = self._wanted(batch).repeat_interleave(count, 0)
        noise, time = noise.flatten(0, 1).to(actions), flow.time_of(uniform.flatten()).to(actions)

        prefix = self._prefix(self.prepare(batch), with_depth=True)
        error = self._action_error(prefix.repeat(count), actions, noise, time)
        action = action_loss(error, batch, whole, count)
        if prefix.depth is None or self.depth_head is None:
            return Losses(action)
        return Losses(action, **depth_losses(self.depth_head, self.depth_tokenizer, prefix.depth, batch, whole))

    @torch.no_grad()
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`Policy`: the prefix is computed once, each flow step runs the action tokens alone."""
        if noise is None:
            noise = torch.randn(len(observation), *self.noise_shape)
        inputs = self.prepare(observation.to(self.device))
        return self._in_robot_units(self.chunk(inputs, noise.to(inputs.state)))

    def speed_up(self, batch: int = 1) -> "QDepthVLA":
        """Compile the action chunk for observations of this batch size; on a GPU it becomes one CUDA graph.

        It takes a minute or more, once per process. Weights must not change afterwards. Returns the policy itself.
        """
        compile_chunk(self.eval().requires_grad_(False), batch)
        return self

    def differing(self, config: QDepthVLAConfig) -> tuple[list[str], list[str]]:
        """See :class:`Policy`."""
        same_robot = (self.config.state_dim, self.config.action_dim) == (config.state_dim, config.action_dim)
        return [], [] if same_robot else ["proprio_encoder", "action_encoder.linear_1", "action_decoder"]

    # ------------------------------------------------------------------------------------------ tensors alone

    def prepare(self, observation: Observation) -> Inputs:
        """See :class:`Policy`."""
        pixels = torch.stack([self._pixels(picture) for picture in self._pictures(observation).values()], 1)
        text, valid = self._words(observation)
        return Inputs(*(tensor.to(self.device) for tensor in (pixels, text, valid, self._state(observation))))

    def depth_tokens(self, inputs: Inputs) -> Float[Tensor, "batch tokens width"]:
        """See :class:`Policy`."""
        depth = self._prefix(inputs, with_depth=True).depth
        assert depth is not None
        return depth

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
        pixels = unit_picture(image, self.config.vision.image_size)
        return torch.zeros_like(pixels) if self.config.blind else pixels * 2 - 1

    def _suffix_positions(self, prefix_valid: Tensor) -> Int[Tensor, "batch suffix"]:
        return self.config.convention.suffix_positions(prefix_valid, 1 + self.config.horizon)

    def _scaled(self, embedding: Tensor) -> Tensor:
        return embedding * self.config.expert_width**0.5 if self.config.convention.scale_experts else embedding
