"""Pictures, depth and conversations become batches; bad ones become one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from fathom.errors import UserError
from fathom.vlm.depth_input import read_depth, read_image
from fathom.vlm.small import word_tokenizer

from .conftest import TEXTS


@pytest.fixture
def family() -> str:
    """The processor is the same for both."""
    return "qwen2_5_vl"


def test_depth_goes_through_the_resizing_and_cutting_of_its_picture(make):
    """A picture as grey as its depth is deep, resized by transformers by nearest neighbour, patch by patch."""
    model = make("adapter")
    grey = np.random.default_rng(0).integers(1, 255, (23, 51), dtype=np.uint8)
    picture = Image.fromarray(np.stack([grey] * 3, axis=-1))
    batch = model.processor([picture], [[{"role": "user", "content": "left"}]], [grey.astype(np.float32)], "m")
    theirs = model.processor.image_processor(
        images=[picture], resample=Image.Resampling.NEAREST, do_rescale=False, do_normalize=False, return_tensors="pt"
    )
    patches = theirs["pixel_values"].unflatten(1, (3, 2, -1))
    assert torch.equal(batch["depth_values"], patches[:, 0, 0])
    assert torch.equal(batch["image_grid_thw"], theirs["image_grid_thw"])


def test_labels_are_what_the_assistant_says(make, views):
    model = make("concat")
    image, depth = views[0]
    turns = [
        {"role": "system", "content": "left"},
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "content": TEXTS[1]},
        {"role": "user", "content": TEXTS[2]},
        {"role": "assistant", "content": "right"},
    ]
    batch = model.processor([image, image], [turns, turns[:3]], [depth, depth])
    decode = model.processor.tokenizer.decode
    said = [decode(ids[labels != -100]) for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)]
    assert said == [f"{TEXTS[1]}<|im_end|>\nright<|im_end|>\n", f"{TEXTS[1]}<|im_end|>\n"]
    assert torch.equal(batch["input_ids"][batch["labels"] != -100], batch["labels"][batch["labels"] != -100])
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist(), reverse=True)
    whole = decode(batch["input_ids"][0])
    tokens = int(batch["image_grid_thw"][0].prod()) // 4
    block = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    assert whole.startswith(f"<|im_start|>system\nleft<|im_end|>\n<|im_start|>user\n{block}{block}{TEXTS[0]}<|im_end|>")


def test_training_and_asking_have_the_same_prompt(make, views):
    model = make("positional")
    image, depth = views[0]
    user, assistant = {"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}
    asked = model.processor([image], [[user]], [depth])
    trained = model.processor([image], [[user, assistant]], [depth])
    assert torch.equal(trained["input_ids"][0][trained["labels"][0] == -100], asked["input_ids"][0])


def test_known_text_comes_back_from_the_word_tokenizer():
    tokenizer = word_tokenizer(["It is 1.5 m away.", "Left: 203 cm"])
    for text in ("It is 20.3 m away.", "Left: 15 cm"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


GOOD = np.linspace(0.5, 4.0, 24 * 48, dtype=np.float32).reshape(24, 48)


def test_files_and_arrays_of_one_depth_are_one_depth(tmp_path):
    millimetres = (GOOD * 1000).astype(np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    np.save(tmp_path / "depth.npy", GOOD)
    expected = millimetres.astype(np.float32) / 1000
    for source, unit in ((millimetres, None), (millimetres[..., None], "mm"), (tmp_path / "depth.png", "mm")):
        assert np.array_equal(read_depth(source, "metric", unit).values[0], expected)
    for source, unit in ((GOOD, None), (tmp_path / "depth.npy", "m"), (GOOD * 1000, "mm")):
        assert np.allclose(read_depth(source, "metric", unit).values[0], GOOD, rtol=1e-6)


def test_unknown_depth_is_zero_and_relative_depth_is_scaled():
    holes = GOOD.copy()
    holes[0, :3] = [np.nan, -1, np.inf]
    found = read_depth(holes, "metric")
    assert found.values[0, 0, :3].tolist() == [0, 0, 0] and found.valid.sum() == holes.size - 3
    relative = read_depth(GOOD * 700 - 50, "relative_inverse")
    assert relative.values.min() > 0 and relative.values.max() == 1


def test_relative_depth_in_whole_numbers_comes_back_as_it_was_stored(tmp_path):
    """What `fathom vlm pairs` writes: 65535 is nearest, 0 is not known; nothing is cut off a second time."""
    stored = read_depth(GOOD * 700 - 50, "relative_inverse")
    written = np.rint(stored.values[0] * 65535).astype(np.uint16)
    written[0, :3] = 0
    Image.fromarray(written).save(tmp_path / "depth.png")
    found = read_depth(tmp_path / "depth.png", "relative_inverse")
    assert np.array_equal(found.valid[0], written > 0) and not found.values[0, 0, :3].any()
    assert np.allclose(found.values[0], written / 65535, rtol=1e-6)
    again = read_depth(found, "relative_inverse")
    assert np.array_equal(again.values, found.values)
    with pytest.raises(UserError, match="same everywhere"):
        read_depth(np.full((4, 4), 9, np.uint16), "relative_inverse")
    with pytest.raises(UserError, match="no pixel has a known depth"):
        read_depth(np.zeros((4, 4), np.uint16), "relative_inverse")


def damaged_png(path):
    """A picture of several chunks of data, of which the last has a broken head."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"IDAT")
    content[place : place + 4] = b"\x00\xff\x01\x02"
    path.write_bytes(bytes(content))
    return path


