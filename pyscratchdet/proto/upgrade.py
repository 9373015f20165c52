"""Old formats brought up to date in memory (util/upgrade_proto.cpp).

V0 nets (`layers { layer { type: "conv" } }`), V1 nets (`layers { type: CONVOLUTION }`), data transformation fields of
V1 data layers, `input` fields, three `param` entries of a BatchNorm, and solver types as enums.
"""

from __future__ import annotations

from typing import Any

from pyscratchdet.errors import Position, PrototxtError, counted, nearest
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import Locator

V1 = caffe_pb2.V1LayerParameter

# V1 types whose V2 name is not the capitalised words of the enum.
_V1_NAMES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "DENSE_CRF": "DenseCRF",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "RELU6": "ReLU6",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}
_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}
_ANY = "any type"
# V0 field: {V0 type it belongs to: (message of the V1 layer, field there)}.
_SOURCES = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}
_V0_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {
        "conv": ("convolution_param", "num_output"),
        "innerproduct": ("inner_product_param", "num_output"),
    },
    "biasterm": {"conv": ("convolution_param", "bias_term"), "innerproduct": ("inner_product_param", "bias_term")},
    "weight_filler": {
        "conv": ("convolution_param", "weight_filler"),
        "innerproduct": ("inner_product_param", "weight_filler"),
    },
    "bias_filler": {
        "conv": ("convolution_param", "bias_filler"),
        "innerproduct": ("inner_product_param", "bias_filler"),
    },
    "pad": {"conv": ("convolution_param", "pad"), "pool": ("pooling_param", "pad")},
    "kernelsize": {"conv": ("convolution_param", "kernel_size"), "pool": ("pooling_param", "kernel_size")},
    "group": {"conv": ("convolution_param", "group")},
    "stride": {"conv": ("convolution_param", "stride"), "pool": ("pooling_param", "stride")},
    "pool": {"pool": ("pooling_param", "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {
        **{name: (param, "source") for name, param in _SOURCES.items()},
        "infogain_loss": ("infogain_loss_param", "source"),
    },
    "scale": {_ANY: ("transform_param", "scale")},
    "meanfile": {_ANY: ("transform_param", "mean_file")},
    "batchsize": {name: (param, "batch_size") for name, param in _SOURCES.items()},
    "cropsize": {_ANY: ("transform_param", "crop_size")},
    "mirror": {_ANY: ("transform_param", "mirror")},
    "rand_skip": {"data": ("data_param", "rand_skip"), "images": ("image_data_param", "rand_skip")},
    "shuffle_images": {"images": ("image_data_param", "shuffle")},
    "new_height": {"images": ("image_data_param", "new_height")},
    "new_width": {"images": ("image_data_param", "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": ("window_data_param", "fg_threshold")},
    "det_bg_threshold": {"window_data": ("window_data_param", "bg_threshold")},
    "det_fg_fraction": {"window_data": ("window_data_param", "fg_fraction")},
    "det_context_pad": {"window_data": ("window_data_param", "context_pad")},
    "det_crop_mode": {"window_data": ("window_data_param", "crop_mode")},
    "hdf5_output_param": {"hdf5_output": ("", "hdf5_output_param")},
}
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_TRANSFORM_PARAMS = {
    V1.DATA: "data_param",
    V1.IMAGE_DATA: "image_data_param",
    V1.WINDOW_DATA: "window_data_param",
}
_SOLVER_TYPES = {
    caffe_pb2.SolverParameter.SGD: "SGD",
    caffe_pb2.SolverParameter.NESTEROV: "Nesterov",
    caffe_pb2.SolverParameter.ADAGRAD: "AdaGrad",
    caffe_pb2.SolverParameter.RMSPROP: "RMSProp",
    caffe_pb2.SolverParameter.ADADELTA: "AdaDelta",
    caffe_pb2.SolverParameter.ADAM: "Adam",
}


def net_needs_upgrade(net: caffe_pb2.NetParameter) -> bool:
    """Returns whether `upgrade_net` would change anything."""
    return bool(net.layers or net.input) or any(_is_old_batch_norm(layer) for layer in net.layer)


def num_inserted_layers(net: caffe_pb2.NetParameter) -> int:
    """Returns how many layers `upgrade_net` puts in front, so that positions in the file can be found."""
    return int(bool(net.input) and bool(net.input_shape or net.input_dim))


def upgrade_net(
    net: caffe_pb2.NetParameter, problems: list[str] | None = None, locator: Locator | None = None
) -> caffe_pb2.NetParameter:
    """Returns a net in the latest format; `net` itself is returned if nothing in it is old; it is never changed.

    Args:
        net: A net of any format version.
        problems: Receives a line for everything that could not be carried over; the upgrade continues, as in the
            original.
        locator: The locator of the text that the net comes from, for positions in errors.

    Raises:
        PrototxtError: `layer` and `layers` are mixed, a V0 type is unknown, or input shapes are missing.
    """
    if not net_needs_upgrade(net):
        return net
    try:
        return _upgraded(net, [] if problems is None else problems)
    except PrototxtError as error:
        if locator is not None:
            error.position = _position(error, net, locator)
        raise


def _upgraded(net: caffe_pb2.NetParameter, problems: list[str]) -> caffe_pb2.NetParameter:
    result = caffe_pb2.NetParameter()
    result.CopyFrom(net)
    if any(layer.HasField("layer") for layer in result.layers):
        result = _upgrade_v0(result, problems)
    if any(_has_old_transformation(layer) for layer in result.layers):
        for layer in result.layers:
            _upgrade_transformation(layer)
    if result.layers:
        _upgrade_v1(result, problems)
    if result.input:
        _upgrade_input(result)
    for layer in result.layer:
        if _is_old_batch_norm(layer):
            layer.ClearField("param")
    return result


def _position(error: PrototxtError, net: caffe_pb2.NetParameter, locator: Locator) -> Position:
    """Returns where the layer named in an error is written; otherwise where the first field of an old format is."""
    for index, layer in enumerate(net.layers):
        if error.layer is not None and error.layer in (layer.name, layer.layer.name):
            return locator.position("layers", index)
    return locator.position("layers" if net.layers else "input")


def upgrade_solver(solver: caffe_pb2.SolverParameter, locator: Locator | None = None) -> caffe_pb2.SolverParameter:
    """Returns a solver whose type is a name: `solver` itself if it already is; it is never changed.

    Args:
        solver: Settings of any format version.
        locator: The locator of the text that they come from, for positions in errors.

    Raises:
        PrototxtError: The old and the new field are both given.
    """
    if not solver.HasField("solver_type"):
        return solver
    if solver.HasField("type"):
        raise PrototxtError(
            "solver_type and type are both given",
            code="upgrade.solver-type",
            position=locator.position("solver_type") if locator else None,
            hint="keep type",
        )
    result = caffe_pb2.SolverParameter()
    result.CopyFrom(solver)
    result.type = _SOLVER_TYPES[solver.solver_type]
    result.ClearField("solver_type")
    return result


def v1_type_name(kind: int) -> str:
    """Returns the type name of a V1 layer type: CONVOLUTION is "Convolution"."""
    name = V1.LayerType.Name(kind)
    return _V1_NAMES.get(name, "".join(word.capitalize() for word in name.split("_")))


def _upgrade_v0(net: caffe_pb2.NetParameter, problems: list[str]) -> caffe_pb2.NetParameter:
    result = caffe_pb2.NetParameter()
    if net.HasField("name"):
        result.name = net.name
    for layer in _without_padding_layers(net):
        _upgrade_v0_layer(layer, result.layers.add(), problems)
    result.input.extend(net.input)
    result.input_dim.extend(net.input_dim)
    if net.HasField("force_backward"):
        result.force_backward = net.force_backward
    return result


def _without_padding_layers(net: caffe_pb2.NetParameter) -> list[Any]:
    """V0 had separate padding layers; their pad moves to the convolution or pooling that follows."""
    makers: dict[str, Any] = dict.fromkeys(net.input)
    kept = []
    for original in net.layers:
        layer = caffe_pb2.V1LayerParameter()
        layer.CopyFrom(original)
        if layer.layer.type != "padding":
            kept.append(layer)
        for j, blob in enumerate(original.bottom):
            if blob not in makers:
                raise PrototxtError(
                    f'no earlier layer makes bottom "{blob}"',
                    code="upgrade.bottom",
                    layer=layer.layer.name or layer.name,
                )
            maker = makers[blob]
            if maker is not None and maker.layer.type == "padding":
                _check_padding(original, maker)
                layer.layer.pad = maker.layer.pad
                layer.bottom[j] = maker.bottom[0]
        for blob in original.top:
            makers[blob] = original
    return kept


def _check_padding(layer: Any, padding: Any) -> None:
    fits = layer.layer.type in ("conv", "pool") and len(layer.bottom) == len(padding.bottom) == len(padding.top) == 1
    if not fits:
        raise PrototxtError(
            "a padding layer must stand alone before a convolution or pooling",
            code="upgrade.padding",
            layer=layer.layer.name,
        )


def _upgrade_v0_layer(old: Any, new: Any, problems: list[str]) -> None:
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if not old.HasField("layer"):
        return
    v0 = old.layer
    if v0.HasField("name"):
        new.name = v0.name
    if v0.HasField("type"):
        if v0.type not in _V0_TYPES:
            raise PrototxtError(
                f'unknown V0 layer type "{v0.type}"',
                code="upgrade.type",
                layer=v0.name,
                hint=nearest(v0.type, _V0_TYPES),
            )
        new.type = V1.LayerType.Value(_V0_TYPES[v0.type])
    new.blobs.extend(v0.blobs)
    new.blobs_lr.extend(v0.blobs_lr)
    new.weight_decay.extend(v0.weight_decay)
    for name, places in _V0_FIELDS.items():
        if not v0.HasField(name):
            continue
        place = places.get(v0.type) or places.get(_ANY)
        if place is None:
            problems.append(f'layer "{v0.name}": parameter {name} is unknown for layer type {v0.type}')
            continue
        _set(getattr(new, place[0]) if place[0] else new, place[1], getattr(v0, name))


def _set(message: Any, name: str, value: Any) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type:
        getattr(message, name).CopyFrom(value)
    elif field.is_repeated:
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)


