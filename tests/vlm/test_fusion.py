"""Depth enters where it should and nowhere else: both families, pictures of two shapes in one batch."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fathom.vlm.compression import compress
from fathom.vlm.qwen import patches_per_token, tower_order, vision_tower

FUSIONS = ["none", "concat", "positional", "adapter", "rgbd"]


def vanilla(model, batch):
    """transformers' own model on RGB alone."""
    return model.vlm(
        **{k: batch[k] for k in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")},
        mm_token_type_ids=(batch["input_ids"] == model.vlm.config.image_token_id).long(),
    ).logits


class _Seen(Exception):
    pass


def language_inputs(model, batch):
    """What transformers hands to its language model: embeddings, positions, deepstack features."""
    seen = {}

    def note(module, args, kwargs):
        seen.update(kwargs)
        raise _Seen

    handle = model.vlm.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**batch)
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen


def image_embeddings(model, batch):
    """The fused embeddings of all image tokens of the batch, in their order."""
    where = batch["input_ids"] == model.processor.image_token_id
    return language_inputs(model, batch)["inputs_embeds"][where]


def changed_rows(before, after):
    return (before != after).any(dim=-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("fusion", ["none", "adapter", "rgbd"])
def test_without_depths_own_weights_a_model_is_vanilla(make, batch_of, fusion):
    """To the last bit where no sum has changed its order; concat and positional have no such state."""
    model, plain = make(fusion), make("none")
    batch, plain_batch = batch_of(model), batch_of(plain)
    with torch.no_grad():
        ours, theirs = model(**batch).logits, vanilla(plain, plain_batch)
    if fusion in ("none", "adapter"):
        assert torch.equal(ours, theirs)
    else:
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("fusion", ["adapter", "rgbd"])
def test_with_them_it_is_not(make, batch_of, fusion):
    model, plain = make(fusion), make("none")
    with torch.no_grad():
        if fusion == "adapter":
            nn.init.normal_(model.side_adapter.gate)
        else:
            nn.init.normal_(vision_tower(model.vlm).patch_embed.proj.weight[:, 3])
        assert not torch.allclose(model(**batch_of(model)).logits, vanilla(plain, batch_of(plain)), atol=1e-3)


def pooled(depth: np.ndarray, height: int, width: int, cell: int) -> np.ndarray:
    """The depth picture at the RGB's size, averaged over each token's square of pixels; row by row."""
    resized = np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.NEAREST), dtype=np.float64)
    return resized.reshape(height // cell, cell, width // cell, cell).mean(axis=(1, 3)).flatten()


def test_positional_is_vanilla_plus_the_encoding(make, batch_of, views):
    model, plain = make("positional"), make("none")
    batch = batch_of(model)
    before, after = image_embeddings(plain, batch_of(plain)).double(), image_embeddings(model, batch).double()
    width, expected = before.shape[1], []
    omega = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    for (_, depth), (_, rows, columns) in zip(views, batch["image_grid_thw"].tolist(), strict=True):
        cells = pooled(depth, rows * 4, columns * 4, cell=8)
        angles = ((cells - cells.min()) / (cells.max() - cells.min()) * 100)[:, None] * omega
        expected.append(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(cells), width))
    assert torch.allclose(after - before, torch.from_numpy(np.concatenate(expected)), atol=2e-4)


