"""QDepth-VLA: a vision-language model, a depth expert and an action expert that meet in every layer.

Source: arXiv 2510.14836; the base without depth is open pi-zero.
"""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import SiglipVisionModel

from fathom.config import parse_config, write_config
from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization
from fathom.data.resize import resize
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.mixture import Block, Cache, GemmaStream, Mixture, Stream
from fathom.policies.conventions import count
from fathom.policies.policy import Losses, Policy
from fathom.policies.qdepth_vla.config import QDepthVLAConfig
from fathom.policies.qdepth_vla.experts import ActionEncoder, DepthHead
from fathom.policies.text import TextTokenizer
from fathom.weights import load_weights, save_weights


class QDepthVLA(Policy):
    """The policy of the paper, or with ``config.depth=None`` the open pi-zero baseline.

    Args:
        config: sizes and choices.
        normalization: of state and actions; saved with the policy.
        text_tokenizer: of the instructions; saved with the policy.
        depth_tokenizer: the frozen VQ-VAE whose codes the depth expert predicts; required with ``config.depth``.
    """

    kind = "qdepth_vla"

    def __init__(
        self,
        config: QDepthVLAConfig,
        normalization: Normalization,
        text_tokenizer: TextTokenizer,
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
        if self.depth_head and depth_tokenizer:
            self._check_tokenizer(depth_tokenizer)
            depth_tokenizer.requires_grad_(False).eval()
            self.depth_head.use_codebook(depth_tokenizer.codebook)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.action_decoder.weight.device

    @property
    def noise_shape(self) -> tuple[int, int]:
        """See :class:`Policy`."""
        return self.config.horizon, self.config.action_dim

    def train(self, mode: bool = True) -> "QDepthVLA":
        """The tokenizer is frozen: it stays in evaluation mode."""
        super().train(mode)
        if self.depth_tokenizer:
            self.depth_tokenizer.eval()
        return self

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Flow-matching error of the actions and cross-entropy of the depth codes, each a mean over what is valid."""
        batch = batch.to(self.device)
        draws = self.config.flow_draws
        hidden, prefix_valid, cache = self._prefix(batch, with_depth=True)

        actions = self.normalization.actions.normalize(batch.actions).repeat_interleave(draws, 0)
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        time = self.config.convention.flow.sample_time(len(actions), generator).to(actions)
        point, target = self.config.convention.flow.interpolate(actions, noise, time)
        velocity = self._velocity(point, time, prefix_valid.repeat_interleave(draws, 0), cache.repeat(draws))
        counts = ~batch.action_is_pad.repeat_interleave(draws, 0)
        action = (velocity.float() - target).square().mean(-1)[counts].mean()
        if not self.depth_head:
            return Losses(action)

        logits = self.depth_head(hidden["depth"])
        codes = self._target_codes(batch)
        accuracy = (logits.argmax(-1) == codes).float().mean()
        return Losses(action, F.cross_entropy(logits.flatten(0, 1), codes.flatten()), accuracy)

    @torch.no_grad()
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """See :class:`Policy`: the prefix is computed once, each flow step runs the action tokens alone."""
        observation = observation.to(self.device)
        _, prefix_valid, cache = self._prefix(observation, with_depth=False)
        if noise is None:
            noise = torch.randn(len(observation), *self.noise_shape)

        def velocity(point: Tensor, time: Tensor) -> Tensor:
            return self._velocity(point, time, prefix_valid, cache).float()

        chunk = self.config.convention.flow.integrate(velocity, noise.to(self.device), self.config.flow_steps)
        return self.normalization.actions.unnormalize(chunk)

    @torch.no_grad()
    def predict_depth(self, observation: Observation) -> Float[Tensor, "batch 1 height width"]:
        """The depth picture of the main camera in metres: the most likely codes, decoded.

        Raises:
            UserError: the policy was trained without depth.
        """
        if not self.depth_head or not self.depth_tokenizer:
            raise UserError("this policy was trained without a depth expert: it predicts no depth")
        hidden, _, _ = self._prefix(observation.to(self.device), with_depth=True)
        return self.depth_tokenizer.decode(self.depth_head(hidden["depth"]).argmax(-1))

    def save(self, folder: Path) -> None:
        """See :class:`Policy`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors", without="depth_tokenizer")
        self.normalization.save(folder)
        self.text_tokenizer.save(folder)
        if self.depth_tokenizer:
            self.depth_tokenizer.save(folder / "depth_tokenizer")
        write_config(self.config, folder / "config.json", type=self.kind)

    @classmethod
    def load(cls, folder: Path, values: dict[str, Any]) -> "QDepthVLA":
        """See :class:`Policy`."""
        config = parse_config(QDepthVLAConfig, values, folder / "config.json")
        tokenizer = DepthTokenizer.load(folder / "depth_tokenizer") if config.depth else None
        policy = cls(config, Normalization.load(folder), TextTokenizer.load(folder), tokenizer)
        load_weights(policy, folder / "model.safetensors", without="depth_tokenizer")
        return policy.eval()

    def _prefix(
        self, observation: Observation, *, with_depth: bool
    ) -> tuple[dict[str, Tensor], Bool[Tensor, "batch prefix"], Cache]:
        """Run all that does not read the actions, once per observation.

        Returns:
            the depth expert's output if asked for, which image and text tokens are valid, and the cache.
        """
        visual = self._visual_tokens(observation)
        image = self.multi_modal_projector(visual)
        ids, text_valid = self.text_tokenizer(observation.instruction, self.config.text_tokens)
        vlm = cast(GemmaStream, self.mixture.streams["vlm"])
        text = vlm.embed_tokens(ids.to(self.device)) * self.config.vlm_width**0.5
        image_valid = torch.ones(image.shape[:2], dtype=torch.bool, device=self.device)
        valid = torch.cat([image_valid, text_valid.to(self.device)], 1)
        positions = self.config.convention.prefix_positions(valid)
        image_positions, text_positions = positions.split([image.shape[1], text.shape[1]], 1)

        blocks = [
            Block("image", image, image_positions),
            Block("text", text.to(image.dtype), text_positions, valid[:, image.shape[1] :]),
        ]
        if self.depth_head:
            # The main camera's tokens, before the language model has touched them.
            main = visual[:, : self.config.vision.grid**2]
            blocks.append(Block("depth", self._scaled(self.depth_head.project_in(main)), count(main[..., 0])))
        state = self.normalization.state.normalize(observation.state)
        proprio = self._scaled(self.proprio_encoder(state)[:, None])
        blocks.append(Block("proprio", proprio, self._suffix_positions(valid)[:, :1]))
        wanted = {"depth"} if with_depth and self.depth_head else set()
        hidden, cache = self.mixture(blocks, wanted=wanted)
        return hidden, valid, cache

    def _velocity(
        self,
        point: Float[Tensor, "batch horizon action"],
        time: Float[Tensor, " batch"],
        prefix_valid: Bool[Tensor, "batch prefix"],
        cache: Cache,
    ) -> Float[Tensor, "batch horizon action"]:
        """The flow's velocity at ``point``: one pass of the action tokens over the cached prefix."""
        tokens = self._scaled(self.action_encoder(point, time))
        block = Block("action", tokens, self._suffix_positions(prefix_valid)[:, 1:])
        hidden, _ = self.mixture([block], cache)
        return self.action_decoder(hidden["action"])

    def _visual_tokens(self, observation: Observation) -> Float[Tensor, "batch tokens vision_width"]:
        """SigLIP's tokens of all cameras, one camera after another."""
        if missing := [camera for camera in self.config.cameras if camera not in observation.images]:
            raise UserError(f"the policy needs camera {missing}; the observation has {sorted(observation.images)}")
        pictures = [self._pixels(observation.images[camera]) for camera in self.config.cameras]
        tokens = self.vision_tower(torch.cat(pictures)).last_hidden_state
        return torch.cat(tokens.chunk(len(pictures)), 1)

    def _pixels(self, image: Tensor) -> Float[Tensor, "batch 3 size size"]:
        """A picture in [-1, 1] at the encoder's size."""
        small = resize(image, self.config.vision.image_size)
        pixels = small.float() / 255 if small.dtype == torch.uint8 else small.float()
        return torch.zeros_like(pixels) if self.config.blind else pixels * 2 - 1

    def _suffix_positions(self, prefix_valid: Tensor) -> Int[Tensor, "batch suffix"]:
        return self.config.convention.suffix_positions(prefix_valid, 1 + self.config.horizon)

    def _scaled(self, embedding: Tensor) -> Tensor:
        return embedding * self.config.expert_width**0.5 if self.config.convention.scale_experts else embedding

    def _target_codes(self, batch: Batch) -> Int[Tensor, "batch depth_tokens"]:
        if batch.depth_codes is not None:
            return batch.depth_codes
        if batch.depth is None or self.depth_tokenizer is None:
            raise UserError("co-training with depth needs depth in the batch and a depth tokenizer in the policy")
        return self.depth_tokenizer.encode(batch.depth)

    def _check_tokenizer(self, tokenizer: DepthTokenizer) -> None:
        ours, theirs = self.config.depth, tokenizer.config
        for name in ("grid", "codes", "code_dim"):
            if getattr(ours, name) != getattr(theirs, name):
                raise UserError(
                    f"the depth tokenizer has {name} {getattr(theirs, name)}, the policy expects {getattr(ours, name)}"
                )
