"""The windows of a long video, against the recorded procedure and by hand."""

import numpy as np
import pytest

from fathom.depth.estimators.video_depth_anything.windows import join, layout, lengths, scale_and_shift


def test_a_short_video_is_one_window_filled_with_its_last_frame():
    assert layout(3).tolist() == [[0, 1] + [2] * 30]
    assert lengths(3) == [3]


def test_the_second_window_begins_with_key_frames():
    first, second = layout(40)
    assert first.tolist() == list(range(32))
    assert second[:10].tolist() == [0, 12, *range(24, 32)]
    assert second[10:].tolist() == [*range(32, 40)] + [39] * 14
    assert lengths(40) == [32, 18]


def test_key_frames_are_carried_on():
    third = layout(60)[2]
    assert third[:2].tolist() == [0, 34]  # the second window's first and thirteenth place
    assert third[2:10].tolist() == list(range(46, 54))


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (25, 1), (26, 2), (47, 2), (48, 3), (69, 3), (70, 4)])
def test_a_window_behind_the_last_faded_frame_is_left_out(frames, windows):
    assert len(layout(frames)) == windows
    assert layout(frames).max() == frames - 1


@pytest.mark.parametrize("frames", [1, 12, 13, 26, 40, 47, 48, 90])
def test_windows_that_agree_up_to_scale_and_shift_become_one(frames):
    """Each window has a scale and a shift of its own; joined, the first one's hold throughout."""
    depth = 3 + np.random.default_rng(0).random((frames, 4, 5), np.float32)
    windows = [
        depth[row[:length]] * (1 + 0.5 * k) + 0.1 * k
        for k, (row, length) in enumerate(zip(layout(frames), lengths(frames), strict=True))
    ]
    np.testing.assert_allclose(join(windows, frames, align=True), depth, atol=1e-5)


def test_metric_windows_keep_their_values():
    ones = [np.full((length, 2, 2), 1.0 + k, np.float32) for k, length in enumerate(lengths(40))]
    joined = join(ones, 40, align=False)[:, 0, 0]
    assert joined[:25].tolist() == [1.0] * 25
    np.testing.assert_allclose(joined[24:32], 1 + np.arange(8) / 7, rtol=1e-6)  # one fades into the other
    assert joined[32:].tolist() == [2.0] * 8


def test_least_squares():
    depth, target = np.random.default_rng(1).random((2, 50))
    expected = np.polyfit(depth, target, 1)
    np.testing.assert_allclose(scale_and_shift(depth, target), expected, rtol=1e-5)


def test_constant_depth_is_left_alone():
    assert scale_and_shift(np.ones((2, 3, 3), np.float32), np.full((2, 3, 3), 2, np.float32)) == (1, 0)