def _has_old_transformation(layer: Any) -> bool:
    name = _TRANSFORM_PARAMS.get(layer.type)
    return name is not None and any(getattr(layer, name).HasField(field) for field in _TRANSFORM_FIELDS)


def _upgrade_transformation(layer: Any) -> None:
    """Moves a data layer's fields to `transform_param`; both messages exist afterwards, even if empty."""
    name = _TRANSFORM_PARAMS.get(layer.type)
    if name is None:
        return
    param = getattr(layer, name)
    param.SetInParent()
    layer.transform_param.SetInParent()
    for field in _TRANSFORM_FIELDS:
        if param.HasField(field):
            setattr(layer.transform_param, field, getattr(param, field))
            param.ClearField(field)


def _upgrade_v1(net: caffe_pb2.NetParameter, problems: list[str]) -> None:
    if net.layer:
        raise PrototxtError(
            "layer and layers are mixed",
            code="upgrade.mixed",
            hint='write every layer as layer { type: "..." }, the current format',
        )
    for old in net.layers:
        _upgrade_v1_layer(old, net.layer.add(), problems)
    net.ClearField("layers")


def _upgrade_v1_layer(old: Any, new: caffe_pb2.LayerParameter, problems: list[str]) -> None:
    if old.HasField("type"):
        new.type = v1_type_name(old.type)
    if old.HasField("name"):
        new.name = old.name
    for name in ("bottom", "top", "include", "exclude", "blobs", "loss_weight"):
        getattr(new, name).extend(getattr(old, name))
    multipliers = {
        "name": old.param,
        "share_mode": old.blob_share_mode,
        "lr_mult": old.blobs_lr,
        "decay_mult": old.weight_decay,
    }
    for field, values in multipliers.items():
        for index, value in enumerate(values):
            while len(new.param) <= index:
                new.param.add()
            setattr(new.param[index], field, value)
    for field, value in old.ListFields():
        if field.message_type is None or field.is_repeated or field.name == "layer":
            continue
        if field.name not in new.DESCRIPTOR.fields_by_name:
            raise PrototxtError(
                f"{field.name} has no place in the current format",
                code="upgrade.field",
                layer=old.name,
                layer_type=new.type,
            )
        getattr(new, field.name).CopyFrom(value)
    if old.HasField("layer"):
        problems.append(f'layer "{old.name}": a V0 layer inside a V1 net is ignored')


def _upgrade_input(net: caffe_pb2.NetParameter) -> None:
    """`input` fields become one Input layer in front; without layers, as in old caffemodels, they are dropped."""
    if num_inserted_layers(net):
        given = len(net.input_shape) if net.input_shape else len(net.input_dim) / 4
        if given < len(net.input):
            raise PrototxtError(
                "inputs without a shape",
                code="upgrade.input",
                expected=f"input_shape, or four input_dim, for each of its {counted(len(net.input), 'input')}",
                found=f"{len(net.input_shape)} input_shape, {len(net.input_dim)} input_dim",
            )
        layer = caffe_pb2.LayerParameter(name="input", type="Input", top=list(net.input))
        for index in range(len(net.input)):
            shape = layer.input_param.shape.add()
            if net.input_shape:
                shape.CopyFrom(net.input_shape[index])
            else:
                shape.dim.extend(net.input_dim[4 * index : 4 * index + 4])
        net.layer.insert(0, layer)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _is_old_batch_norm(layer: caffe_pb2.LayerParameter) -> bool:
    return bool(layer.type == "BatchNorm" and len(layer.param) == 3)
