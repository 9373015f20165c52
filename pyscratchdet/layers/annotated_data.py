"""Pictures with boxes from an LMDB (annotated_data_layer.cpp, data_reader.cpp, base_data_layer.cpp)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.layers.base import Count, Layer, Shape, exactly, register
from pyscratchdet.layers.data import assume_shape, shape_unknown
from pyscratchdet.lazy import Tensor, torch

if TYPE_CHECKING:
    from pyscratchdet.data.batches import ReferenceBatches
    from pyscratchdet.data.loader import BatchLoader
    from pyscratchdet.data.plan import Planner, Rect


@register("AnnotatedData")
class AnnotatedData(Layer):
    """Tops: data (batch, channels, height, width) and label (1, 1, N, 8): item, label, instance, box, difficult.

    With the context's option `fast` the batches come from `pyscratchdet.data.loader`: the same transformations, with
    random numbers that derive from the net's generator in another way, in `workers` processes; the mean is subtracted
    on the device that the option `device` names. Otherwise they are the original's batches for the same random seed.
    In both cases several processes that train together (`rank` of `world_size`) share the records. Set-up takes from
    the net's generator what the original takes, in its order: a seed for the reading thread, two for the transformer
    where it needs random numbers, one for the prefetching thread. (`rand_skip`, which the original no longer reads
    here, takes one more before them.)
    """

    bottoms: ClassVar[Count] = exactly(0)
    tops: ClassVar[Count] = Count(1, 2)
    is_source: ClassVar[bool] = True
    looked_at_fields: ClassVar[frozenset[str]] = frozenset(
        f"annotated_data_param.{name}"
        for name in ("yolo_data_type", "yolo_data_jitter", "train_diffcult", "difficult_label_warmup")
    ) | {"transform_param.later_values_of_resize_param"}  # the first one gives the shapes that the net begins with

    def setup(self, bottoms: Sequence[Shape]) -> None:
        from pyscratchdet.data.transform import DataTransformer

        param = self.param.data_param
        if param.batch_size < 1:
            raise self.fail("batch_size must be at least 1", "batch-size", found=param.batch_size)
        resize = self.param.transform_param.resize_param
        if resize.resize_mode == resize.FIT_SMALL_SIZE and param.batch_size != 1:
            raise self.fail("FIT_SMALL_SIZE needs batches of 1", "batch-size", expected=1, found=param.batch_size)
        self._check_samplers()
        try:
            self.transformer = DataTransformer(self.param.transform_param)
        except UsageError as error:
            raise self.fail(error.message, "transform") from error
        self._draw_seeds()
        self._source: ReferenceBatches | BatchLoader | None = None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes follow from the first record, or from the settings alone while there is no database."""
        batch_size = self.param.data_param.batch_size
        fixed = self.transformer.fixed_shape()
        if fixed is not None and not os.path.exists(self.param.data_param.source):
            assume_shape(self, self.param.data_param.source, fixed)
            tops: list[Shape] = [(batch_size, *fixed), self._label_shape(1)]
            return tops[: self.num_tops]
        from pyscratchdet.data.records import Records

        try:
            sample = Records(self.param.data_param.source).first()
            record = sample.annotated()
            image = self.transformer.decode_datum(record.datum, sample.name)
        except (DataError, FileError) as error:
            raise shape_unknown(error, self.param) from error
        count = sum(len(group.annotation) for group in record.annotation_group)
        shape = self.transformer.output_shape(image.shape[2], *image.shape[:2])
        tops = [(batch_size, *shape), self._label_shape(max(count, 1))]
        return tops[: self.num_tops]

    def _label_shape(self, count: int) -> Shape:
        """Returns the shape of the labels of `count` objects; MobileNet-YOLO's `yolo_data_type: 1` has room for 300."""
        if self.param.annotated_data_param.yolo_data_type == 1:
            return (self.param.data_param.batch_size, 1, 300, 5)
        return (1, 1, count, 8)

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        if not self._is_fast:
            return [torch.from_numpy(top) for top in self.source.next()][: self.num_tops]
        pictures, label, places = self.source.next()
        return [self._normalized(torch.from_numpy(pictures), places), torch.from_numpy(label)][: self.num_tops]

    @property
    def source(self) -> Any:
        """The maker of the batches; it opens the database at first use."""
        if self._source is None:
            self._source = self._fast_source() if self._is_fast else self._reference_source()
        return self._source

    @property
    def state(self) -> dict[str, Any] | None:
        """What a resumed run needs; None until a batch has been made."""
        return None if self._source is None else self._source.state

    @state.setter
    def state(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.source.state = state

    @property
    def carries_over(self) -> bool:
        """Whether pictures depend on random numbers that come one after the other, as they do in the reference mode."""
        return not self._is_fast and self._planner.is_random

    def skip(self, num_batches: int) -> None:
        """Passes over batches."""
        state = self.source.state
        self.source.state = {**state, "position": state["position"] + num_batches}

    @property
    def _is_fast(self) -> bool:
        return bool(self.context.options.get("fast"))

    def _normalized(self, pictures: Tensor, places: Sequence[Rect | None]) -> Tensor:
        """Returns borrowed pictures (batch, height, width, channels) uint8 as the top, on the net's device.

        Bytes are transferred, not floats; mean and scale are applied on the device. Like the pictures, the result is
        laid out channels last.
        """
        device = torch.device(self.context.options.get("device", "cpu"))
        if device.type == "cuda":
            pictures = pictures.pin_memory()  # a copy, which PyTorch keeps until the transfer is done
        data = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        means = self.transformer.mean_planes(places, *data.shape[1:])
        if means is not None:
            data -= torch.from_numpy(means).to(device, non_blocking=True)  # or it would wait for the last step's end
        if self.param.transform_param.scale != 1:
            data *= self.param.transform_param.scale
        return data

    def _reference_source(self) -> ReferenceBatches:
        from pyscratchdet.data.batches import ReferenceBatches
        from pyscratchdet.data.plan import Streams
        from pyscratchdet.data.records import Records
        from pyscratchdet.rng import CaffeRandom, LibcRandom

        streams = Streams(CaffeRandom(self._thread_seed), CaffeRandom(self._transformer_seed), LibcRandom())
        records = Records(self.param.data_param.source, self._skipped, *self.context.share)
        return ReferenceBatches(records, self.transformer, self._planner, streams, self.param.data_param.batch_size)

    @property
    def _planner(self) -> Planner:
        from pyscratchdet.data.plan import Planner

        samplers = self.param.annotated_data_param.batch_sampler
        return Planner(self.param.transform_param, samplers, self.context.is_train)

    def _fast_source(self) -> BatchLoader:
        from pyscratchdet.data.loader import BatchLoader

        rank, world_size = self.context.share
        return BatchLoader(
            self.param,
            is_train=self.context.is_train,
            seed=self._thread_seed,
            workers=self.context.options.get("workers", 1),
            rank=rank,
            world_size=world_size,
            start=self._skipped,
        )

    def _draw_seeds(self) -> None:
        random, rand_skip = self.context.random, self.param.data_param.rand_skip
        self._skipped = random.below(rand_skip) if rand_skip else 0
        random.integer()
        needs_random = self.transformer.needs_random(self.context.is_train)
        seeds = [random.integer() for _ in range(2)] if needs_random else [0]
        self._transformer_seed = seeds[-1]
        self._thread_seed = random.integer()

    def _check_samplers(self) -> None:
        for index, batch_sampler in enumerate(self.param.annotated_data_param.batch_sampler):
            sampler = batch_sampler.sampler
            rules = [
                (0 < sampler.min_scale <= sampler.max_scale <= 1, "0 < min_scale <= max_scale <= 1"),
                (0 < sampler.min_aspect_ratio <= sampler.max_aspect_ratio, "0 < min_aspect_ratio <= max_aspect_ratio"),
            ]
            for is_met, rule in rules:
                if not is_met:
                    raise self.fail(f"batch_sampler {index} is out of range", "sampler", expected=rule)
