"""What other Caffes have and this schema lacks, from the caffe.proto and the layers in their public repositories.

A field of theirs that only affects speed is passed over. One that changes results is refused by name, since without it
the net would silently be a different one. A field in neither table is refused unless the user allows unknown fields.
"""

from __future__ import annotations

from typing import NamedTuple

_CASCADE, _CPM, _FASTER = "zhaoweicai/cascade-rcnn", "CMU-Perceptual-Computing-Lab/openpose_caffe_train", "Faster R-CNN"
_INTEL, _NVIDIA, _PSPNET = "intel/caffe", "NVIDIA/caffe", "hszhao/PSPNet"
_SEGNET, _TSN, _YOLO = "alexgkendall/caffe-segnet", "yjxiong/caffe", "eric612/MobileNet-YOLO"
_VINO = "FaceBoxes and OpenVINO"


class ForkField(NamedTuple):
    """A field that changes results.

    Attributes:
        origin: The Caffe that defines it.
        neutral: The value that leaves results unchanged; None if there is no such value.
    """

    origin: str
    neutral: str | None = None


# Fields that choose an implementation, a precision, a memory layout or a number of threads; `engine` is one in every
# message.
_HINTS = {
    "LayerParameter": "forward_type backward_type forward_math backward_math cudnn_math_override debug multinode "
    "mn_grad_compress_param quantization_param split_param",
    "NetParameter": "default_forward_type default_backward_type default_forward_math default_backward_math "
    "default_conv_algos_override default_cudnn_math_override eltwise_mem_sharing reduce_buckets global_grad_scale "
    "global_grad_scale_adaptive multinode compile_net_state mem_param",
    "SolverParameter": "group_id richness solver_data_type store_blobs_in_old_format",
    "ConvolutionParameter": "cudnn_convolution_algo_seeker conv_algos_override conv_algorithm",
    "ConcatParameter": "per_fla_fuse",
    "DataParameter": "cache precache threads parser_threads",
    "ImageDataParameter": "cache precache threads dataset_share_per_node",
    "ReLUParameter": "fuse",
    "TransformationParameter": "use_gpu_transform display debug_params forward_packing",
}

