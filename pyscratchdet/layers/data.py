"""Pictures with one label each: Data, ImageData, VideoData (data_layer.cpp, image_data_layer.cpp and so on)."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import numpy as np

from pyscratchdet.errors import DataError, FileError, Position, PyScratchDetError, UsageError
from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto.forks import fork_paths

if TYPE_CHECKING:
    import cv2

    from pyscratchdet.data.objects import Objects
    from pyscratchdet.data.records import Records
    from pyscratchdet.proto import caffe_pb2


_log = logging.getLogger(__name__)
_said: WeakSet[Layer] = WeakSet()


def assume_shape(layer: Layer, source: str, shape: tuple[int, ...]) -> None:
    """Says, once for a layer, that its source is missing and which shape (channels, height, width) its pictures get."""
    if layer not in _said:
        _said.add(layer)
        size = "x".join(map(str, shape))
        text = 'layer "%s" (%s): there is no %s; pictures are assumed to be %s'
        _log.warning(text, layer.name, layer.type, source or "source", size)


def shape_unknown(error: PyScratchDetError, param: caffe_pb2.LayerParameter) -> PyScratchDetError:
    """Adds to the error about a layer's first picture what the picture was needed for."""
    error.message += f', so the shape of top "{param.top[0]}" is unknown'
    error.hint = "; ".join(filter(None, (error.hint, "a resize_param or a crop_size in the net would determine it")))
    return error


# Fields of Intel's and NVIDIA's Caffe, of TSN's and of others that vary a picture before it is cropped.
_VARIED = frozenset(
    f"transform_param.{name}"
    for name in (
        *("random_resize_param", "random_aspect_ratio_param", "img_rand_resize_lower", "img_rand_resize_upper"),
        *("rand_resize_ratio_lower", "rand_resize_ratio_upper", "vertical_stretch_lower", "vertical_stretch_upper"),
        *("horizontal_stretch_lower", "horizontal_stretch_upper", "interpolation_algo_down", "interpolation_algo_up"),
        *("allow_upscale", "fix_crop", "more_fix_crop", "multi_scale", "scale_ratios", "max_distort"),
    )
) | {"image_data_param.new_dim"}


