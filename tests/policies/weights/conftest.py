"""Checkpoints small enough for tests, in other code bases' layouts, and open-pi-zero's own arithmetic."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from fathom.cli.main import main
from fathom.policies.text import TextTokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "open_pi_zero_tiny"


@pytest.fixture
def golden() -> str:
    """The recorded numbers: the path up to the endings of its three files."""
    return str(GOLDEN)


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    """A folder with the tokenizer.json of a few words."""
    folder = tmp_path / "words"
    folder.mkdir()
    TextTokenizer.from_instructions(["open the drawer", "close it"]).save(folder)
    return folder


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Runs a command that must be refused in one sentence, with a list below it at most, and returns it."""

    def run(*arguments: object) -> str:
        capsys.readouterr()  # what others said while the input was made
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("fathom: ")
        assert all(line.startswith("  ") for line in said.splitlines()[1:]), said  # the whole list, where there is one
        return said

    return run


@pytest.fixture
def make_checkpoint(tmp_path) -> Callable[..., str]:
    """Random weights in the golden files' layout at other sizes; no cases."""

    def make(**changes) -> str:
        sizes = json.loads(Path(f"{GOLDEN}.config.json").read_text())
        for field, value in changes.items():
            assert field in sizes
            sizes[field] = {**sizes[field], **value} if isinstance(value, dict) else value
        Path(tmp_path / "other.config.json").write_text(json.dumps(sizes))
        save_file(make_weights(sizes, torch.Generator().manual_seed(5)), tmp_path / "other.weights.safetensors")
        return str(tmp_path / "other")

    return make


@pytest.fixture
def record(make_checkpoint) -> Callable[..., str]:
    """The same with cases: numbers that :func:`run` computes in double precision.

    ``tied``: with a second copy of the expert, under the other of its names; ``unread``: with what nothing reads.
    """

    def make(*, batch: int = 2, tied: bool = True, unread: bool = True, **changes) -> str:
        prefix = make_checkpoint(**changes)
        sizes = json.loads(Path(f"{prefix}.config.json").read_text())
        weights = load_file(f"{prefix}.weights.safetensors")
        cases = make_cases(sizes, batch, torch.Generator().manual_seed(6))
        expected = run(sizes, {k: v.double() for k, v in weights.items()}, cases)
        if tied:
            action = "joint_model.mixtures.action."
            weights |= {
                k.replace("action", "proprio", 1): v.clone() for k, v in weights.items() if k.startswith(action)
            }
        if not unread:
            last = f"joint_model.mixtures.vlm.layers.{sizes['layers'] - 1}."
            behind = ("self_attn.q", "self_attn.o", "mlp", "post")
            weights = {k: v for k, v in weights.items() if not k.startswith(tuple(last + part for part in behind))}
        save_file(weights, f"{prefix}.weights.safetensors")
        save_file({**cases, **{k: v.float() for k, v in expected.items()}}, f"{prefix}.cases.safetensors")
        return prefix

    return make