# {message: {field: its origin and neutral value}}.
_CHANGES: dict[str, dict[str, ForkField]] = {
    "AnnotatedDataParameter": dict.fromkeys(
        (
            "difficult_label_warmup",
            "seg_resize_height",
            "seg_resize_width",
            "seg_scales",
            "single_class",
            "train_diffcult",
            "yolo_data_jitter",
            "yolo_data_type",
        ),
        ForkField(_YOLO),
    ),
    "BatchNormParameter": {
        "bias_filler": ForkField(f"{_NVIDIA} and {_INTEL}"),
        "bias_term": ForkField(_INTEL),
        "filler": ForkField(_INTEL),
        "relu": ForkField(_INTEL, "false"),
        "scale_bias": ForkField(_NVIDIA, "false"),
        "scale_filler": ForkField(_NVIDIA),
        "stats_batch_size": ForkField(_INTEL, "0"),
        "update_global_stats": ForkField(_PSPNET, "false"),
        "use_weight_bias": ForkField(_INTEL),
    },
    "ConvolutionParameter": {
        "binary": ForkField(_CPM, "0"),
        "coeff": ForkField(_INTEL),
        "dilation_h": ForkField(_TSN),
        "dilation_w": ForkField(_TSN),
        "fusion_type": ForkField(_INTEL, "NONE_FUSION"),
        "negative_slope": ForkField(_INTEL, "0"),
        "relu": ForkField(_INTEL, "false"),
    },
    "DataParameter": {"shuffle": ForkField(f"{_NVIDIA} and {_INTEL}", "false")},
    "DropoutParameter": {
        "random_seed": ForkField(_NVIDIA, "-1"),
        "sample_weights_test": ForkField(_SEGNET, "false"),
        "scale_train": ForkField(_FASTER, "true"),
    },
    "ELUParameter": {"lambda": ForkField(f"{_NVIDIA} and {_CASCADE}", "1")},
    "EltwiseParameter": {"coeff_blob": ForkField("some forks", "false")},
    "FillerParameter": {"scale": ForkField(_INTEL, "1")},
    "ImageDataParameter": {
        "ignore_label": ForkField(_PSPNET),
        "label_type": ForkField(_PSPNET),
        "min_height": ForkField(_INTEL, "0"),
        "min_width": ForkField(_INTEL, "0"),
        "short_side": ForkField(_NVIDIA, "0"),
    },
    "InfogainLossParameter": {"axis": ForkField("BVLC/caffe after 1.0", "1")},
    "InnerProductParameter": {
        "negative_slope": ForkField(_INTEL, "0"),
        "normalize": ForkField("SphereFace and similar forks", "false"),
        "relu": ForkField(_INTEL, "false"),
    },
    "LossParameter": {
        "class_weighting": ForkField(_SEGNET),
        "label_smoothing": ForkField(f"{_NVIDIA} and {_INTEL}", "0"),
        "pre_fixed_normalizer": ForkField(f"R-FCN and {_INTEL}", "1"),
        "weight_by_label_freqs": ForkField(_SEGNET, "false"),
    },
    "MultiBoxLossParameter": {"ignore_difficult_gt": ForkField(_NVIDIA, "false")},
    "NetParameter": {"bn_stats_batch_size": ForkField(_INTEL, "0")},
    "PoolingParameter": {
        "avg_include_pad": ForkField(_INTEL, "true"),
        "axis": ForkField(_INTEL, "1"),
        "kernel_size_3d": ForkField(_INTEL),
        "pad_3d": ForkField(_INTEL),
        "stride_3d": ForkField(_INTEL),
        "torch_pooling": ForkField(_NVIDIA, "false"),
    },
    "PriorBoxParameter": dict.fromkeys(("density", "fixed_ratio", "fixed_size"), ForkField(_VINO)),
    "ROIPoolingParameter": {"pad_ratio": ForkField(_CASCADE, "0"), "pooled_size": ForkField(_INTEL)},
    "ReductionParameter": {"k": ForkField(_TSN, "1")},
    "ReshapeParameter": {"pixelshuffler": ForkField(_INTEL, "1")},
    "SolverParameter": {
        "disabled_update": ForkField(_INTEL, "false"),
        "larc": ForkField(_NVIDIA, "false"),
        "local_lr_auto": ForkField(_INTEL, "false"),
        "max_momentum": ForkField(_NVIDIA),
        "max_weight_decay": ForkField(_NVIDIA, "0"),
        "min_lr": ForkField(_NVIDIA, "0"),
        "momentum_policy": ForkField(_NVIDIA, "fixed"),
        "rampup_interval": ForkField(_NVIDIA, "0"),
        "rampup_lr": ForkField(_NVIDIA, "0"),
        "stageiter": ForkField(f"{_INTEL} and {_YOLO}"),
        "stagelr": ForkField(f"{_INTEL} and {_YOLO}"),
        "test_offset": ForkField(_INTEL, "0"),
        "warmup_iter": ForkField(_INTEL, "0"),
        "warmup_start_lr": ForkField(_INTEL, "0"),
        "weight_decay_policy": ForkField(_NVIDIA, "fixed"),
    },
    "TransformationParameter": {
        "bgr2rgb": ForkField(_INTEL, "false"),
        "contrast_brightness_adjustment": ForkField(_YOLO, "false"),
        "crop_height": ForkField(_PSPNET, "0"),
        "crop_width": ForkField(_PSPNET, "0"),
        "cvt_bgr2rgb": ForkField(_YOLO, "false"),
        "enable_classf_aug": ForkField(_YOLO, "false"),
        "fix_crop": ForkField(_TSN, "false"),
        "flow": ForkField(_INTEL, "false"),
        "horizontal_stretch_lower": ForkField(_NVIDIA, "1"),
        "horizontal_stretch_upper": ForkField(_NVIDIA, "1"),
        "img_rand_resize_lower": ForkField(_NVIDIA, "0"),
        "img_rand_resize_upper": ForkField(_NVIDIA, "0"),
        "is_flow": ForkField(_TSN, "false"),
        "min_side": ForkField(_YOLO, "0"),
        "min_side_max": ForkField(_YOLO, "0"),
        "min_side_min": ForkField(_YOLO, "0"),
        "more_fix_crop": ForkField(_TSN, "false"),
        "multi_scale": ForkField(_TSN, "false"),
        "original_image": ForkField(_TSN, "false"),
        "pad": ForkField(_INTEL, "0"),
        "rand_resize_ratio_lower": ForkField(_NVIDIA, "0"),
        "rand_resize_ratio_upper": ForkField(_NVIDIA, "0"),
        "random_aspect_ratio_param": ForkField(_INTEL),
        "random_resize_param": ForkField(_INTEL),
        "random_seed": ForkField(_NVIDIA, "-1"),
        "scale_factors": ForkField(_PSPNET),
        "scale_ratios": ForkField(_TSN),
        "smooth_filtering": ForkField(_YOLO, "false"),
        "stride": ForkField(_TSN, "1"),
        "upper_height": ForkField(_TSN),
        "upper_size": ForkField(_TSN),
        "upper_width": ForkField(_TSN),
        "vertical_stretch_lower": ForkField(_NVIDIA, "1"),
        "vertical_stretch_upper": ForkField(_NVIDIA, "1"),
    },
}