class TransformedData(Layer):
    """Base of layers whose pictures go through one transformer, one after the other.

    Set-up takes seeds from the net's generator as the original does: the layer's own draws lie between those of the
    transformer (none where it needs no random numbers) and of the prefetching thread.
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = Count(1, 2)
    is_source: ClassVar[bool] = True
    looked_at_fields: ClassVar[frozenset[str]] = _VARIED | {"data_param.shuffle", "image_data_param.bicubic"}

    def setup(self, bottoms: Sequence[Shape]) -> None:
        from pyscratchdet.data.plan import Planner, Streams
        from pyscratchdet.data.transform import DataTransformer
        from pyscratchdet.rng import CaffeRandom, LibcRandom

        if not self.param.transform_param.crop_size and (varied := fork_paths(self.param, _VARIED)):
            raise self.fail(f"{varied[0]} changes the size of pictures", "size", expected="a crop_size", found=0)
        # Only AnnotatedData distorts and expands.
        param = type(self.param.transform_param)()
        param.CopyFrom(self.param.transform_param)
        for name in ("distort_param", "expand_param", "emit_constraint"):
            param.ClearField(name)
        if self.batch_size < 1:
            raise self.fail("batch_size must be at least 1", "batch-size", found=self.batch_size)
        self._before_seeds()
        try:
            self.transformer = DataTransformer(param)
        except UsageError as error:
            raise self.fail(error.message, "transform") from error
        random, needs_random = self.context.random, self.transformer.needs_random(self.context.is_train)
        if needs_random:
            random.integer()
        self._own_setup()
        transformer_seed = random.integer() if needs_random else 0
        self._streams = Streams(CaffeRandom(random.integer()), CaffeRandom(transformer_seed), LibcRandom())
        self._planner = Planner(param, is_train=self.context.is_train)
        self._position = 0

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run needs: how many pictures were handed out, and where the random numbers stand."""
        return {"position": self._position, "streams": self._streams.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if state["position"] != self._position:
            self._seek(state["position"])
        self._position = state["position"]
        self._streams.state = state["streams"]

    @property
    def carries_over(self) -> bool:
        """Whether pictures depend on random numbers, which come one after the other."""
        return self._planner.is_random

    def skip(self, num_batches: int) -> None:
        """Passes over batches."""
        self.state = {**self.state, "position": self._position + num_batches * self.batch_size}

    @property
    def batch_size(self) -> int:
        """Pictures in a batch."""
        return self.param.data_param.batch_size

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes follow from the first picture, or from the settings alone while there is none."""
        shape = self._fixed_shape()
        if shape is not None and not self._is_ready():
            assume_shape(self, self._source_name(), shape)
        else:
            try:
                image = self._first()
            except (DataError, FileError) as error:
                raise shape_unknown(error, self.param) from error
            shape = self.transformer.output_shape(image.shape[2], *image.shape[:2])
        return [(self.batch_size, *shape), (self.batch_size,)][: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.data.batches import check_same_shape

        pictures, labels = [], []
        for _ in range(self.batch_size):
            image, label, is_encoded, name = self._next()
            self._position += 1
            (plan,), _ = self._planner.draw([self._streams], _no_objects(), [image.shape[:2]])
            pictures.append(self.transformer.render(image, plan, is_encoded))
            labels.append(label)
            check_same_shape(pictures, name)
        tops = [torch.from_numpy(np.stack(pictures)), torch.tensor(labels, dtype=torch.float32)]
        return tops[: self.num_tops]

    def _before_seeds(self) -> None:
        """Draws that come before all others."""

    def _own_setup(self) -> None:
        """The type's own set-up, with its draws."""

    def _fixed_shape(self) -> Shape | None:
        """Returns the shape of all pictures (channels, height, width) where the settings determine it."""
        return self.transformer.fixed_shape()

    @abstractmethod
    def _source_name(self) -> str:
        """Returns what the pictures come from, for messages."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether there is a source to read the first picture from."""

    @abstractmethod
    def _first(self) -> np.ndarray:
        """Returns the first picture, whose shape is that of the tops."""

    @abstractmethod
    def _next(self) -> tuple[np.ndarray, int, bool, str]:
        """Returns a picture, its label, whether it was encoded, and its name in errors."""

    @abstractmethod
    def _seek(self, position: int) -> None:
        """Makes `_next` continue with picture number `position` of all that are handed out."""


@register("Data")
class Data(TransformedData):
    """Datum records of an LMDB, in order; also those inside AnnotatedDatum records, with their label.

    Several processes that train together share the records (the context's options `rank` and `world_size`).
    """

    def _before_seeds(self) -> None:
        param = self.param.data_param
        self._start = self.context.random.below(param.rand_skip) if param.rand_skip else 0
        self.context.random.integer()
        self._records: Records | None = None

    def _source_name(self) -> str:
        return self.param.data_param.source

    def _is_ready(self) -> bool:
        return os.path.exists(self.param.data_param.source)

    def _first(self) -> np.ndarray:
        sample = self.records.first()
        return self.transformer.decode_datum(sample.datum(), sample.name)

    def _next(self) -> tuple[np.ndarray, int, bool, str]:
        sample = self.records.next()
        datum = sample.datum()
        return self.transformer.decode_datum(datum, sample.name), datum.label, datum.encoded, sample.name

    @property
    def records(self) -> Records:
        """The records, opened at first use."""
        if self._records is None:
            from pyscratchdet.data.records import Records

            self._records = Records(self.param.data_param.source, self._start, *self.context.share)
        return self._records

    def _seek(self, position: int) -> None:
        self.records.position = position


@register("ImageData")
class ImageData(TransformedData):
    """Picture files of a list, `path label` per line, in order or shuffled again in each round."""

    tops: ClassVar[Count] = exactly(2)

    @property
    def _pictures(self) -> Any:
        """The settings of the list and its pictures."""
        return self.param.image_data_param

    @property
    def batch_size(self) -> int:
        """Pictures in a batch."""
        return int(self._pictures.batch_size)

    def _own_setup(self) -> None:
        param = self._pictures
        if bool(param.new_height) != bool(param.new_width):
            raise self.fail("new_height and new_width must be given together", "size")
        self._seed = self.context.random.integer() if param.shuffle else 0
        self._start = self.context.random.below(param.rand_skip) if param.rand_skip else 0
        self._lines: list[tuple[str, Any]] = []
        if os.path.exists(param.source) or self._fixed_shape() is None:
            self._open()

    def _open(self) -> None:
        """Reads the list and goes to its first picture, once."""
        if self._lines:
            return
        self._listed = self._read_list(self._pictures.source)
        self._begin(0)
        self._line = self._start
        if self._line >= len(self._lines):
            raise self.fail("rand_skip skips the whole list", "rand-skip", found=len(self._lines))

    def _fixed_shape(self) -> Shape | None:
        param = self._pictures
        channels, fixed = 3 if param.is_color else 1, self.transformer.fixed_shape()
        if param.new_height:
            return self.transformer.output_shape(channels, param.new_height, param.new_width)
        return fixed and (channels, *fixed[1:])

    def _begin(self, round_number: int) -> None:
        """Puts the list into the order of a round: shuffled once more each time."""
        from pyscratchdet.rng import CaffeRandom

        self._lines, self._line = list(self._listed), 0
        self._shuffler = CaffeRandom(self._seed)
        for _ in range(round_number + 1):
            self._shuffle()

    def _shuffle(self) -> None:
        if self._pictures.shuffle:
            self._shuffler.shuffle(self._lines)

    def _seek(self, position: int) -> None:
        self._open()
        rounds, line = divmod(self._start + position, len(self._listed))
        self._begin(rounds)
        self._line = line

    def _read_list(self, source: str) -> list[tuple[str, Any]]:
        """Returns the paths and what the list says of each."""
        from pyscratchdet.data.lists import read_labels

        return list(read_labels(source))

    def _source_name(self) -> str:
        return str(self._pictures.source)

    def _is_ready(self) -> bool:
        return bool(self._lines) and os.path.exists(self._pictures.root_folder + self._lines[self._line][0])

    def _first(self) -> np.ndarray:
        return self._read(self._lines[self._line][0])

    def _read(self, path: str) -> np.ndarray:
        from pyscratchdet.data.images import decode_image, resized
        from pyscratchdet.files import read_bytes

        param = self._pictures
        try:
            image = decode_image(read_bytes(param.root_folder + path), param.is_color, name=path)
        except (DataError, FileError) as error:
            error.position = Position(param.source, [listed for listed, _ in self._listed].index(path) + 1)
            raise
        return resized(image, param.new_height, param.new_width) if param.new_height else image

    def _next(self) -> tuple[np.ndarray, Any, bool, str]:
        self._open()
        path, label = self._lines[self._line]
        image = self._read(path)
        self._line += 1
        if self._line == len(self._lines):
            self._line = 0
            self._shuffle()
        return image, label, True, path


# The fields of TSN's VideoData, which reads a list of videos.
_TSN = (
    *("source", "scale", "mean_file", "batch_size", "crop_size", "mirror", "rand_skip", "shuffle", "new_height"),
    *("new_width", "new_length", "num_segments", "modality", "name_pattern", "encoded", "grayscale"),
)


@register("VideoData")
class VideoData(TransformedData):
    """Frames of a video file or a camera, with label 0; before each frame that is taken, `skip_frames` are skipped.

    The original transforms each frame twice and stops the process at the end of the file; here that is a DataError.
    Of TSN's layer of this name, which stacks frames or flow fields of the videos of a list, the shapes are known.
    """

    looked_at_fields: ClassVar[frozenset[str]] = frozenset(
        {"transform_param.is_flow", *(f"video_data_param.{name}" for name in _TSN)}
    )

    @property
    def carries_over(self) -> bool:
        """True: frames come one after the other."""
        return True

    @property
    def batch_size(self) -> int:
        """Videos or frames in a batch."""
        return self.param.video_data_param.batch_size or self.param.data_param.batch_size

    def _fixed_shape(self) -> Shape | None:
        param, shape = self.param.video_data_param, super()._fixed_shape()
        if not param.source:
            return shape
        size = shape[1:] if shape else (param.new_height, param.new_width)
        each = 2 if param.modality == param.FLOW else 1 if param.grayscale else 3
        return (each * param.new_length * param.num_segments, *size) if all(size) else None

    def _own_setup(self) -> None:
        param = self.param.video_data_param
        # Without its folder, OpenCV would take a name such as "http://..." for an address and connect to it.
        self._source = os.path.abspath(param.video_file) if param.video_type == param.VIDEO else param.device_id
        self._capture: cv2.VideoCapture | None = None

    def _source_name(self) -> str:
        return self.param.video_data_param.video_file or self.param.video_data_param.source or "camera"

    def _is_ready(self) -> bool:
        param = self.param.video_data_param
        return param.video_type == param.VIDEO and os.path.exists(param.video_file)

    def _first(self) -> np.ndarray:
        import cv2

        image = self._frame()
        if self.param.video_data_param.video_type == self.param.video_data_param.VIDEO:
            self._open().set(cv2.CAP_PROP_POS_FRAMES, 0)
        return image

    def _open(self) -> cv2.VideoCapture:
        """Returns the OpenCV capture, opened at first use."""
        import cv2

        if self._capture is None:
            self._capture = cv2.VideoCapture(self._source)
            if not self._capture.isOpened():
                raise DataError(f"cannot open video {self._source}", code="data.video")
        return self._capture

    def _frame(self) -> np.ndarray:
        is_read, image = self._open().read()
        if not is_read:
            raise DataError(f"no frames left in video {self._source}", code="data.video-end")
        return image

    def _next(self) -> tuple[np.ndarray, int, bool, str]:
        for _ in range(self.param.video_data_param.skip_frames):
            self._frame()
        return self._frame(), 0, True, "a frame"

    def _seek(self, position: int) -> None:
        import cv2

        param = self.param.video_data_param
        if param.video_type == param.VIDEO:
            self._open().set(cv2.CAP_PROP_POS_FRAMES, position * (param.skip_frames + 1))


def _no_objects() -> Objects:
    from pyscratchdet.data.objects import NO_OBJECTS

    return NO_OBJECTS
