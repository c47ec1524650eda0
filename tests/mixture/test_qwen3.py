"""Qwen3-VL's language model as a stream, against transformers' own."""

import torch
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from fathom.mixture import Block, Mixture, Qwen3Stream, Visibility


def qwen3_config(width: int = 32, layers: int = 3) -> Qwen3VLTextConfig:
    return Qwen3VLTextConfig(
        vocab_size=50,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
    )


def test_one_stream_is_qwen3_vl():
    """With positions on three axes, padding on the right, and norms whose weights count."""
    torch.manual_seed(0)
    theirs = Qwen3VLTextModel(qwen3_config()).eval()
    for parameter in theirs.parameters():  # norms start at 1, which would hide a missing weight
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Qwen3Stream(qwen3_config(), embed_tokens=True).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the names are Hugging Face's own
    mixture = Mixture({"text": ours}, {"text": "text"}, Visibility({"text": "text"}, causal={"text": "text"}))
    ids, places = torch.randint(0, 50, (2, 7)), torch.randint(0, 9, (3, 2, 7))
    valid = torch.arange(7).expand(2, -1) < torch.tensor([[7], [5]])
    out, _ = mixture([Block("text", ours.embed_tokens(ids), places.permute(1, 2, 0), valid)])
    expected = theirs(input_ids=ids, attention_mask=valid.long(), position_ids=places).last_hidden_state
    torch.testing.assert_close(out["text"][valid], expected[valid], atol=1e-5, rtol=0)
