"""What all single-shot detectors share: data layers, loss, detection output, solver, and their assembly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyscratchdet.caffe import model_libs
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.prototxt.recipe import DataSet, Options, Recipe, Training

Body = Callable[[NetSpec], Any]

_ALL_INTERPOLATIONS = ("LINEAR", "AREA", "NEAREST", "CUBIC", "LANCZOS4")
_DISTORTION = {
    "brightness_prob": 0.5,
    "brightness_delta": 32,
    "contrast_prob": 0.5,
    "contrast_lower": 0.5,
    "contrast_upper": 1.5,
    "hue_prob": 0.5,
    "hue_delta": 18,
    "saturation_prob": 0.5,
    "saturation_lower": 0.5,
    "saturation_upper": 1.5,
    "random_order_prob": 0.0,
}


def resize(size: int, mode: str = "WARP", interpolations: Sequence[str] = ("LINEAR",)) -> dict[str, Any]:
    """Returns a resize_param to `size` pixels; FIT_SMALL_SIZE also gets the scale of the written boxes."""
    param = {
        "prob": 1,
        "resize_mode": mode,
        "height": size,
        "width": size,
        "interp_mode": [getattr(P.Resize, name) for name in interpolations],
    }
    return param if mode == "WARP" else {**param, "height_scale": size, "width_scale": size}


def batch_samplers() -> list[dict[str, Any]]:
    """Returns SSD's crops: the whole picture, five lower bounds on the overlap, and any crop."""
    sampler = {"min_scale": 0.3, "max_scale": 1.0, "min_aspect_ratio": 0.5, "max_aspect_ratio": 2.0}
    constraints: list[dict[str, float]] = [{"min_jaccard_overlap": overlap} for overlap in (0.1, 0.3, 0.5, 0.7, 0.9)]
    constraints.append({"max_jaccard_overlap": 1.0})
    crops = [
        {"sampler": sampler, "sample_constraint": constraint, "max_trials": 50, "max_sample": 1}
        for constraint in constraints
    ]
    return [{"max_trials": 1, "max_sample": 1}, *crops]


def add_train_data(
    net: NetSpec, data: DataSet, size: int, batch_size: int, mode: str = "WARP", photometric: bool = True
) -> None:
    """Adds `data` and `label` with SSD's augmentation; `photometric` is colour distortion and zooming out."""
    transform: dict[str, Any] = {
        "mirror": True,
        "mean_value": list(data.mean_value),
        "resize_param": resize(size, mode, _ALL_INTERPOLATIONS),
        "emit_constraint": {"emit_type": caffe_pb2.EmitConstraint.CENTER},
    }
    if data.force_color:
        transform["force_color"] = True
    if photometric:
        transform.update(distort_param=_DISTORTION, expand_param={"prob": 0.5, "max_expand_ratio": 4.0})
    _add_data(net, data.train_source, data, batch_size, True, transform, batch_sampler=batch_samplers())


def add_test_data(net: NetSpec, data: DataSet, size: int, batch_size: int, mode: str = "WARP") -> None:
    """Adds `data` and `label` of the test set, resized only."""
    transform: dict[str, Any] = {"mean_value": list(data.mean_value), "resize_param": resize(size, mode)}
    if data.force_color:
        transform["force_color"] = True
    _add_data(net, data.test_source, data, batch_size, False, transform)


def _add_data(
    net: NetSpec, source: str, data: DataSet, batch_size: int, train: bool, transform: dict[str, Any], **params: Any
) -> None:
    create = model_libs.of("ssd").CreateAnnotatedDataLayer
    params.update(label_map_file=data.label_map_file, transform_param=transform)
    net.data, net.label = create(source, batch_size=batch_size, train=train, **params)


def multibox_loss(
    net: NetSpec, name: str, bottoms: Sequence[Top], num_classes: int, data: DataSet, **changes: Any
) -> None:
    """Adds SSD's loss: smooth L1 and softmax, three negatives for each positive; None in `changes` drops a field."""
    param = {
        "loc_loss_type": P.MultiBoxLoss.SMOOTH_L1,
        "conf_loss_type": P.MultiBoxLoss.SOFTMAX,
        "loc_weight": 1.0,
        "num_classes": num_classes,
        "share_location": True,
        "match_type": P.MultiBoxLoss.PER_PREDICTION,
        "overlap_threshold": 0.5,
        "use_prior_for_matching": True,
        "background_label_id": 0,
        "use_difficult_gt": data.use_difficult_gt,
        "mining_type": P.MultiBoxLoss.MAX_NEGATIVE,
        "neg_pos_ratio": 3.0,
        "neg_overlap": 0.5,
        "code_type": P.PriorBox.CENTER_SIZE,
        "ignore_cross_boundary_bbox": False,
        **changes,
    }
    net[name] = L.MultiBoxLoss(
        *bottoms,
        multibox_loss_param={key: value for key, value in param.items() if value is not None},
        loss_param={"normalization": P.Loss.VALID},
        include={"phase": caffe_pb2.TRAIN},
        propagate_down=[index < 2 for index in range(len(bottoms))],
    )


