"""The depth-aware VLM: one class over transformers' own Qwen2.5-VL and Qwen3-VL (seed 003, SPEC §2)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from fathom.vlm.ask import Mode, ask
from fathom.vlm.card import model_card
from fathom.vlm.compression import compress
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.depth_encoder import DepthEncoder
from fathom.vlm.depth_encoding import min_max, one_channel, pool_cells
from fathom.vlm.depth_input import DepthSource, ImageSource, Unit
from fathom.vlm.fusion import (
    SideAdapter,
    adapted_tokens,
    add_depth_channel,
    add_depth_positions,
    concat_depth,
    depth_grid,
    keep_embedding_precise,
    spread_layers,
    with_depth_channel,
)
from fathom.vlm.lora import add_lora, is_lora, merge_lora
from fathom.vlm.processor import DepthVLMProcessor, Message
from fathom.vlm.qwen import patches_per_token, vision_tower

Grid = Int[Tensor, "images 3"]


class DepthVLM(nn.Module, ModelHubMixin):
    """A VLM that also sees depth.

    Only the features of the vision tower are changed, between the tower and the language model, which transformers
    takes precomputed: the VLM itself runs as transformers wrote it.

    Of Hugging Face's mixin it has ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    Attributes:
        config: see :class:`DepthVLMConfig`.
        vlm: transformers' model.
        processor: makes its batches.
        provenance: what it was made from, and how: JSON values by topic, for the model card.
    """

    def __init__(self, config: DepthVLMConfig, vlm: Any, processor: DepthVLMProcessor) -> None:
        """Put depth onto ``vlm``, which belongs to this model from then on.

        The depth encoder is drawn at random; see :meth:`start_encoder`.
        """
        super().__init__()
        self.config, self.vlm, self.processor = config, vlm, processor
        self.provenance: dict[str, Any] = {}
        tower = vision_tower(vlm)
        if config.fusion == "rgbd":
            if tower.config.in_channels == 3:  # else it was saved with its fourth
                add_depth_channel(tower)
            keep_embedding_precise(tower)
        if config.has_encoder:
            self.depth_encoder = DepthEncoder(tower)
        if config.fusion == "adapter":
            layers = spread_layers(tower.config.depth, config.adapter_layers)
            self.side_adapter = SideAdapter(tower.config.hidden_size, config.adapter_width, layers)
        if config.lora is not None:
            add_lora(vlm, config.lora)
            tower.patch_embed.proj.requires_grad_(config.fusion == "rgbd")
        vlm.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=processor.tokenizer.eos_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def start_encoder(self) -> None:
        """Let the depth encoder, if there is one, begin as the VLM's own vision tower."""
        if self.config.has_encoder:
            self.depth_encoder.start_from(vision_tower(self.vlm))

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
        pixel_values: Float[Tensor, "patches values"],
        image_grid_thw: Grid,
        depth_values: Float[Tensor, "patches _"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        num_items_in_batch: Int[Tensor, ""] | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits, and with ``labels`` the loss, on a batch of the processor.

        Args:
            num_items_in_batch: the loss is the sum over this batch's labels divided by it, so that the parts of a
                larger batch add up; by default the mean.
        """
        inputs = self.language_inputs(input_ids, attention_mask, pixel_values, image_grid_thw, depth_values)
        return self.vlm(**inputs, labels=labels, num_items_in_batch=num_items_in_batch, use_cache=False)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
        pixel_values: Float[Tensor, "patches values"],
        image_grid_thw: Grid,
        depth_values: Float[Tensor, "patches _"] | None = None,
        **options: Any,
    ) -> Int[Tensor, "batch new"]:
        """The tokens that follow; greedy unless ``options``, those of transformers' ``generate``, say otherwise."""
        inputs = self.language_inputs(input_ids, attention_mask, pixel_values, image_grid_thw, depth_values)
        return self.vlm.generate(**inputs, **options)[:, input_ids.shape[1] :]

    def answer(
        self,
        image: ImageSource,
        question: str | None = None,
        depth: DepthSource | None = None,
        *,
        unit: Unit | None = None,
        mode: Mode = "plain",
        **options: Any,
    ) -> str:
        """What the model says to a question about a picture: the text of :func:`fathom.vlm.ask.ask`.

        Args:
            depth: of the picture, see :func:`fathom.vlm.depth_input.read_depth`; without it the processor's estimator
                is asked. With ``fusion = none`` it is not looked at.
            unit: of the depth.
            mode: how it is asked, see :data:`fathom.vlm.ask.Mode`.
            options: ``point``, ``focal_length``, ``turns``, ``max_new_tokens``.

        Raises:
            UserError: the picture or the depth is bad, or there is none.
        """
        return ask(self, image, question, depth, unit=unit, mode=mode, **options).text

    def reply(
        self,
        image: ImageSource,
        conversation: Sequence[Message],
        depth: DepthSource | None = None,
        *,
        unit: Unit | None = None,
        max_new_tokens: int = 128,
    ) -> str:
        """What the model says next in a conversation about a picture, which ends with the user.

        Raises:
            UserError: the picture or the depth is bad, or there is none.
        """
        batch = self.processor([image], [conversation], [depth], unit)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        return self.processor.answers(self.generate(**batch, max_new_tokens=max_new_tokens))[0]

    def language_inputs(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
        pixel_values: Float[Tensor, "patches values"],
        image_grid_thw: Grid,
        depth_values: Float[Tensor, "patches _"] | None = None,
    ) -> dict[str, Any]:
        """What transformers' model is given: text, and the vision tower's features with depth fused into them."""
        features, grid = self.fused(pixel_values, image_grid_thw, depth_values)
        image_tokens = input_ids == self.vlm.config.image_token_id
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": image_tokens.int(),  # without them Qwen2.5-VL's positions are silently wrong
            "image_grid_thw": grid,
            "mm_encoder_outputs": {"image": features},
        }

    def fused(
        self,
        pixel_values: Float[Tensor, "patches values"],
        grid: Grid,
        depth: Float[Tensor, "patches _"] | None,
    ) -> tuple[Any, Grid]:
        """The features of pictures and depth, as ``get_image_features`` would return them, and their grids.

        Args:
            grid: (1, rows, columns) of patches of each picture.
            depth: see the processor.

        Returns:
            ``pooler_output`` holds the tokens of each picture, for ``concat`` with those of its depth behind; the grid
            has a row for each.
        """
        if self.config.fusion == "none":
            return self._rgb_features(pixel_values, grid), grid
        if depth is None:
            raise ValueError(f"fusion = {self.config.fusion} needs depth_values")
        match self.config.fusion:
            case "rgbd":
                pixel_values = with_depth_channel(pixel_values, self._one_channel(depth))
                return self._rgb_features(pixel_values, grid), grid
            case "positional":
                return self._with_positions(self._rgb_features(pixel_values, grid), grid, depth), grid
            case "adapter":
                return self._with_adapter(pixel_values, grid, depth), grid
            case "concat":
                return self._with_depth_tokens(self._rgb_features(pixel_values, grid), grid, depth)

    def _rgb_features(self, pixels: Float[Tensor, "patches values"], grid: Grid, **options: Any) -> Any:
        return self.vlm.model.get_image_features(pixels, grid, return_dict=True, **options)

    def _one_channel(self, depth: Float[Tensor, "patches pixels"]) -> Float[Tensor, "patches pixels"]:
        return one_channel(depth, self.config.depth_range if self.config.depth_kind == "metric" else None)

    def _with_positions(self, features: Any, grid: Grid, depth: Float[Tensor, "patches pixels"]) -> Any:
        cells, known = pool_cells(depth, patches_per_token(vision_tower(self.vlm)))
        sizes = [len(image) for image in features.pooler_output]
        features.pooler_output = [
            add_depth_positions(image, min_max(values, seen, self.config.alpha), seen)
            for image, values, seen in zip(features.pooler_output, cells.split(sizes), known.split(sizes), strict=True)
        ]
        return features

    def _with_adapter(
        self, pixels: Float[Tensor, "patches values"], grid: Grid, depth: Float[Tensor, "patches pixels"]
    ) -> Any:
        tower = vision_tower(self.vlm)
        features = self._rgb_features(pixels, grid, output_hidden_states=self.side_adapter.layers)
        depth_features = self.depth_encoder(self._one_channel(depth), grid)
        tokens = adapted_tokens(self.side_adapter, tower, features, depth_features, grid)
        features.pooler_output = list(tokens.split([len(image) for image in features.pooler_output]))
        features.hidden_states = None
        return features

    def _with_depth_tokens(self, features: Any, grid: Grid, depth: Float[Tensor, "patches _"]) -> tuple[Any, Grid]:
        tower = vision_tower(self.vlm)
        merge, factor = tower.config.spatial_merge_size, self.config.compression
        sizes = [(rows // merge, columns // merge) for _, rows, columns in grid.tolist()]
        deepstack = None
        if self.config.packed:
            seen = self._rgb_features(depth, grid)
            whole = seen.pooler_output
            deepstack = [_compressed(layer, sizes, factor) for layer in getattr(seen, "deepstack_features", ())]
        else:
            encoded = self.depth_encoder(self._one_channel(depth), grid)
            whole = tower.merger(encoded.to(tower.dtype)).split([rows * columns for rows, columns in sizes])
        tokens = _compressed(whole, sizes, factor)
        both = torch.stack([grid, depth_grid(grid, merge, factor)], dim=1).flatten(0, 1)
        return concat_depth(features, tokens, deepstack), both

    def depth_parameters(self) -> dict[str, nn.Parameter]:
        """What depth has added to the VLM, and the adapters: all that a fine-tuning with LoRA trains."""
        kernel = "vlm.model.visual.patch_embed."
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("vlm.")
            or is_lora(name)
            or (self.config.fusion == "rgbd" and name.startswith(kernel))
        }

    def merge(self) -> Self:
        """Add the low-rank adapters to the weights that they stand beside; afterwards there are none."""
        if self.config.lora is not None:
            merge_lora(self.vlm)
            self.config = self.processor.config = replace(self.config, lora=None)
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """The model in a folder or of a hub id, see :func:`fathom.vlm.saving.load_depth_vlm`."""
        from fathom.vlm.saving import load_depth_vlm

        return load_depth_vlm(pretrained_model_name_or_path, **options)  # type: ignore[return-value]

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """See :func:`fathom.vlm.card.model_card`."""
        return model_card(self.config, self.provenance)

    def _save_pretrained(self, save_directory: Path) -> None:
        """With LoRA on a published VLM, what was added alone; else all."""
        self.save(save_directory, adapters_only=self.config.lora is not None and self.config.base is not None)

    def save(self, folder: str | Path, *, adapters_only: bool = False) -> None:
        """Write a folder, see :func:`fathom.vlm.saving.save_depth_vlm`."""
        from fathom.vlm.saving import save_depth_vlm

        save_depth_vlm(self, Path(folder), adapters_only=adapters_only)


def _compressed(images: Any, sizes: list[tuple[int, int]], factor: int) -> list[Float[Tensor, "tokens width"]]:
    return [compress(image, *size, factor) for image, size in zip(images, sizes, strict=True)]