def make_weights(sizes: dict, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random weights by open-pi-zero's names, large enough that every part matters."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.15

    weights: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, inside: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = random(out, inside)
        if bias:
            weights[f"{name}.bias"] = random(out)

    tower, vlm, expert = sizes["siglip"], sizes["vlm"], sizes["expert"]
    width, patch = tower["width"], tower["patch_size"]
    vision = "vision_tower.vision_model"
    weights[f"{vision}.embeddings.patch_embedding.weight"] = random(width, 3, patch, patch)
    weights[f"{vision}.embeddings.patch_embedding.bias"] = random(width)
    weights[f"{vision}.embeddings.position_embedding.weight"] = random(image_tokens(sizes), width)
    for index in range(tower["layers"]):
        layer = f"{vision}.encoder.layers.{index}"
        for norm in ("layer_norm1", "layer_norm2"):
            weights |= {f"{layer}.{norm}.weight": 1 + random(width), f"{layer}.{norm}.bias": random(width)}
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{projection}", width, width)
        linear(f"{layer}.mlp.fc1", tower["mlp"], width)
        linear(f"{layer}.mlp.fc2", width, tower["mlp"])
    weights |= {f"{vision}.post_layernorm.weight": 1 + random(width), f"{vision}.post_layernorm.bias": random(width)}
    linear("multi_modal_projector.linear", vlm["width"], width)
    weights["embed_tokens.weight"] = random(sizes["vocab_size"], vlm["width"])
    for name, stream in (("vlm", vlm), ("action", expert)):
        for index in range(sizes["layers"]):
            layer = f"joint_model.mixtures.{name}.layers.{index}"
            weights[f"{layer}.input_layernorm.weight"] = random(stream["width"])
            weights[f"{layer}.post_attention_layernorm.weight"] = random(stream["width"])
            for projection, heads in (("q_proj", "heads"), ("k_proj", "kv_heads"), ("v_proj", "kv_heads")):
                linear(f"{layer}.self_attn.{projection}", sizes[heads] * sizes["head_dim"], stream["width"], bias=False)
            linear(f"{layer}.self_attn.o_proj", stream["width"], sizes["heads"] * sizes["head_dim"], bias=False)
            for projection in ("gate_proj", "up_proj"):
                linear(f"{layer}.mlp.{projection}", stream["mlp"], stream["width"], bias=False)
            linear(f"{layer}.mlp.down_proj", stream["width"], stream["mlp"], bias=False)
    weights["joint_model.mixtures.action.norm.weight"] = random(expert["width"])
    linear("proprio_encoder", expert["width"], sizes["proprio_dim"])
    linear("action_encoder.linear_1", expert["width"], sizes["action_dim"])
    linear("action_encoder.linear_2", expert["width"], 2 * expert["width"])
    linear("action_encoder.linear_3", expert["width"], expert["width"])
    linear("action_decoder", sizes["action_dim"], expert["width"])
    return weights


def make_cases(sizes: dict, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random inputs; in the last row of the batch half of the text is padding."""
    images, length = image_tokens(sizes), sizes["max_image_text_tokens"]
    ids = torch.full((batch, length), sizes["image_token_index"])
    ids[:, images:] = torch.randint(2, sizes["vocab_size"] - 1, (batch, length - images), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    padded = images + (length - images + 1) // 2
    ids[-1, padded:], mask[-1, padded:] = sizes["pad_token_id"], 0
    side, chunk = sizes["siglip"]["image_size"], (batch, sizes["horizon"], sizes["action_dim"])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.rand(batch, 3, side, side, generator=generator) * 2 - 1,
        "proprio": torch.randn(batch, 1, sizes["proprio_dim"], generator=generator),
        "noise": torch.randn(chunk, generator=generator),
        "actions": torch.randn(chunk, generator=generator),
        "t": torch.rand(batch, generator=generator),
    }


def image_tokens(sizes: dict) -> int:
    return (sizes["siglip"]["image_size"] // sizes["siglip"]["patch_size"]) ** 2


def run(sizes: dict, weights: dict[str, torch.Tensor], cases: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open-pi-zero from its equations: everything anew in every step, no cache, in the precision of the weights."""
    weights, dtype = dict(weights), weights["embed_tokens.weight"].dtype
    cases = {k: v.to(dtype) if v.is_floating_point() else v for k, v in cases.items()}
    prefix = embeddings(sizes, weights, cases)

    def velocity(point: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        half = sizes["expert"]["width"] // 2
        angle = time[:, None] * sizes["time_max_period"] ** (-torch.arange(half, dtype=dtype) / (half - 1))
        when = torch.cat([angle.sin(), angle.cos()], 1)[:, None].expand(-1, point.shape[1], -1)
        hidden = linear(weights, "action_encoder.linear_1", point)
        hidden = F.silu(linear(weights, "action_encoder.linear_2", torch.cat([when, hidden], 2)))
        action = linear(weights, "action_encoder.linear_3", hidden)
        proprio = linear(weights, "proprio_encoder", cases["proprio"])
        return linear(
            weights, "action_decoder", joint(sizes, weights, prefix, proprio, action, cases["attention_mask"])
        )

    sigma, time = sizes["flow_sig_min"], cases["t"][:, None, None]
    point = (1 - (1 - sigma) * time) * cases["noise"] + time * cases["actions"]
    missed = velocity(point, cases["t"]) - (cases["actions"] - (1 - sigma) * cases["noise"])
    actions, steps = cases["noise"].clone(), sizes["num_inference_steps"]
    for step in range(steps):
        actions = actions + velocity(actions, torch.full_like(cases["t"], step / steps)) / steps
    if (bound := sizes["clip_final_action"]) is not None:
        actions = actions.clamp(-bound, bound)
    return {
        "expected_prefix_embeddings": prefix,
        "expected_loss": missed.square().mean()[None],
        "expected_actions": actions,
    }


def linear(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def embeddings(sizes: dict, weights: dict, cases: dict) -> torch.Tensor:
    tower, vision = sizes["siglip"], "vision_tower.vision_model"
    eps, width = tower["layer_norm_eps"], tower["width"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    patch = f"{vision}.embeddings.patch_embedding"
    x = F.conv2d(cases["pixel_values"], weights[f"{patch}.weight"], weights[f"{patch}.bias"], tower["patch_size"])
    x = x.flatten(2).mT + weights[f"{vision}.embeddings.position_embedding.weight"]
    for index in range(tower["layers"]):
        layer = f"{vision}.encoder.layers.{index}"
        normed = norm(f"{layer}.layer_norm1", x)
        q, k, v = (
            linear(weights, f"{layer}.self_attn.{part}_proj", normed).unflatten(2, (tower["heads"], -1)).transpose(1, 2)
            for part in "qkv"
        )
        attended = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(weights, f"{layer}.self_attn.out_proj", attended.transpose(1, 2).flatten(2))
        inner = F.gelu(linear(weights, f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x)), approximate="tanh")
        x = x + linear(weights, f"{layer}.mlp.fc2", inner)
    x = linear(weights, "multi_modal_projector.linear", norm(f"{vision}.post_layernorm", x))
    text = cases["input_ids"][:, x.shape[1] :]
    words = weights["embed_tokens.weight"][text]
    words[text == sizes["pad_token_id"]] = float(sizes["pad_token_id"])
    return torch.cat([x / math.sqrt(sizes["vlm"]["width"]), words], 1)


def joint(
    sizes: dict, weights: dict, prefix: torch.Tensor, proprio: torch.Tensor, action: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """The action expert's output: three runs of tokens that meet in every layer's attention."""
    runs = [("vlm", prefix), ("action", proprio), ("action", action)]
    hidden = [x * math.sqrt(x.shape[-1]) for _, x in runs]
    lengths = [x.shape[1] for x in hidden]
    prefix_length, total, dtype = lengths[0], sum(lengths), prefix.dtype

    reads = torch.zeros(len(mask), total, total, dtype=torch.bool)
    for row, count in enumerate(mask.sum(1).tolist()):
        reads[row, :count, :count] = True
        reads[row, prefix_length:, :count] = True
    reads[:, prefix_length:, prefix_length] = True
    reads[:, prefix_length + 1 :, prefix_length + 1 :] = True
    block = torch.zeros(reads.shape, dtype=dtype).masked_fill(~reads, torch.finfo(dtype).min)

    def rotated(x: torch.Tensor, theta: float, first: int) -> torch.Tensor:
        half = x.shape[-1] // 2
        place = torch.arange(first, first + x.shape[2], dtype=dtype)
        angle = place[:, None] * theta ** (-torch.arange(half, dtype=dtype) / half)
        left, right = x[..., :half], x[..., half:]
        return torch.cat([left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()], -1)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + sizes["rms_norm_eps"]).rsqrt() * (1 + weights[f"{name}.weight"])

    thetas = [sizes["rope_theta"], sizes["expert_rope_theta"], sizes["expert_rope_theta"]]
    starts, groups = [1, 1, 2], sizes["heads"] // sizes["kv_heads"]
    for index in range(sizes["layers"]):
        layers = [f"joint_model.mixtures.{stream}.layers.{index}" for stream, _ in runs]
        parts = []
        for layer, x, theta, first in zip(layers, hidden, thetas, starts, strict=True):
            normed = norm(f"{layer}.input_layernorm", x)
            q, k, v = (
                linear(weights, f"{layer}.self_attn.{part}_proj", normed).unflatten(2, (-1, sizes["head_dim"]))
                for part in "qkv"
            )
            q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            parts.append((rotated(q, theta, first), rotated(k, theta, first), v))
        q, k, v = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        logits = q @ k.mT / math.sqrt(sizes["head_dim"])
        if (cap := sizes["attention_softcap"]) is not None:
            logits = cap * torch.tanh(logits / cap)
        attended = ((logits + block[:, None]).softmax(-1) @ v).transpose(1, 2).flatten(2)
        after = []
        for layer, x, own in zip(layers, hidden, attended.split(lengths, 1), strict=True):
            x = x + linear(weights, f"{layer}.self_attn.o_proj", own)
            normed = norm(f"{layer}.post_attention_layernorm", x)
            gate = F.gelu(linear(weights, f"{layer}.mlp.gate_proj", normed), approximate="tanh")
            after.append(
                x + linear(weights, f"{layer}.mlp.down_proj", gate * linear(weights, f"{layer}.mlp.up_proj", normed))
            )
        hidden = after
    return norm("joint_model.mixtures.action.norm", hidden[2])


@pytest.fixture
def reference() -> Callable[..., dict[str, torch.Tensor]]:
    """What :func:`run` computes from three files of the golden layout."""

    def compute(prefix: str) -> dict[str, torch.Tensor]:
        weights = load_file(f"{prefix}.weights.safetensors")
        sizes = json.loads(Path(f"{prefix}.config.json").read_text())
        cases = load_file(f"{prefix}.cases.safetensors")
        return run(copy.deepcopy(sizes), {k: v.double() for k, v in weights.items()}, cases)

    return compute