def softmax(net: NetSpec, conf: str, num_classes: int) -> Top:
    """Adds the softmax over classes of flattened confidences (N, priors * classes) and returns it, flattened again."""
    net[f"{conf}_reshape"] = L.Reshape(net[conf], shape={"dim": [0, -1, num_classes]})
    net[f"{conf}_softmax"] = L.Softmax(net[f"{conf}_reshape"], axis=2)
    net[f"{conf}_flatten"] = L.Flatten(net[f"{conf}_softmax"], axis=1)
    top: Top = net[f"{conf}_flatten"]
    return top


def save_output(data: DataSet, name: str) -> dict[str, Any]:
    """Returns the save_output_param that writes detections in the data set's own format, if they are written at all."""
    if not data.output_directory:
        return {}
    return {
        "output_directory": f"{data.output_directory}/{name}",
        "output_name_prefix": data.output_name_prefix,
        "output_format": data.output_format,
        "label_map_file": data.label_map_file,
        "name_size_file": data.name_size_file,
        "num_test_image": data.num_test_image,
    }


def detection_output(
    net: NetSpec, bottoms: Sequence[Top], data: DataSet, evaluate_resize: dict[str, Any] | None = None, **params: Any
) -> None:
    """Adds DetectionOutput and, for the label, DetectionEvaluate; `params` are those that recipes differ in.

    `evaluate_resize` is the resizing that is undone on detections before they are compared.
    """
    evaluate = {
        "num_classes": data.num_classes,
        "background_label_id": 0,
        "overlap_threshold": 0.5,
        "evaluate_difficult_gt": False,
        **({"name_size_file": data.name_size_file} if data.name_size_file else {}),
        **({"resize_param": evaluate_resize} if evaluate_resize else {}),
    }
    param = {
        "num_classes": data.num_classes,
        "share_location": True,
        "background_label_id": 0,
        "confidence_threshold": 0.01,
        "code_type": P.PriorBox.CENTER_SIZE,
        **params,
    }
    test = {"phase": caffe_pb2.TEST}
    net.detection_out = L.DetectionOutput(*bottoms, detection_output_param=param, include=test)
    net.detection_eval = L.DetectionEvaluate(
        net.detection_out, net.label, detection_evaluate_param=evaluate, include=test
    )


def solver(name: str, folder: str, data: DataSet, training: Training) -> Any:
    """Returns the SolverParameter."""
    message = caffe_pb2.SolverParameter(
        train_net=f"{folder}/train.prototxt",
        snapshot_prefix=f"{folder}/{name}",
        base_lr=training.base_lr,
        weight_decay=0.0005,
        gamma=training.gamma,
        momentum=0.9,
        iter_size=training.iter_size,
        max_iter=training.max_iter,
        snapshot=training.snapshot,
        display=training.display,
        average_loss=10,
        type="SGD",
        solver_mode=P.Solver.GPU if training.gpus else P.Solver.CPU,
        device_id=training.gpus[0] if training.gpus else 0,
        debug_info=training.debug_info,
        snapshot_after_train=True,
    )
    if training.stepsize is not None:
        message.lr_policy, message.stepsize = "step", training.stepsize
    else:
        message.lr_policy = "multistep"
        message.stepvalue.extend(training.stepvalue)
    if training.test_interval is not None:
        message.test_net.append(f"{folder}/test.prototxt")
        message.test_iter.append(math.ceil(data.num_test_image / training.test_batch_size))
        message.test_interval = training.test_interval
        message.eval_type, message.ap_version = "detection", data.ap_version
        message.test_initialization = training.test_initialization
    return message


