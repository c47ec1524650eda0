"""From pictures, depth maps and conversations to what the model reads."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fathom.depth.estimators import Estimator
from fathom.errors import UserError
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.depth_encoding import pack_millimetres
from fathom.vlm.depth_input import DepthSource, ImageSource, Unit, depth_of, read_image
from fathom.vlm.fusion import depth_grid

Message = Mapping[str, str]
"""One turn: ``role`` (system, user or assistant) and ``content``."""

IMAGE, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
IGNORED = -100
"""A label that no loss counts."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The form of Qwen's conversations, for tokenizers that bring none."""


class DepthVLMProcessor:
    """Text, pictures and depth, prepared without torchvision.

    Attributes:
        estimator: gives the depth of pictures that come without; ``None`` to refuse them. It is not saved.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil,
        config: DepthVLMConfig,
        estimator: Estimator | None = None,
    ) -> None:
        if tokenizer.chat_template is None:
            tokenizer.chat_template = CHAT_TEMPLATE
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.config = config
        self.estimator = estimator

    @property
    def image_token_id(self) -> int:
        """What the tokens of pictures, and of depth, are called in ``input_ids``."""
        number = self.tokenizer.convert_tokens_to_ids(IMAGE)
        assert isinstance(number, int)  # of one token one number
        return number

    def __call__(
        self,
        images: Sequence[ImageSource],
        conversations: Sequence[Sequence[Message]],
        depths: Sequence[DepthSource | None] | None = None,
        unit: Unit | None = None,
    ) -> dict[str, Tensor]:
        """A batch, one picture and one conversation a row; the picture opens the user's first turn.

        Conversations that end with the assistant are for training: padded on the right, and with ``labels`` for what
        the assistant says. Those that end with the user are for answering: padded on the left.

        Args:
            depths: see :func:`fathom.vlm.depth_input.read_depth`; each as large as its picture. Where there is none,
                the estimator is asked. With ``fusion = none`` depth is not looked at.
            unit: of the depths.

        Returns:
            ``input_ids``, ``attention_mask``, ``pixel_values``, ``image_grid_thw``; ``depth_values`` (patches, pixels)
            in metres or relative inverse depth, 0 where it is not known, in the order of ``pixel_values``; with packed
            depth tokens the same shape as ``pixel_values`` instead; ``labels``.

        Raises:
            UserError: a picture or depth map is bad (see :mod:`fathom.vlm.depth_input`), or depth is lacking.
        """
        pictures = [read_image(image) for image in images]
        maps = None
        if self.config.fusion != "none":
            pairs = zip(pictures, depths or [None] * len(pictures), strict=True)
            maps = [self._depth_of(picture, depth, unit) for picture, depth in pairs]
        batch = self.look(pictures, maps)
        return batch | self._text(conversations, batch["image_grid_thw"])

    def look(
        self, pictures: Sequence[Image.Image], depths: Sequence[Float[np.ndarray, "height width"]] | None
    ) -> dict[str, Tensor]:
        """Pictures and depth alone, without text.

        Args:
            depths: each as large as its picture; metres or relative inverse depth in (0, 1], 0 where it is not known.

        Returns:
            ``pixel_values``, ``image_grid_thw`` and, with depths, ``depth_values``, as above.
        """
        seen = self.image_processor(images=list(pictures), return_tensors="pt")
        batch: dict[str, Tensor] = {"pixel_values": seen["pixel_values"], "image_grid_thw": seen["image_grid_thw"]}
        if depths is not None:
            parts = [self._patches(depth, grid) for depth, grid in zip(depths, batch["image_grid_thw"], strict=True)]
            batch["depth_values"] = torch.cat(parts)
        return batch

    def answers(self, ids: Int[Tensor, "batch length"]) -> list[str]:
        """Generated tokens as text, without special tokens."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and ``preprocessor_config.json``."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, config: DepthVLMConfig) -> Self:
        """Read what :meth:`save` wrote, or the same files of a checkpoint of Qwen.

        Raises:
            UserError: there are none, or the tokenizer knows no pictures.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder} lacks its tokenizer or preprocessor_config.json ({reason})") from None
        if missing := [token for token in (IMAGE, VISION_START, VISION_END) if token not in tokenizer.get_vocab()]:
            raise UserError(f"the tokenizer in {folder} has no {missing[0]}: it is none of Qwen2.5-VL or Qwen3-VL")
        return cls(tokenizer, image_processor, config)

    def _depth_of(
        self, picture: Image.Image, depth: DepthSource | None, unit: Unit | None
    ) -> Float[np.ndarray, "height width"]:
        if depth is None and self.estimator is None:
            raise UserError(
                f"this model reads depth (fusion = {self.config.fusion}), and there is none: give a depth map or "
                "an estimator"
            )
        return depth_of(picture, depth, self.config.depth_kind, unit, self.estimator).values[0]

    def _patches(self, depth: Float[np.ndarray, "height width"], grid: Int[Tensor, "3"]) -> Float[Tensor, "patches _"]:
        """Depth through the same resizing and cutting as its picture.

        By nearest neighbour: between an object and its background there is nothing at their mean depth.
        """
        rgb = self.image_processor
        height, width = (int(side) * rgb.patch_size for side in grid[1:])
        resized = np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.NEAREST))
        channels, times = resized[None], 1
        if self.config.packed:
            millimetres = torch.from_numpy(resized * 1000).round().clamp(0, 65535).int()
            packed = rgb.rescale(pack_millimetres(millimetres).numpy().astype(np.float32), rgb.rescale_factor)
            channels, times = rgb.normalize(packed, rgb.image_mean, rgb.image_std), rgb.temporal_patch_size
        patches, _, _ = rgb.patchify(channels, rgb.patch_size, rgb.merge_size, times)
        return torch.from_numpy(np.ascontiguousarray(patches))

    def _text(
        self, conversations: Sequence[Sequence[Message]], grid: Int[Tensor, "images 3"]
    ) -> dict[str, Int[Tensor, "batch length"]]:
        training = {conversation[-1]["role"] == "assistant" for conversation in conversations}
        if len(training) != 1 or len(conversations) != len(grid):
            raise ValueError("a batch has one picture per conversation, and all end with the same role")
        rows = [self._encode(*pair) for pair in zip(conversations, self._placeholders(grid), strict=True)]
        ids, labels = ([torch.tensor(row[part]) for row in rows] for part in (0, 1))
        side = "right" if True in training else "left"
        batch = {
            "input_ids": pad_sequence(ids, True, float(self.tokenizer.pad_token_id), side),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True, 0, side),
        }
        return batch | ({"labels": pad_sequence(labels, True, IGNORED, side)} if True in training else {})

    def _placeholders(self, grid: Int[Tensor, "images 3"]) -> list[str]:
        """For each picture, as many image tokens as it has, and behind them those of ``concat``'s depth."""
        merge = self.image_processor.merge_size
        grids = [grid] + ([depth_grid(grid, merge, self.config.compression)] if self.config.fusion == "concat" else [])
        counts = torch.stack([one.prod(dim=-1) // merge**2 for one in grids], dim=-1).tolist()
        return ["".join(f"{VISION_START}{IMAGE * count}{VISION_END}" for count in row) for row in counts]

    def _encode(self, conversation: Sequence[Message], placeholders: str) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for text, is_answer in self._turns(conversation):
            text = text.replace(f"{VISION_START}{IMAGE}{VISION_END}", placeholders)
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            labels += tokens if is_answer else [IGNORED] * len(tokens)
        return ids, labels

    def _turns(self, conversation: Sequence[Message]) -> Iterator[tuple[str, bool]]:
        """The text of a conversation in pieces, and which of them the assistant says.

        The pieces are tokenised by themselves: so an answer is learnt behind the same tokens as it is asked for.
        """
        messages = _with_picture(conversation)
        said = ""
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = self._render(messages[:place], asks=True)
                whole = self._render(messages[: place + 1], asks=False)
                if not (prompt.startswith(said) and whole.startswith(prompt)):
                    raise UserError("the tokenizer's chat template rewrites earlier turns: it cannot be trained with")
                yield prompt[len(said) :], False
                yield whole[len(prompt) :], True
                said = whole
        if messages[-1]["role"] != "assistant":
            yield self._render(messages, asks=True)[len(said) :], False

    def _render(self, messages: list[dict[str, Any]], *, asks: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))


def _with_picture(conversation: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as chat templates want it, with the picture at the beginning of the user's first turn."""
    if not any(message["role"] == "user" for message in conversation):
        raise UserError("a conversation has no turn of the user, where its picture belongs")
    messages: list[dict[str, Any]] = []
    for message in conversation:
        if IMAGE in message["content"] or VISION_START in message["content"]:
            raise UserError(f"a conversation's text contains {IMAGE}: the processor puts the picture in; leave it out")
        content = [{"type": "text", "text": message["content"]}]
        if message["role"] == "user" and all(earlier["role"] != "user" for earlier in messages):
            content.insert(0, {"type": "image"})
        messages.append({"role": message["role"], "content": content})
    return messages