def test_positional_one_cell_moves_one_embedding(make, batch_of):
    """A cell in the second picture, between its nearest and farthest; patches of a token are neighbours."""
    model = make("positional")
    batch = batch_of(model)
    before = image_embeddings(model, batch)
    first, second = (batch["image_grid_thw"].prod(-1) // 4).tolist()
    for token in range(second):
        place = slice(4 * (first + token), 4 * (first + token + 1))
        other = batch | {"depth_values": batch["depth_values"].clone()}
        other["depth_values"][place] = 2.718
        after = image_embeddings(model, other)
        cells = batch["depth_values"].reshape(first + second, -1).mean(-1)[first:]
        if token not in (int(cells.argmin()), int(cells.argmax())):  # those would move the scale of the image
            assert changed_rows(before, after) == [first + token]


def test_a_cell_of_unknown_depth_keeps_its_embedding(make, batch_of):
    model, plain = make("positional"), make("none")
    batch = batch_of(model)
    batch["depth_values"][:4] = 0
    before, after = image_embeddings(plain, batch_of(plain)), image_embeddings(model, batch)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize("fusion", ["concat", "adapter"])
def test_one_depth_token_moves_one_embedding(make, batch_of, fusion):
    """Every patch of the depth encoder's output, in windows too: raster order of tokens, 2x2 patches each."""
    model = make(fusion)
    if fusion == "adapter":
        nn.init.normal_(model.side_adapter.gate)
    batch = batch_of(model)
    tokens = (batch["image_grid_thw"].prod(-1) // 4).tolist()
    before = image_embeddings(model, batch)
    for patch in range(0, 4 * sum(tokens), 3):

        def disturb(module, args, output, patch=patch):
            output = output.clone()
            output[patch] += torch.linspace(-1, 1, output.shape[1])
            return output

        handle = model.depth_encoder.register_forward_hook(disturb)
        after = image_embeddings(model, batch)
        handle.remove()
        token = patch // 4
        if fusion == "concat":  # behind the RGB of its own picture
            token += tokens[0] if token < tokens[0] else sum(tokens)
        assert changed_rows(before, after) == [token]


def test_the_order_inside_the_tower_is_transformers_own(make, batch_of, family):
    """Which row of the first block's input moves with a patch of the picture."""
    model = make("none")
    batch, tower = batch_of(model), vision_tower(model.vlm)
    grid, seen = batch["image_grid_thw"], []
    handle = tower.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    order = tower_order(tower, grid)
    for token in range(len(order)):
        pixels = batch["pixel_values"].clone()
        pixels[4 * token] += 1
        with torch.no_grad():
            tower(batch["pixel_values"], grid_thw=grid), tower(pixels, grid_thw=grid)
        (row,) = changed_rows(seen[-2], seen[-1])
        assert order[row // patches_per_token(tower)] == token and row % 4 == 0
    handle.remove()
    windows = family == "qwen2_5_vl"
    assert windows != torch.equal(order, torch.arange(len(order)))


def test_depth_encoder_hands_out_patches_in_the_order_it_takes_them(make, batch_of):
    """Without attention a token depends on its own patch alone."""
    model = make("concat")
    batch = batch_of(model)
    for block in model.depth_encoder.tower.blocks:
        nn.init.zeros_(block.attn.proj.weight), nn.init.zeros_(block.attn.proj.bias)
    with torch.no_grad():
        before = model.depth_encoder(batch["depth_values"], batch["image_grid_thw"])
        for patch in range(0, len(before), 5):
            other = batch["depth_values"].clone()
            other[patch] += 1
            assert changed_rows(before, model.depth_encoder(other, batch["image_grid_thw"])) == [patch]


def test_depth_encoder_starts_as_the_tower_with_its_kernel_summed(make):
    model = make("concat")
    ours, theirs = model.depth_encoder.tower.state_dict(), vision_tower(model.vlm).state_dict()
    assert "blocks.0.attn.qkv.weight" in ours and not any("merger" in name for name in ours)
    for name, weight in ours.items():
        expected = theirs[name]
        if name == "patch_embed.proj.weight":
            expected = expected[:, :1] + expected[:, 1:2] + expected[:, 2:]
            assert weight.shape[1:3] == (1, 2)  # both temporal taps stay
        assert torch.allclose(weight, expected, atol=1e-6)


def test_concat_leaves_rgb_alone_and_deepstack_empty_for_depth(make, batch_of, family):
    model, plain = make("concat"), make("none")
    batch, plain_batch = batch_of(model), batch_of(plain)
    tokens = (batch["image_grid_thw"].prod(-1) // 4).tolist()
    rgb, depth, rgb2, depth2 = image_embeddings(model, batch).split([tokens[0]] * 2 + [tokens[1]] * 2)
    assert torch.equal(torch.cat([rgb, rgb2]), image_embeddings(plain, plain_batch))
    assert not torch.equal(rgb, depth) and not torch.equal(rgb2, depth2)
    if family == "qwen3_vl":
        ours = language_inputs(model, batch)["deepstack_visual_embeds"]
        theirs = language_inputs(plain, plain_batch)["deepstack_visual_embeds"]
        assert len(ours) == len(theirs) > 0
        for layer, reference in zip(ours, theirs, strict=True):
            rgb, depth, rgb2, depth2 = layer.split([tokens[0]] * 2 + [tokens[1]] * 2)
            assert torch.equal(torch.cat([rgb, rgb2]), reference) and reference.abs().sum() > 0
            assert not depth.any() and not depth2.any()


@pytest.mark.parametrize("compression", [1, 2])
def test_concat_positions_are_those_of_two_pictures(make, batch_of, compression):
    """By the published rule: text counts on; a picture's (t, h, w) start together; then on from its longer side."""
    model = make("concat", compression=compression)
    batch = batch_of(model)
    positions = language_inputs(model, batch)["position_ids"][-3:]
    for row, (_, rows, columns) in enumerate(batch["image_grid_thw"].tolist()):
        rgb = (rows // 2, columns // 2)
        depth = tuple(-(-side // compression) for side in rgb)
        grids, expected, at = iter([rgb, depth]), [], 0
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        image = model.processor.image_token_id
        while ids:
            if ids[0] != image:
                expected.append((at, at, at))
                at, ids = at + 1, ids[1:]
                continue
            height, width = next(grids)
            assert ids[: height * width] == [image] * (height * width)
            expected += [(at, at + h, at + w) for h in range(height) for w in range(width)]
            at, ids = at + max(height, width), ids[height * width :]
        found = positions[:, row, batch["attention_mask"][row].bool()].T.tolist()
        assert found == [list(place) for place in expected]


@pytest.mark.parametrize("depth_tokens", ["encoder", "packed"])
def test_fewer_depth_tokens_are_those_of_the_whole_grid_in_its_order(make, batch_of, depth_tokens):
    """No picture is square: with rows taken for columns there would be as many tokens, but other ones."""
    whole, fewer = make("concat", depth_tokens=depth_tokens), make("concat", depth_tokens=depth_tokens, compression=2)
    batch = batch_of(fewer)
    sizes = [(rows // 2, columns // 2) for _, rows, columns in batch["image_grid_thw"].tolist()]
    assert all(rows != columns for rows, columns in sizes)
    counts = [rows * columns for rows, columns in sizes for _ in ("rgb", "depth")]
    expected = list(image_embeddings(whole, batch_of(whole)).split(counts))
    for place, (rows, columns) in enumerate(sizes):
        expected[2 * place + 1] = compress(expected[2 * place + 1], rows, columns, 2)
    assert torch.allclose(image_embeddings(fewer, batch), torch.cat(expected), atol=1e-5)


def test_packed_depth_is_a_second_picture(make, family):
    """SpatialBot's: what the VLM itself makes of the packed picture, deepstack included."""
    model, plain = make("concat", depth_tokens="packed"), make("none")
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    millimetres = rng.integers(300, 9000, (32, 32)).astype(np.uint16)
    d = millimetres.astype(int)
    packed = np.stack([d // 1024 * 4, d // 32 * 8 % 256, d % 32 * 8], axis=-1).astype(np.uint8)
    batch = model.processor([rgb], [[{"role": "user", "content": "left"}]], [millimetres], "mm")
    picture = plain.processor([Image.fromarray(packed)], [[{"role": "user", "content": "left"}]])
    assert torch.allclose(batch["depth_values"], picture["pixel_values"], atol=1e-5)
    tokens = len(picture["pixel_values"]) // 4
    assert torch.allclose(image_embeddings(model, batch)[tokens:], image_embeddings(plain, picture), atol=1e-5)
    if family == "qwen3_vl":
        ours = language_inputs(model, batch)["deepstack_visual_embeds"]
        theirs = language_inputs(plain, picture)["deepstack_visual_embeds"]
        assert all(torch.allclose(a[tokens:], b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
    assert not hasattr(model, "depth_encoder")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_generating_with_a_cache_equals_without_and_step_by_step(make, batch_of, fusion):
    """Logits of five greedy steps, for rows padded on the left, against the model run anew on all tokens so far."""
    model = make(fusion)
    batch = batch_of(model)
    inputs = model.language_inputs(**batch)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        found = [model.vlm.generate(**inputs, use_cache=cache, **options) for cache in (True, False)]
        assert torch.equal(found[0].sequences, found[1].sequences)
        growing = dict(batch)
        for step, (cached, uncached) in enumerate(zip(found[0].logits, found[1].logits, strict=True)):
            alone = model(**growing).logits[:, -1]
            assert torch.allclose(cached, alone, atol=1e-4) and torch.allclose(uncached, alone, atol=1e-4)
            new = found[0].sequences[:, batch["input_ids"].shape[1] + step, None]
            growing["input_ids"] = torch.cat([growing["input_ids"], new], dim=1)
            growing["attention_mask"] = torch.cat([growing["attention_mask"], torch.ones_like(new)], dim=1)
        ours = model.generate(**batch, max_new_tokens=5, min_new_tokens=5)
    assert torch.equal(ours, found[0].sequences[:, batch["input_ids"].shape[1] :])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_row_does_not_depend_on_its_neighbours(make, batch_of, views, fusion):
    model = make(fusion)
    together = batch_of(model)
    image, depth = views[1]
    text = model.processor.tokenizer.decode(together["input_ids"][1])
    question = text.split("<|vision_end|>")[-1].split("<|im_end|>")[0]
    alone = model.processor([image], [[{"role": "user", "content": question}]], [depth])
    with torch.no_grad():
        assert torch.allclose(model(**together).logits[1, -1], model(**alone).logits[0, -1], atol=1e-4)