def test_a_picture_that_is_damaged_further_on_is_named(tmp_path):
    path = damaged_png(tmp_path / "late.png")
    with pytest.raises(UserError, match=r"late\.png cannot be read as a picture"):
        read_image(path)
    with pytest.raises(UserError, match=r"late\.png cannot be read as a depth map"):
        read_depth(path, "metric")


@pytest.mark.parametrize(
    "depth, options, told",
    [
        (GOOD[:, :40], {}, "another aspect"),
        (np.repeat(np.repeat(GOOD, 2, 0), 2, 1), {}, "96x48 pixels and the picture 48x24: resize"),
        (GOOD * 1000, {"unit": "m"}, "say unit=mm"),
        (GOOD, {"unit": "mm"}, "say unit=m$"),
        (GOOD, {"unit": "cm"}, "it is m or mm"),
        (np.stack([GOOD] * 3, -1), {}, "3 channels, and depth has one"),
        (np.zeros_like(GOOD), {}, "no pixel has a known depth"),
        (np.full_like(GOOD, np.nan), {}, "no pixel has a known depth"),
        (GOOD[0], {}, r"\(height, width\)"),
        ("nowhere.png", {}, "there is no such depth map"),
    ],
)
def test_bad_depth_is_one_sentence(make, depth, options, told):
    picture = Image.new("RGB", (48, 24))
    with pytest.raises(UserError, match=told) as error:
        make("rgbd").answer(picture, "left", depth, **options)
    assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path):
    Image.new("RGB", (48, 24), "red").save(tmp_path / "heat.png")
    Image.new("L", (48, 24), 7).save(tmp_path / "grey.png")
    Image.new("P", (48, 24), 7).save(tmp_path / "palette.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for name, told in (("heat", "3 channels"), ("grey", "8 bits"), ("palette", "palette"), ("broken", "cannot be")):
        for kind in ("metric", "relative_inverse"):
            with pytest.raises(UserError, match=rf"{name}\.png.*{told}"):
                read_depth(tmp_path / f"{name}.png", kind)
    with pytest.raises(UserError, match=r"broken\.npy"):
        read_depth(tmp_path / "broken.npy", "metric")
    with pytest.raises(UserError, match=r"broken\.png cannot be read as a picture"):
        read_image(tmp_path / "broken.png")
    with pytest.raises(UserError, match="there is no such picture"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="no unit"):
        read_depth(GOOD, "relative_inverse", "mm")
    with pytest.raises(UserError, match="same everywhere"):
        read_depth(np.ones((4, 4)), "relative_inverse")


def test_a_photograph_stands_upright(tmp_path):
    picture = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").size == (10, 20)


def test_a_placeholder_in_the_text_is_refused(make, views):
    image, depth = views[0]
    with pytest.raises(UserError, match="leave it out"):
        make("positional").answer(image, "<|image_pad|> left", depth)
