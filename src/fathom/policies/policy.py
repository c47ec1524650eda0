"""What a policy is, and the folder it lives in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fathom.config import parse_config, write_config
from fathom.data.batch import Batch, Observation, Whole
from fathom.data.draws import Draws
from fathom.data.normalization import Normalization
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.mixture import Mixture
from fathom.policies.card import Provenance, model_card
from fathom.policies.depth_expert import DepthConfig, DepthHead, check_fits
from fathom.policies.losses import Losses
from fathom.policies.text import TextTokenizer
from fathom.weights import load_weights, parameters_unset, put_in_corner, save_weights

__all__ = ["Losses", "Policy", "PolicyConfig"]


class PolicyConfig(Protocol):
    """What every policy's configuration says; the rest is each one's own."""

    @property
    def state_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def cameras(self) -> tuple[str, ...]: ...
    @property
    def text_tokens(self) -> int: ...
    @property
    def depth(self) -> DepthConfig | None: ...
    @property
    def image_size(self) -> int: ...
    @property
    def stored_size(self) -> int | None: ...
    @property
    def tokens(self) -> dict[str, int]: ...


class Policy(nn.Module, ModelHubMixin, ABC):
    """From an observation to an action chunk.

    Of Hugging Face's mixin it has ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    Args:
        config: sizes and choices.
        normalization: of state and actions; saved with the policy. ``None`` for a network that is only run on its own
            inputs, as the text tokenizer may be.
        text_tokenizer: of the instructions; saved with the policy.
    """

    kind: ClassVar[str]
    """The name of the architecture in a saved policy's ``config.json``."""

    config_type: ClassVar[type[Any]]
    """The dataclass that ``config.json`` is read as."""

    provenance: Provenance = Provenance()
    """What it was made from, and how."""

    config: PolicyConfig
    mixture: Mixture
    depth_head: DepthHead | None
    depth_tokenizer: DepthTokenizer | None

    def __init__(
        self, config: PolicyConfig, normalization: Normalization | None, text_tokenizer: TextTokenizer | None
    ) -> None:
        super().__init__()
        self.config = config
        self.normalization = normalization
        self.text_tokenizer = text_tokenizer

    # ------------------------------------------------------------------------------------- what each policy says

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws | None = None, whole: Whole | None = None) -> Losses:
        """The loss on a batch.

        Args:
            draws: what is drawn at random for each sample, noise and time; by default anew.
            whole: what counts of the batch that this one is a part of; the losses of the parts add up to its loss.
        """

    @abstractmethod
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """An action chunk in the robot's own units; ``noise`` is where the flow starts (default: drawn)."""

    @abstractmethod
    def prepare(self, observation: Observation) -> Any:
        """The observation in the network's own terms: tensors alone, on its device.

        Raises:
            UserError: a camera is missing, an instruction is too long, or the state is that of another robot.
        """

    @abstractmethod
    def depth_tokens(self, inputs: Any) -> Float[Tensor, "batch tokens width"]:
        """The depth expert's output for what :meth:`prepare` gave."""

    @abstractmethod
    def differing(self, config: Any) -> tuple[list[str], list[str]]:
        """The modules that a policy of this configuration lacks or has in another shape, and those that it has with
        fewer numbers of state or action."""

    @classmethod
    def text_tokenizer_type(cls, config: Any) -> type[TextTokenizer]:
        """What the instructions of a policy of this configuration are read with."""
        return TextTokenizer

    @classmethod
    def check_training(cls, config: Any, pictures: Mapping[str, tuple[int, int]], start: Any | None) -> None:
        """Refuse a training of this configuration from which nothing good could come, before anything is begun.

        Args:
            pictures: height and width of each camera's pictures.
            start: the configuration of what the training starts from; ``None`` from scratch.

        Raises:
            UserError: the pictures or the start are not what this policy needs.
        """

    # ----------------------------------------------------------------------------------------- what all have alike

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(horizon, action) of the noise that one chunk starts from, and of the chunk."""
        return self.config.horizon, self.config.action_dim

    @property
    def action_width(self) -> int:
        """Components of the robot's actions; fewer than the model's own, where it was widened for other robots."""
        return len(self.scaling.actions.offset)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views that it wants to see."""
        return self.config.cameras

    @property
    def scaling(self) -> Normalization:
        """The normalisation.

        Raises:
            ValueError: the network was built without.
        """
        if self.normalization is None:
            raise ValueError("this network was built without normalisation: it can only be run on Inputs")
        return self.normalization

    def train(self, mode: bool = True) -> Self:
        """The depth tokenizer is frozen: it stays in evaluation mode."""
        super().train(mode)
        if self.depth_tokenizer:
            self.depth_tokenizer.eval()
        return self

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
        tokens = self.depth_tokens(self.prepare(observation.to(self.device)))
        return self.depth_head.target.picture(self.depth_head(tokens, ahead=ahead), self.depth_tokenizer)

    def save(self, folder: Path) -> None:
        """Write a folder that needs nothing else; ``config.json`` comes last, so that a folder with one is whole."""
        if self.text_tokenizer is None:
            raise ValueError("a policy without a text tokenizer cannot be saved: nothing could tell it what to do")
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors", without=["depth_tokenizer"])
        self.scaling.save(folder)
        self.text_tokenizer.save(folder)
        self.provenance.save(folder)
        if self.depth_tokenizer:
            self.depth_tokenizer.save(folder / "depth_tokenizer")
        write_config(self.config, folder / "config.json", type=self.kind)

    @classmethod
    def load(cls, folder: Path, values: dict[str, Any], dtype: torch.dtype = torch.float32) -> Self:
        """Read what :meth:`save` wrote; ``values`` are those of ``config.json``, ``dtype`` that of the weights."""
        config = parse_config(cls.config_type, values, folder / "config.json")
        if config.depth and not (folder / "depth_tokenizer").is_dir():
            raise UserError(
                f"{folder} has a depth expert but no depth_tokenizer: it is a start for training "
                "(fathom train DATASET --init, with a tokenizer), not a policy yet"
            )
        tokenizer = DepthTokenizer.load(folder / "depth_tokenizer") if config.depth else None
        text = cls.text_tokenizer_type(config).load(folder)
        build: Any = cls
        with parameters_unset(dtype):
            policy: Self = build(config, Normalization.load(folder), text, tokenizer)
        load_weights(policy, folder / "model.safetensors", without=["depth_tokenizer"])
        policy.provenance = Provenance.load(folder)
        return policy.eval()

    def start_from(self, folder: Path, config: Any) -> list[str]:
        """Take over the weights of a policy or an imported checkpoint; an expert that is not there stays fresh.

        Args:
            config: that of the folder.

        Returns:
            the modules that stay fresh.

        Where this policy has more numbers of state or action, the weights of those begin at zero.

        Raises:
            UserError: its weights are not exactly those that this policy has.
        """
        path, (fresh, widened) = folder / "model.safetensors", self.differing(config)
        if not self.config.depth or not config.depth:
            fresh += ["depth_head", "mixture.streams.depth"]
        elif self.config.depth.head_shape != config.depth.head_shape:
            fresh += ["depth_head"]
        load_weights(self, path, without=["depth_tokenizer", *fresh, *widened])
        for name in (f"{module}.{leaf}" for module in widened for leaf in ("weight", "bias")):
            put_in_corner(self.get_parameter(name), path, name)
        if self.depth_head and self.depth_tokenizer:
            self.depth_head.target.attach(self.depth_tokenizer)
        own = [name for name, _ in self.named_parameters()]
        return sorted(module for module in {*fresh} if any(name.startswith(f"{module}.") for name in own))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> Self:  # type: ignore[override]
        """The policy in a folder or of a hub id, see :func:`fathom.load_policy`.

        Args:
            download: what ``huggingface_hub.snapshot_download`` is told beside that: ``revision``, ``token`` …

        Raises:
            UserError: there is none, or it is of another kind.
        """
        from fathom.policies import load_policy

        policy = load_policy(pretrained_model_name_or_path, **download)
        if not isinstance(policy, cls):
            raise UserError(f"{pretrained_model_name_or_path} is a {policy.kind!r}, and a {cls.__name__} was asked for")
        return policy

    def generate_model_card(self, *_: Any, results: Sequence[str | Path] = (), **__: Any) -> ModelCard:
        """The model card: recipe, data, metrics and licence (``model_card_kwargs={"results": [...]}`` adds results)."""
        return model_card(self.kind, self.provenance, results)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    # ------------------------------------------------------------------------------------------ for the policies

    def _take_depth_tokenizer(self, tokenizer: DepthTokenizer | None) -> None:
        """Freeze the tokenizer and tell the depth head of it; comes last in a policy's ``__init__``."""
        self.depth_tokenizer = tokenizer
        if self.config.depth and self.depth_head and tokenizer:
            check_fits(self.config.depth, tokenizer)
            tokenizer.requires_grad_(False).eval()
            self.depth_head.target.attach(tokenizer)

    def _pictures(self, observation: Observation) -> dict[str, Tensor]:
        """The pictures of its cameras, in their order."""
        if missing := [camera for camera in self.cameras if camera not in observation.images]:
            raise UserError(f"the policy needs camera {missing}; the observation has {sorted(observation.images)}")
        return {camera: observation.images[camera] for camera in self.cameras}

    def _words(self, observation: Observation) -> tuple[Int[Tensor, "batch text"], Bool[Tensor, "batch text"]]:
        """The token ids of the instructions, and which are no padding."""
        if self.text_tokenizer is None:
            raise ValueError("this network was built without a text tokenizer: it can only be run on Inputs")
        return self.text_tokenizer(observation.instruction, self.config.text_tokens)

    def _state(self, observation: Observation) -> Float[Tensor, "batch state"]:
        return _padded(self.scaling.state.normalize(observation.state), self.config.state_dim)

    def _wanted(self, batch: Batch) -> Float[Tensor, "batch horizon action"]:
        """The recorded actions, normalised."""
        return _padded(self.scaling.actions.normalize(batch.actions), self.config.action_dim)

    def _in_robot_units(self, chunk: Float[Tensor, "batch horizon action"]) -> Float[Tensor, "batch horizon own"]:
        return self.scaling.actions.unnormalize(chunk.float()[..., : self.action_width])


def _padded(values: Float[Tensor, "*batch own"], size: int) -> Float[Tensor, "*batch {size}"]:
    """With zeros behind a robot's own numbers, up to the size that the network was built for."""
    if values.shape[-1] > size:
        raise UserError(f"the robot has {values.shape[-1]} numbers where the policy was built for at most {size}")
    return F.pad(values, (0, size - values.shape[-1]))
