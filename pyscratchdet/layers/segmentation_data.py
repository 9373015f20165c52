"""Pictures with a label for each pixel: ImageSegData (DeepLab, PSPNet) and DenseImageData (SegNet, ENet)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pyscratchdet.errors import DataError, FileError, Position
from pyscratchdet.layers.base import Count, Shape, exactly, register
from pyscratchdet.layers.data import ImageData, assume_shape, shape_unknown
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

Size = tuple[int, int]


class _PixelLabels(ImageData):
    """Base of both: pictures of a list, in order or shuffled again in each round, each with a picture of labels."""

    _crop: tuple[int, int]  # height and width; 0 for none

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = self._fixed_shape()
        if shape is None:
            try:
                image = self._first()
            except (DataError, FileError) as error:
                raise shape_unknown(error, self.param) from error
            shape = (image.shape[2], *image.shape[:2])
        elif not self._is_ready():
            assume_shape(self, self._source_name(), shape)
        labels = self._label_size((shape[1], shape[2]))
        return [(self.batch_size, *shape), (self.batch_size, 1, *labels), (self.batch_size, 1, 1, 2)][: self.num_tops]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.data.batches import check_same_shape
        from pyscratchdet.data.plan import Plan, Rect

        pictures: list[np.ndarray] = []
        labels, sizes = [], []
        for _ in range(self.batch_size):
            image, label, _, name = self._next()
            self._position += 1
            size = image.shape[:2]
            image, classes = self._varied(image, self._classes(image, label), name)
            place = Rect(0, 0, *image.shape[:2])
            self.transformer.check_mean(Plan(place=place, resized=image.shape[:2]), image.shape[2], is_encoded=False)
            pictures.append(self.transformer.normalize(image, place))
            labels.append(classes[None].astype(np.float32))
            sizes.append(np.minimum(size, image.shape[:2]).astype(np.float32))
            check_same_shape(pictures, name, "a crop gives all pictures one size")
        tops = [np.stack(pictures), np.stack(labels), np.stack(sizes)[:, None, None]]
        return [torch.from_numpy(np.ascontiguousarray(top)) for top in tops[: self.num_tops]]

    def _fixed_shape(self) -> Shape | None:
        param = self._pictures
        size = self._crop if all(self._crop) else (param.new_height, param.new_width)
        return (3 if param.is_color else 1, *size) if all(size) else None

    def _read_labels(self, path: str, height: int, width: int, is_linear: bool) -> np.ndarray:
        """Returns a picture of labels (height, width), uint8, resized unless the size is 0."""
        import cv2

        from pyscratchdet.data.images import decode_image
        from pyscratchdet.files import read_bytes

        try:
            labels = decode_image(read_bytes(self._pictures.root_folder + path), color=False, name=path)[..., 0]
        except (DataError, FileError) as error:
            line = next(number for number, (_, label) in enumerate(self._listed, 1) if label == path)
            error.position = Position(self._pictures.source, line)
            raise
        how = cv2.INTER_LINEAR if is_linear else cv2.INTER_NEAREST
        return cv2.resize(labels, (width, height), interpolation=how) if height and width else labels

    @abstractmethod
    def _label_size(self, size: Size) -> Size:
        """Returns the size of the labels of a picture of this size."""

    @abstractmethod
    def _classes(self, image: np.ndarray, label: Any) -> np.ndarray:
        """Returns the labels of a picture's pixels (height, width), uint8; `label` is what the list says."""

    @abstractmethod
    def _varied(self, image: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns both as they become tops, mean and scale aside: mirrored, cropped..."""


@register("ImageSegData")
class ImageSegData(_PixelLabels):
    """Tops: pictures, labels (N, 1, H, W) and, if named, heights and widths (N, 1, 1, 2) (image_seg_data_layer.cpp).

    A line of the list is `picture labels`. With `label_type: PIXEL` these are the path of a gray picture, with IMAGE
    (the default) a number for all pixels, and with NONE there are none and each label is `ignore_label`. A picture is
    scaled by one of `scale_factors`, filled up with the mean values at the bottom and on the right to the crop's size
    (`crop_size`, or `crop_height` and `crop_width`; labels with `ignore_label`), and cropped: at random in TRAIN, from
    the middle in TEST. As in the original, `new_height` and `new_width` resize labels linearly too.
    """

    tops: ClassVar[Count] = Count(2, 3)
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "image_data_param.label_type",
            "image_data_param.ignore_label",
            "transform_param.scale_factors",
            "transform_param.crop_height",
            "transform_param.crop_width",
        }
    )

    def _own_setup(self) -> None:
        transform = self.param.transform_param
        if transform.HasField("mean_file"):
            raise self.fail("this type takes no mean file", "mean-file", hint="give mean_value instead")
        given = [transform.HasField(name) for name in ("crop_height", "crop_width")]
        if any(given) and (transform.HasField("crop_size") or not all(given)):
            raise self.fail(
                "the crop is given twice or only in part", "crop", expected="crop_size, or crop_height and crop_width"
            )
        self._crop = (transform.crop_height, transform.crop_width) if any(given) else (transform.crop_size,) * 2
        super()._own_setup()

    @property
    def carries_over(self) -> bool:
        """Whether pictures depend on random numbers; in TEST crops do not."""
        return super().carries_over or len(self.param.transform_param.scale_factors) > 1

    def _label_size(self, size: Size) -> Size:
        return size

    def _read_list(self, source: str) -> list[tuple[str, Any]]:
        from pyscratchdet.data.lists import read_lines

        label_type, lines = self.param.image_data_param.label_type, []
        wanted = "picture" if label_type == caffe_pb2.ImageDataParameter.NONE else "picture label"
        for number, line in enumerate(read_lines(source), 1):
            words = line.split()
            is_number = label_type == caffe_pb2.ImageDataParameter.IMAGE
            if len(words) < len(wanted.split()) or (is_number and not words[1].isdecimal()):
                position = Position(source, number, text=line)
                raise DataError(f"a line must be: {wanted}", code="data.list", position=position)
            lines.append((words[0], words[-1] if len(words) > 1 else ""))
        if not lines:
            raise DataError("the list is empty", code="data.list", position=Position(source))
        return lines

    def _classes(self, image: np.ndarray, label: Any) -> np.ndarray:
        param = self.param.image_data_param
        if param.label_type == caffe_pb2.ImageDataParameter.PIXEL:
            return self._read_labels(label, param.new_height, param.new_width, is_linear=True)
        is_one = param.label_type == caffe_pb2.ImageDataParameter.IMAGE
        return np.full(image.shape[:2], min(int(label), 255) if is_one else param.ignore_label, np.uint8)

    def _varied(self, image: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        if labels.shape != image.shape[:2]:
            expected, found = image.shape[:2], labels.shape
            raise DataError(
                f"the labels of {name} have another size", code="data.shape", expected=expected, found=found
            )
        transform, random = self.param.transform_param, self._streams.transformer
        is_mirrored = bool(transform.mirror and random.below(2))
        factors = transform.scale_factors
        if factors:
            image, labels = _scaled(image, labels, factors[random.below(len(factors))])
        if all(self._crop):
            image, labels = self._filled_up(image, labels)
            spare = [size - crop for size, crop in zip(labels.shape, self._crop, strict=True)]
            top, left = (random.below(each + 1) if self.context.is_train else each // 2 for each in spare)
            window = (slice(top, top + self._crop[0]), slice(left, left + self._crop[1]))
            image, labels = image[window], labels[window]
        return (image[:, ::-1], labels[:, ::-1]) if is_mirrored else (image, labels)

    def _filled_up(self, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = image.shape[2]
        height, width = np.maximum(labels.shape, self._crop)
        canvas = np.empty((height, width, channels), np.float32)
        canvas[:] = self.transformer.means(channels)
        filled = np.full((height, width), self.param.image_data_param.ignore_label, np.uint8)
        canvas[: image.shape[0], : image.shape[1]] = image
        filled[: image.shape[0], : image.shape[1]] = labels
        return canvas, filled


@register("DenseImageData")
class DenseImageData(_PixelLabels):
    """Tops: pictures and labels (N, 1, H, W) (dense_image_data_layer.cpp).

    The list has pairs of words `picture labels`, the second the path of a gray picture. Both are resized to
    `new_height` by `new_width`, labels to the nearest pixel, and mirrored and cropped to `crop_height` by
    `crop_width` at random, in either phase. With ENet's `label_divide_factor` the labels are so many times smaller.
    """

    tops: ClassVar[Count] = exactly(2)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"dense_image_data_param"})

    @property
    def _pictures(self) -> Any:
        return self.param.dense_image_data_param

    def _own_setup(self) -> None:
        param, transform = self._pictures, self.param.transform_param
        if transform.mirror or transform.crop_size:
            raise self.fail(
                "mirror and crop_size of transform_param would not change the labels",
                "transform",
                hint="dense_image_data_param has mirror, crop_height and crop_width",
            )
        if bool(param.crop_height) != bool(param.crop_width):
            raise self.fail("crop_height and crop_width must be given together", "crop")
        self._crop = (param.crop_height, param.crop_width)
        self._divisor = param.label_divide_factor
        if self._divisor < 1 or (self._divisor > 1 and (all(self._crop) or not param.new_height)):
            expected = "at least 1, and more only with new_height and new_width and without a crop"
            raise self.fail("label_divide_factor out of range", "divisor", expected=expected, found=self._divisor)
        super()._own_setup()

    @property
    def carries_over(self) -> bool:
        """Whether pictures depend on random numbers."""
        return self._pictures.mirror or all(self._crop)

    def _label_size(self, size: Size) -> Size:
        return size[0] // self._divisor, size[1] // self._divisor

    def _read_list(self, source: str) -> list[tuple[str, Any]]:
        from pyscratchdet.data.lists import read_list

        return list(read_list(source))

    def _classes(self, image: np.ndarray, label: Any) -> np.ndarray:
        height, width = self._label_size((self._pictures.new_height, self._pictures.new_width))
        return self._read_labels(label, height, width, is_linear=False)

    def _varied(self, image: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        expected = self._label_size(image.shape[:2])
        if labels.shape != expected:
            raise DataError(
                f"the labels of {name} have another size", code="data.shape", expected=expected, found=labels.shape
            )
        random = self._streams.thread
        if self._pictures.mirror and random.below(2):
            image, labels = image[:, ::-1], labels[:, ::-1]
        if all(self._crop):
            spare = [size - crop for size, crop in zip(labels.shape, self._crop, strict=True)]
            if min(spare) < 0:
                raise DataError(
                    f"{name} is smaller than the crop", code="data.shape", expected=self._crop, found=expected
                )
            top, left = random.below(spare[0] + 1), random.below(spare[1] + 1)
            window = (slice(top, top + self._crop[0]), slice(left, left + self._crop[1]))
            image, labels = image[window], labels[window]
        return image, labels


def _scaled(image: np.ndarray, labels: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Resizes by a factor, sizes cut to whole numbers: pictures linearly, labels to the nearest pixel."""
    import cv2

    from pyscratchdet.data.images import resized

    if factor == 1:
        return image, labels
    height, width = (int(np.float32(size) * np.float32(factor)) for size in labels.shape)
    return resized(image, height, width), cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
