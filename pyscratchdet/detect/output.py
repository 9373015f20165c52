"""Drawn pictures, drawn videos and crops in an output folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from pyscratchdet.detect.draw import draw_detections
from pyscratchdet.detect.media import Frame, MediaSource, has_utf8_path
from pyscratchdet.detect.replacing import check_replaceable, mark_mp4, write_marked
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.errors import FileError
from pyscratchdet.files import atomic_path, safe_file_name

_LONGEST_SIDE = 65500  # libjpeg's JPEG_MAX_DIMENSION


class PictureWriter:
    """Writes `<name>.jpg` per picture, `<name>.mp4` per video or camera, and `crops/<class>/<name>_<k>.jpg`.

    Pictures may be written in several threads, the frames of videos in one, in order. A context manager: a video gets
    its final name once all of its frames are written, and none where the block fails.

    Args:
        folder: Created when something is written.
        names: {label: class name}.
        draw: Write drawn pictures and videos.
        crops: Write crops.

    Attributes:
        draws: Whether pictures and videos are drawn.

    Raises:
        FileError: Something cannot be written, or would replace a file that is not this class's.
    """

    def __init__(
        self, folder: str | os.PathLike[str], names: Mapping[int, str], draw: bool = True, crops: bool = False
    ) -> None:
        self._folder = Path(folder)
        self._names = names
        self.draws = draw
        self._crops = crops
        self._stack = ExitStack()
        self._video: cv2.VideoWriter | None = None
        self._video_name = ""
        self._video_size = (0, 0)

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_video(kind, error, trace)

    @property
    def needs_pictures(self) -> bool:
        """Whether anything is written at all."""
        return self.draws or self._crops

    def targets(self, source: MediaSource) -> list[Path]:
        """Returns what is drawn of an input, as far as that is known before it is read."""
        endings = {"picture": ".jpg", "video": ".mp4", "camera": ".mp4"}
        return [self._folder / f"{source.name}{endings[source.kind]}"] if self.draws and source.kind in endings else []

    def add(self, frame: Frame, found: ImageDetections) -> None:
        """Writes the outputs of one frame."""
        if self._crops:
            self._write_crops(frame, found)
        if self.draws:
            assert frame.image is not None
            self.write(frame, draw_detections(frame.image, found, self._names))

    def finish_video(self) -> None:
        """Gives the video that is being written its final name; does nothing where none is."""
        self._close_video(None, None, None)

    def write(self, frame: Frame, drawn: np.ndarray) -> None:
        """Writes one frame as drawn, uint8 (h, w, 3) BGR, where pictures are drawn."""
        if not self.draws:
            return
        if frame.index < 0:
            write_marked(self._folder / f"{frame.source.name}.jpg", encode_jpeg(drawn))
        else:
            self._write_frame(frame, drawn)

    def _write_crops(self, frame: Frame, found: ImageDetections) -> None:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        low = np.round(found.boxes_px[:, :2]).astype(int).clip(0, [width - 1, height - 1])
        high = np.round(found.boxes_px[:, 2:]).astype(int).clip(low + 1, [width, height])
        for number, ((left, top), (right, bottom)) in enumerate(zip(low, high, strict=True)):
            name = safe_file_name(self._names[int(found.labels[number])])
            path = self._folder / "crops" / name / f"{frame.name}_{number}.jpg"
            write_marked(path, encode_jpeg(frame.image[top:bottom, left:right]))

    def _write_frame(self, frame: Frame, drawn: np.ndarray) -> None:
        if self._video is None or frame.source.name != self._video_name:
            self.finish_video()
            self._open_video(frame, drawn)
        assert self._video is not None
        self._video.write(cv2.resize(drawn, self._video_size) if drawn.shape[1::-1] != self._video_size else drawn)

    def _open_video(self, frame: Frame, drawn: np.ndarray) -> None:
        # OpenCV chooses the container by suffix, so the temporary name needs one as well.
        target = self._folder / f"{frame.source.name}.mp4"
        if not has_utf8_path(target):
            raise FileError(
                f"cannot write {target}: not UTF-8", code="file.write", hint="give --no-draw to write no video"
            )
        check_replaceable(target)
        temporary = self._stack.enter_context(atomic_path(target))
        with_suffix = temporary.with_suffix(".mp4")
        self._stack.callback(with_suffix.unlink, missing_ok=True)
        self._video_size = (drawn.shape[1] // 2 * 2, drawn.shape[0] // 2 * 2)  # encoders want even sides
        self._video = cv2.VideoWriter(str(with_suffix), cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, self._video_size)
        self._video_name = frame.source.name
        if not self._video.isOpened():
            raise FileError(
                f"cannot write {target}",
                code="file.write",
                hint="this OpenCV cannot encode mp4; give --no-draw to write no video",
            )
        self._stack.callback(_move, with_suffix, temporary)

    def _close_video(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.release()
            self._video = None
            self._stack.__exit__(kind, error, trace)
            self._stack = ExitStack()


def _move(source: Path, target: Path) -> None:
    if source.exists():
        with open(source, "ab") as file:
            file.write(mark_mp4())
        os.replace(source, target)


def encode_jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Returns a picture as JPEG; one whose sides JPEG does not allow is made smaller."""
    factor = _LONGEST_SIDE / max(image.shape[:2])
    if factor < 1:
        height, width = (max(int(side * factor), 1) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
