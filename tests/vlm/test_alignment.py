"""The contrastive losses, against a calculation number by number, on one process and on two."""

import math

import pytest
import torch
from torch import distributed

from fathom.vlm.alignment import Alignment, image_embeddings, image_loss, patch_loss, retrieval_recall
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.qwen import vision_tower
from fathom.workers import Call, Workers


def info_nce(a, b, temperature=0.07):
    """By the definition, in Python's own numbers."""

    def cosine(u, v):
        dot = sum(x * y for x, y in zip(u, v, strict=True))
        return dot / math.sqrt(sum(x * x for x in u)) / math.sqrt(sum(y * y for y in v))

    def one_way(queries, keys):
        losses = []
        for row, query in enumerate(queries):
            scores = [math.exp(cosine(query, key) / temperature) for key in keys]
            losses.append(-math.log(scores[row] / sum(scores)))
        return sum(losses) / len(losses)

    return (one_way(a, b) + one_way(b, a)) / 2


def pairs(count=6, width=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, width, generator=generator, dtype=torch.float32) for _ in range(2)]


def test_image_loss_is_symmetric_info_nce():
    rgb, depth = pairs()
    expected = info_nce(rgb.tolist(), depth.tolist())
    assert math.isclose(image_loss(rgb, depth), expected, rel_tol=1e-5)
    assert math.isclose(image_loss(depth, rgb), expected, rel_tol=1e-5)
    assert image_loss(rgb, 3 * rgb) < image_loss(rgb, depth)


def test_patch_loss_compares_within_each_image():
    (rgb, depth), sizes = pairs(count=9), [5, 4]
    expected = [info_nce(a.tolist(), b.tolist()) for a, b in zip(rgb.split(sizes), depth.split(sizes), strict=True)]
    assert math.isclose(patch_loss(rgb.split(sizes), depth.split(sizes)), sum(expected) / 2, rel_tol=1e-5)


def test_recall_counts_partners_among_the_nearest():
    rgb = torch.eye(4)
    swapped = rgb[[1, 0, 2, 3]]
    assert retrieval_recall(rgb, rgb)["rgb_to_depth@1"] == 1
    found = retrieval_recall(rgb, swapped + 0.1 * rgb, ranks=(1, 2))
    assert found == {"rgb_to_depth@1": 0.5, "rgb_to_depth@2": 1.0, "depth_to_rgb@1": 0.5, "depth_to_rgb@2": 1.0}


def test_recall_at_five_leaves_out_a_partner_of_rank_six():
    """Five other depths are nearer to picture 6 than its own, which lies beside picture 7."""
    rgb = torch.eye(8)
    depth = rgb.clone()
    depth[:5] += 0.5 * rgb[6]
    depth[6] = rgb[7] + 0.1 * rgb[6]
    assert retrieval_recall(rgb, depth) == {
        "rgb_to_depth@1": 7 / 8, "rgb_to_depth@5": 7 / 8, "depth_to_rgb@1": 7 / 8, "depth_to_rgb@5": 1.0,
    }  # fmt: skip


def test_collapsed_features_find_nothing():
    alike = torch.ones(8, 3)
    assert set(retrieval_recall(alike, alike).values()) == {0.0}


def _one_of_two(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rgb, depth = (half.chunk(2)[rank].clone().requires_grad_() for half in pairs())
    loss = image_loss(rgb, depth)
    loss.backward()
    torch.save({"loss": loss.detach(), "rgb": rgb.grad, "depth": depth.grad}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_would(tmp_path):
    with Workers(2) as workers:  # processes of their own: a fork of this one would inherit locks of torch's threads
        answers = list(workers.map(Call(rank, _one_of_two, (rank, tmp_path)) for rank in range(2)))
    assert [answer.error for answer in answers] == [None, None]
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    rgb, depth = (tensor.requires_grad_() for tensor in pairs())
    loss = image_loss(rgb, depth)
    loss.backward()
    assert torch.allclose((halves[0]["loss"] + halves[1]["loss"]) / 2, loss, atol=1e-6)
    for name, whole in (("rgb", rgb), ("depth", depth)):  # gradients are averaged over the processes: hence the half
        assert torch.allclose(torch.cat([half[name] for half in halves]) / 2, whole.grad, atol=1e-6)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_aligning_brings_the_pairs_together(make, batch_of, level):
    model = make("concat")
    batch = {k: v for k, v in batch_of(model).items() if k in ("pixel_values", "depth_values", "image_grid_thw")}
    alignment = Alignment(model.depth_encoder, vision_tower(model.vlm), DepthVLMConfig().depth_range, level)
    before = {name: p.clone() for name, p in alignment.rgb_tower.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in alignment.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(alignment(**batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05
    assert all(torch.equal(p, before[name]) for name, p in alignment.rgb_tower.named_parameters())


def test_patches_of_both_are_in_one_order(make, batch_of):
    """A grey picture is to the RGB tower what depth is to an encoder that starts from it: patch by patch the same."""
    model = make("concat")
    batch, tower = batch_of(model), vision_tower(model.vlm)
    relative = batch["depth_values"] / batch["depth_values"].max()
    alignment = Alignment(model.depth_encoder, tower, None, "patch")
    channel = (relative - 0.5) * 4
    rgb, depth = alignment.features(channel.repeat(1, 6), relative, batch["image_grid_thw"])
    assert [len(image) for image in rgb] == batch["image_grid_thw"].prod(-1).tolist()
    for a, b in zip(rgb, depth, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert image_embeddings(rgb).shape == (2, tower.config.hidden_size)
