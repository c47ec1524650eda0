"""DINOv3 and SigLIP as streams, against transformers' own, alone and through an alignment."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import DINOv3ViTConfig, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from fathom.mixture import AlignedStream, Block, DINOv3Stream, Mixture, SiglipStream, Visibility
from fathom.mixture.dinov3 import patch_centres

from .test_qwen3 import qwen3_config

ALONE = Visibility({"expert": "expert"})
GRID, PREFIX = 3, 3


def dinov3_config(gated: bool = True) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        patch_size=4,
        image_size=12,
        num_register_tokens=2,
        use_gated_mlp=gated,
        layerscale_value=0.7,
    )


def drawn(model):
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3) if "lambda" not in name else None
    return model.eval()


def dinov3_pair(gated: bool = True) -> tuple[DINOv3ViTModel, DINOv3Stream]:
    torch.manual_seed(0)
    theirs = drawn(DINOv3ViTModel(dinov3_config(gated)))
    ours = DINOv3Stream(dinov3_config(gated)).eval()
    ours.load_state_dict({name.replace("model.layer.", "layers."): t for name, t in theirs.state_dict().items()})
    return theirs, ours


def own_places(batch: int = 2) -> torch.Tensor:
    return F.pad(patch_centres(GRID), (0, 0, PREFIX, 0)).expand(batch, -1, -1)


@pytest.mark.parametrize("gated", [True, False])
def test_one_stream_is_dinov3(gated):
    theirs, ours = dinov3_pair(gated)
    pixels = torch.randn(2, 3, 12, 12)
    out, _ = Mixture({"expert": ours}, {"expert": "expert"}, ALONE)([Block("expert", ours.embed(pixels), own_places())])
    torch.testing.assert_close(out["expert"], theirs(pixels).last_hidden_state, atol=1e-5, rtol=0)


def test_one_stream_is_siglip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = SiglipVisionConfig(**sizes, image_size=12, patch_size=4, vision_use_head=False)
    theirs, ours = drawn(SiglipVisionModel(config)), SiglipStream(config).eval()
    renamed = {"encoder.layers.": "layers.", "post_layernorm.": "norm."}
    state = theirs.state_dict()
    for old, new in renamed.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    ours.load_state_dict(state)
    pixels = torch.rand(2, 3, 12, 12) * 2 - 1
    out, _ = Mixture({"expert": ours}, {"expert": "expert"}, ALONE)(
        [Block("expert", ours.embed(pixels), torch.zeros(2, GRID**2, 2))]
    )
    torch.testing.assert_close(out["expert"], theirs(pixels).last_hidden_state, atol=1e-5, rtol=0)


def aligned(
    own, positions: str, joining=(1, 2), heads: int = 4, kv_heads: int = 4, head_dim: int = 16
) -> AlignedStream:
    rotary = Qwen3VLTextRotaryEmbedding(qwen3_config())
    return AlignedStream(
        own, joining, width=24, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary=rotary, positions=positions
    ).eval()


def set_to_identity(stream: AlignedStream, own_heads: int = 3, own_dim: int = 8, head_dim: int = 16) -> None:
    """Each own head in the first numbers of a shared one, and back; the other shared heads are zero.

    The shared logits are divided by the root of a larger head, so the queries are larger by as much.
    """
    with torch.no_grad():
        for alignment in stream.alignments.values():
            for linear in (alignment.query, alignment.key, alignment.value, alignment.output):
                linear.weight.zero_()
            for head in range(own_heads):
                for number in range(own_dim):
                    shared, own = head * head_dim + number, head * own_dim + number
                    alignment.query.weight[shared, own] = math.sqrt(head_dim / own_dim)
                    alignment.key.weight[shared, own] = alignment.value.weight[shared, own] = 1
                    alignment.output.weight[own, shared] = 1


def five_axes(places: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.rand(*places.shape[:2], 3) * 9, places], -1)


def test_an_alignment_that_changes_nothing_leaves_dinov3_as_it_is():
    """Two layers in a larger head space, positions turned before the alignment: DINOv3's own output."""
    theirs, own = dinov3_pair()
    stream = aligned(own, "native")
    set_to_identity(stream)
    pixels = torch.randn(2, 3, 12, 12)
    mixture = Mixture({"expert": stream}, {"expert": "expert"}, ALONE)
    out, _ = mixture([Block("expert", own.embed(pixels), five_axes(own_places()))])
    torch.testing.assert_close(out["expert"], theirs(pixels).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["fractional", "native", "none"])
def test_joined_layers_know_of_the_positions_that_the_mode_says(mode):
    """Moving the shared positions, or the own, changes the output where they count."""
    _, own = dinov3_pair()
    stream, hidden = aligned(own, mode, joining=(0, 1, 2)), own.embed(torch.randn(2, 3, 12, 12))
    mixture = Mixture({"expert": stream}, {"expert": "expert"}, ALONE)
    places = five_axes(own_places())

    def moved(axes: slice) -> bool:
        other = places.clone()
        other[:, PREFIX:, axes] += torch.rand(GRID**2, 1)
        before, after = (mixture([Block("expert", hidden, p)])[0]["expert"] for p in (places, other))
        return (before - after).abs().max().item() > 1e-5

    assert moved(slice(0, 3)) == (mode == "fractional")
    assert moved(slice(3, 5)) == (mode == "native")


def test_fewer_key_heads_are_the_same_as_repeated_ones():
    """A stream with 2 key heads meets one with 4: as if the 2 were written out twice."""
    torch.manual_seed(0)
    _, own = dinov3_pair()
    few, many = aligned(own, "none", (0, 1, 2), kv_heads=2), aligned(own, "none", (0, 1, 2), kv_heads=4)
    for small, large in zip(few.alignments.values(), many.alignments.values(), strict=True):
        large.query.weight.data, large.output.weight.data = small.query.weight.data, small.output.weight.data
        for ours, theirs in ((large.key, small.key), (large.value, small.value)):
            ours.weight.data = theirs.weight.data.unflatten(0, (2, 16)).repeat_interleave(2, 0).flatten(0, 1)
    hidden, places = own.embed(torch.randn(2, 3, 12, 12)), five_axes(own_places())
    other = aligned(dinov3_pair()[1], "none", (0, 1, 2), kv_heads=4)
    table = Visibility({"expert": "expert other", "other": "expert other"})

    def run(stream):
        mixture = Mixture({"expert": stream, "other": other}, {"expert": "expert", "other": "other"}, table)
        return mixture([Block("expert", hidden, places), Block("other", hidden, places)])[0]

    fewer, more = run(few), run(many)
    for name in ("expert", "other"):
        torch.testing.assert_close(fewer[name], more[name], atol=1e-5, rtol=0)