# Parameters of layer types that are unknown here: none is a misspelt name of a known field.
_LAYER_FIELDS = {
    _CASCADE: "bbox_reg_param box_group_output_param decode_bbox_param detection_data_param "
    "detection_group_accuracy_param detection_group_loss_param eval_data_param frcnn_output_param hard_mining_param "
    "proposal_target_param psroi_pooling_param roi_align_param scale_route_param",
    _CPM: "op_transform_param",
    _INTEL: "box_annotator_ohem_param eval_detection_param mn_activation_param spatial_dropout_param",
    _NVIDIA: "detectnet_augmentation_param detectnet_groundtruth_param trt_param",
    _PSPNET: "adaptive_bias_channel_param bias_channel_param bn_param dense_crf_param domain_transform_param "
    "mat_read_param mat_write_param seg_accuracy_param unique_label_param",
    _SEGNET: "dense_image_data_param",
    _TSN: "batch_reduction_param seg_data_param",
    _YOLO: "region_loss_param relu6_param reorg_param segmentation_evaluate_param yolo_detection_output_param "
    "yolo_seg_param yolov3_detection_output_param yolov3_param",
}

_LAYER_TYPES = {
    _CASCADE: "BboxAccuracy BoxGroupOutput DecodeBBox DetectionData DetectionGroupAccuracy DetectionGroupLoss EvalData "
    "FrcnnOutput HardMining PSROIPooling ProposalTarget ROIAlign ROIPooling ScaleRoute",
    _CPM: "OPData OPVideo",
    _INTEL: "BoxAnnotatorOHEM BoxData EvalDetection MKLBatchNorm MnActivation SmoothL1LossOHEM SoftmaxWithLossOHEM "
    "SpatialDropout",
    _NVIDIA: "DetectNetTransformation L1Loss TRT",
    _PSPNET: "AdaptiveBiasChannel BN BiasChannel DenseCRF DomainTransform DomainTransformForwardOnly ImageSegData "
    "MatRead MatWrite SegAccuracy SpatialProduct UniqueLabel",
    _SEGNET: "DenseImageData",
    _TSN: "BatchReduction Gather Scatter SegData SyncBN",
    _YOLO: "AssistedExcitation GaussianYolov3 LaneData ReLU6 RegionLoss Reorg SegmentationEvaluate YoloDetectionOutput "
    "YoloSeg Yolov3 Yolov3DetectionOutput",
    "BVLC/caffe after 1.0": "Clip",
}


def is_hint(message: str, field: str) -> bool:
    """Returns whether a fork's field of a message only chooses an implementation."""
    return field == "engine" or field in _HINTS.get(message, "").split()


def result_changing(message: str, field: str) -> ForkField | None:
    """Returns what is known about a fork's field that changes results; None if it is not known to change any."""
    return _CHANGES.get(message, {}).get(field)


def field_origin(message: str, field: str) -> str | None:
    """Returns which fork has a field, if that is known."""
    known = result_changing(message, field)
    if known or message != "LayerParameter":
        return known.origin if known else None
    return _origin(field, _LAYER_FIELDS)


def type_origin(layer_type: str) -> str | None:
    """Returns which fork has a layer type, if that is known."""
    return _origin(layer_type, _LAYER_TYPES)


def _origin(name: str, names: dict[str, str]) -> str | None:
    return next((fork for fork, known in names.items() if name in known.split()), None)
