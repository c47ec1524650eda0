"""Encoding, joining and frame-accurate reading of videos, with PyAV."""

import io
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fathom.errors import UserError
from fathom.files import full_disk_is_told

Picture = NDArray[np.uint8] | NDArray[np.uint16]

# One thread everywhere (thread_count, thread_type, threads=1): work is parallel over episodes and workers, and threads
# hidden in a decoder or a colour converter hang a forked worker that closes it.


@dataclass(frozen=True)
class Encoding:
    """How pictures become a video.

    Attributes:
        pictures: layout of the arrays that go in and come out, in FFmpeg's words.
        info: what LeRobot notes about it in ``info.json``.
    """

    encoder: str
    codec: str
    pictures: str
    pixels: str
    options: dict[str, str]

    def to_info(self, height: int, width: int, fps: float) -> dict[str, Any]:
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.codec,
            "video.pix_fmt": self.pixels,
            "video.fps": fps,
            "video.channels": 3 if self.pictures == "rgb24" else 1,
            "has_audio": False,
            "video.g": 2,
            "video.crf": int(self.options["crf"]) if "crf" in self.options else None,
            "video.preset": self.options["preset"],
            "video.fast_decode": 0,
            "video.video_backend": "pyav",
            "video.extra_options": {k: v for k, v in self.options.items() if k not in ("g", "crf", "preset")},
        }


# Pictures for robots are small, and halved colour resolution costs them more than compression does: at 128×128 this is
# 42 dB (largest error 33 levels), where yuv420p at the same quality has 34 dB (199). No B-frames: a frame decodes as
# soon as it is read. A key frame every second frame, as in lerobot: random access decodes 1.5 frames on average.
RGB = Encoding("libx264", "h264", "rgb24", "yuv444p", {"g": "2", "crf": "14", "preset": "ultrafast", "bf": "0"})
# Lossless. Everything that x265 spends on deciding is turned off, since it saves no bits here and costs half the speed.
# Each frame carries its MD5 (hash=1): without it FFmpeg decodes damaged HEVC without a word.
DEPTH = Encoding(
    "libx265",
    "hevc",
    "gray12le",
    "gray12le",
    {
        "g": "2",
        "preset": "ultrafast",
        "x265-params": "lossless=1:log-level=none:pools=none:frame-threads=1:wpp=0:bframes=0:ctu=16:rc-lookahead=0"
        ":scenecut=0:cutree=0:aq-mode=0:hash=1",
    },
)


def encode_video(pictures: Picture, fps: int, encoding: Encoding) -> bytes:
    """An MP4 file of ``pictures`` (frames, height, width[, 3]) at ``fps``."""
    _, height, width = pictures.shape[:3]
    buffer = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(buffer, "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(encoding.encoder, rate=fps, options=dict(encoding.options)))
        stream.height, stream.width, stream.pix_fmt = height, width, encoding.pixels
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=encoding.pictures)
            frame = reformatter.reformat(frame, format=encoding.pixels, threads=1)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def join_videos(parts: Sequence[Path], lengths: Sequence[int], fps: int, target: Path) -> None:
    """Copies the packets of ``parts``, which hold ``lengths`` frames each, into one file without encoding them again.

    Raises:
        UserError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_told(target), av.open(str(target), "w", format="mp4") as output:
        stream = None
        done = 0
        for part, length in zip(parts, lengths, strict=True):
            with av.open(str(part)) as source:
                if stream is None:
                    # opaque: the packets are copied, so no encoder of that codec is needed
                    stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
                    stream.time_base = Fraction(1, fps)
                for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
                    # no B-frames: packets come in the order of their frames
                    packet.stream, packet.time_base = stream, Fraction(1, fps)
                    packet.pts = packet.dts = done + number
                    packet.duration = 1
                    output.mux(packet)
            done += length


def stream_header(path: Path) -> bytes:
    """What a decoder is told before the first frame; videos can only be joined where it is the same."""
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


class VideoReader:
    """Random and sequential access to the frames of one video file.

    Neighbours are decoded in passing; everything else is a seek to the key frame before.
    """

    def __init__(self, path: Path, pictures: str, fps: float) -> None:
        """``pictures`` is the layout of the arrays that come out: ``rgb24`` or ``gray12le``."""
        self.path = path
        self.fps = fps
        self._pictures = pictures
        self._reformatter = VideoReformatter()
        self._container: InputContainer | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._last: VideoFrame | None = None

    def close(self) -> None:
        if self._container is not None:
            self._container.close()

    def picture_at(self, seconds: float) -> Picture:
        """The picture shown at ``seconds``: (height, width, 3) uint8 or (height, width) uint16.

        Raises:
            UserError: the file is missing, or the frame is missing or damaged.
        """
        try:
            if self._container is None:
                self._open()
            frame = self._find(seconds / self._tick)
            if frame is not None and not frame.is_corrupt:
                return cast(Picture, self._reformatter.reformat(frame, format=self._pictures, threads=1).to_ndarray())
            reason = "it is not in the file" if frame is None else "its data are damaged"
        except (av.FFmpegError, IndexError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        self._last = None
        raise UserError(
            f"{self.path}: frame {round(seconds * self.fps)} (at {seconds:.3f} s) cannot be read ({reason}), the file "
            "is truncated or corrupt; copy it again from the dataset's source."
        )

    def _open(self) -> None:
        if not self.path.is_file():
            raise UserError(f"{self.path}: this video is missing; copy it from the dataset's source.")
        self._container = av.open(str(self.path))
        self._stream = self._container.streams.video[0]
        self._stream.thread_type, self._stream.thread_count = "NONE", 1
        self._stream.codec_context.options = {"err_detect": "crccheck+explode"}  # never invented pixels
        self._tick = float(self._stream.time_base or 1)
        self._half = 0.5 / self.fps / self._tick

    def _find(self, target: float) -> VideoFrame | None:
        """The frame shown at ``target`` ticks, to within half a frame."""
        last = self._last.pts if self._last is not None else None
        if self._last is not None and last is not None:
            if abs(last - target) < self._half:
                return self._last
            if last < target < last + 5 * self._half:  # one of the next two frames
                frame = self._decode_to(target)
                if frame is not None:
                    return frame
        for margin in (0.0, 2 * self._half, 64 * self._half, target):
            # With B-frames the nearest key frame may be shown after the target, which then needs an earlier one.
            assert self._container is not None
            self._container.seek(max(0, round(target - margin)), stream=self._stream)
            self._frames = self._container.decode(self._stream)
            frame = self._decode_to(target)
            if frame is not None:
                return frame
        return None

    def _decode_to(self, target: float) -> VideoFrame | None:
        for frame in self._frames:
            self._last = frame
            if frame.pts is not None and frame.pts > target - self._half:
                return frame if frame.pts < target + self._half else None
        self._last = None
        return None


class VideoReaders:
    """Open videos of one process, the least recently used closed beyond a limit.

    A forked or spawned worker starts with none: decoders must not be shared between processes.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()
        self._owner = os.getpid()

    def get(self, path: Path, pictures: str, fps: float) -> VideoReader:
        if self._owner != os.getpid():
            self._open, self._owner = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = VideoReader(path, pictures, fps)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoReaders, (self._limit,)


logging.getLogger("libav").setLevel(logging.CRITICAL)  # errors are raised; libav would also print them
