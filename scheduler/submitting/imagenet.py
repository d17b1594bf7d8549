"""Options of jetson-inference's imagenet.py that `classify` has no use for.

They are understood all the same. Some mean nothing here, which is said and does no harm. Those of
videos, cameras and windows would change the answer or what is written, so they are an error that
says what to do. The lists are of `imageNet`, `videoSource`, `videoOutput` and `Log` of
jetson-inference and jetson-utils, 2020 to 2025.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from scheduler import errors

#: Option that means nothing here → what is so instead.
WITHOUT_MEANING = {
    "input-blob": "the model file names its input",
    "output-blob": "the model file names its output",
    "labels": "the model file has its labels",
    "prototxt": "the model file has its network",
    "batch-size": "films are computed in batches of the engine's size",
    "log-file": "answers go to standard output, which can be sent to a file with >",
    "log-level": "answers go to standard output, and what is wrong to standard error",
}

#: The same of those that take no value.
FLAGS = {
    "headless": "no window is ever opened",
    "no-display": "no window is ever opened",
    "verbose": "answers go to standard output, and what is wrong to standard error",
    "debug": "answers go to standard output, and what is wrong to standard error",
}

#: Options of videos and windows, all with a value; 0 leaves them out there too.
VIDEO = (
    "smoothing", "width", "height", "framerate", "codec", "bitrate", "loop",
    "flip-method", "num-buffers", "input-width", "input-height", "input-rate", "input-codec",
    "input-decoder", "input-flip", "input-flip-method", "input-loop", "input-save",
    "input-latency", "input-rtsp-latency", "output-width", "output-height", "output-rate",
    "output-codec", "output-encoder", "output-flip", "output-flip-method", "output-save",
)  # fmt: skip

#: What a camera, a stream, a window or a video begins or ends with.
_STREAM = re.compile(
    r"(csi|v4l2|rtsp|rtp|rtmp|webrtc|display)://|/dev/video\d|.*\.(mp4|mkv|avi|flv|mov|webm)$",
    re.IGNORECASE,
)

#: A picture's own URI, of which jetson-inference takes the path.
_FILE = "file://"


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, hidden, each with `_` as well as `-` in it."""
    for name in ("network", "camera", *WITHOUT_MEANING, *VIDEO):
        command = click.option(*_ways(name), hidden=True, help="An option of imagenet.py.")(command)
    for name in FLAGS:
        command = click.option(
            *_ways(name), is_flag=True, default=None, hidden=True, help="An option of imagenet.py."
        )(command)
    return command


def _ways(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}")))


def path(given: str) -> str:
    """A path, also where it was given as a `file://` URI. Raises Failure where it is of a video,
    a camera, a stream or a window."""
    if _STREAM.match(given) and not Path(given).is_dir():
        raise errors.Failure(_no_video(given))
    return given.removeprefix(_FILE) if given.startswith(_FILE) else given


def check(given: Mapping[str, object]) -> None:
    """Say what becomes of options that mean nothing here. Raises Failure where one has a meaning
    that films cannot have."""
    asked = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    if "network" in asked:
        raise errors.Failure(
            "--network names a network of jetson-inference's; name one of yours with --model "
            "(`pneumoq models ls`)"
        )
    of_video = [f"--{name}" for name in VIDEO if name in asked and not _is_nothing(asked[name])]
    of_video += ["--camera"] if "camera" in asked else []  # 0 is the first camera
    if of_video:
        raise errors.Failure(_no_video(", ".join(of_video)))
    for name, instead in (WITHOUT_MEANING | FLAGS).items():
        if name in asked:
            click.echo(f"--{name} is not needed: {instead}", err=True)


def _is_nothing(value: object) -> bool:
    """Whether a value of imagenet.py's says that there is to be none of it."""
    return str(value).strip() in ("0", "0.0", "none")


def _no_video(what: str) -> str:
    return (
        f"{what}: of videos, cameras and windows, and films are single pictures. Leave it out, and "
        "name a film, a folder, an archive or a pattern; of a video, write the frames as pictures "
        "first (ffmpeg -i video.mp4 frames/%06d.png)"
    )