def assemble(
    name: str, size: int, train: NetSpec, test: NetSpec, data: DataSet, training: Training, options: Options
) -> Recipe:
    """Returns the recipe of finished train and test nets; deploy is the test net with an input in place of its data."""
    folder = options.folder or f"models/{name}"
    train_net, test_net = train.to_proto(), test.to_proto()
    deploy = caffe_pb2.NetParameter(
        name=f"{name}_deploy", input=["data"], input_shape=[caffe_pb2.BlobShape(dim=[1, 3, size, size])]
    )
    deploy.layer.extend(test_net.layer[1:-1])
    train_net.name, test_net.name = f"{name}_train", f"{name}_test"
    made = solver(name, folder, data, training)
    return Recipe(name, train_net, test_net, deploy, made, training.gpus, training.weights, folder)


@dataclass(frozen=True)
class Head:
    """Source layers and their priors, sizes in pixels of the input; see CreateMultiBoxHead."""

    from_layers: Sequence[str]
    min_sizes: Sequence[Any]
    max_sizes: Sequence[Any]
    aspect_ratios: Sequence[Sequence[float]]
    steps: Sequence[float] = ()
    normalizations: Sequence[float] = ()
    batchnorm: bool = False
    clip: bool = False
    fork: str = "ssd"

    def add(self, net: NetSpec, num_classes: int, **params: Any) -> list[Top]:
        """Adds mbox_loc, mbox_conf, mbox_priorbox and returns them."""
        tops: list[Top] = model_libs.of(self.fork).CreateMultiBoxHead(
            net,
            data_layer="data",
            from_layers=list(self.from_layers),
            use_batchnorm=self.batchnorm,
            min_sizes=list(self.min_sizes),
            max_sizes=list(self.max_sizes),
            aspect_ratios=list(self.aspect_ratios),
            steps=list(self.steps),
            normalizations=list(self.normalizations),
            num_classes=num_classes,
            clip=self.clip,
            prior_variance=[0.1, 0.1, 0.2, 0.2],
            kernel_size=3,
            pad=1,
            prefix="mbox",
            **params,
        )
        return tops


def ratio_sizes(
    size: int, count: int, min_ratio: int, max_ratio: int, first: tuple[int, int]
) -> tuple[list[float], list[float]]:
    """Returns min and max sizes in pixels for `count` source layers: `first` percent, then even steps of the range.

    SSD, section 2.2, as its scripts compute it: whole percents, so the last max size may pass max_ratio.
    """
    step = (max_ratio - min_ratio) // (count - 2) if count > 2 else max_ratio - min_ratio + 1
    ratios = range(min_ratio, max_ratio + 1, step)[: count - 1]
    low = [size * ratio / 100.0 for ratio in (first[0], *ratios)]
    high = [size * ratio / 100.0 for ratio in (first[1], *(ratio + step for ratio in ratios))]
    return low, high


def usual_ratios(count: int) -> list[list[float]]:
    """Returns SSD's aspect ratios for `count` source layers; `flip` adds their inverses.

    That makes four priors a cell on the finest and the two coarsest layers, six on those between.
    """
    return [[2.0] if index == 0 or index >= count - 2 else [2.0, 3.0] for index in range(count)]


def single_shot(
    name: str,
    size: int,
    body: Body,
    head: Head,
    data: DataSet,
    training: Training,
    options: Options,
    *,
    mode: str = "WARP",
    photometric: bool = True,
    loss: dict[str, Any] | None = None,
    batchnorm: dict[str, Any] | None = None,
) -> Recipe:
    """Returns an SSD: body, head, loss.

    `mode` other than WARP keeps the pictures' own shape; `loss` changes the loss' parameters and `batchnorm` the
    heads' (eps, moving_average_fraction).
    """
    head_params = dict(batchnorm or {})
    if mode != "WARP":
        head_params.update(img_height=size, img_width=size)
    train = NetSpec()
    add_train_data(train, data, size, training.batch_size_per_device, mode, photometric)
    body(train)
    bottoms = head.add(train, data.num_classes, **head_params)
    multibox_loss(train, "mbox_loss", [*bottoms, train.label], data.num_classes, data, **(loss or {}))

    test = NetSpec()
    add_test_data(test, data, size, training.test_batch_size, mode)
    body(test)
    bottoms = head.add(test, data.num_classes, **head_params)
    bottoms[1] = softmax(test, "mbox_conf", data.num_classes)
    saved = save_output(data, name)
    scaled = resize(size, mode) if mode != "WARP" else None
    if saved and scaled:
        saved["resize_param"] = scaled
    nms = {"nms_threshold": 0.45, "top_k": 400}
    detection_output(test, bottoms, data, scaled, nms_param=nms, save_output_param=saved, keep_top_k=200)
    return assemble(name, size, train, test, data, training, options)
