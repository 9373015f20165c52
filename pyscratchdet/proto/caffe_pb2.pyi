"""Types of caffe_pb2, generated from caffe.proto by scripts/compile_proto.py; do not edit."""

# ruff: noqa
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

def load(file: bytes) -> None: ...

Phase: EnumTypeWrapper
TRAIN: int
TEST: int
DatumTypeInfo: EnumTypeWrapper
DatumTypeInfo_DATUM: int
DatumTypeInfo_ANNOTATED_DATUM: int
Packing: EnumTypeWrapper
NCHW: int
NHWC: int
Type: EnumTypeWrapper
DOUBLE: int
FLOAT: int
FLOAT16: int
INT: int
UINT: int
BOOL: int

class BlobShape(Message):
    @property
    def dim(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class BlobProto(Message):
    num: int
    channels: int
    height: int
    width: int
    @property
    def data(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def diff(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def shape(self) -> BlobShape: ...
    @property
    def double_data(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def double_diff(self) -> RepeatedScalarFieldContainer[float]: ...
    raw_data_type: int
    raw_diff_type: int
    raw_data: bytes
    raw_diff: bytes
    def __init__(self, **fields: Any) -> None: ...

class BlobProtoVector(Message):
    @property
    def blobs(self) -> RepeatedCompositeFieldContainer[BlobProto]: ...
    def __init__(self, **fields: Any) -> None: ...

class Datum(Message):
    channels: int
    height: int
    width: int
    data: bytes
    label: int
    @property
    def float_data(self) -> RepeatedScalarFieldContainer[float]: ...
    encoded: bool
    record_id: int
    seg_label: bytes
    def __init__(self, **fields: Any) -> None: ...

class LabelMapItem(Message):
    name: str
    label: int
    display_name: str
    def __init__(self, **fields: Any) -> None: ...

class LabelMap(Message):
    @property
    def item(self) -> RepeatedCompositeFieldContainer[LabelMapItem]: ...
    def __init__(self, **fields: Any) -> None: ...

class NormalizedBBox(Message):
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: int
    difficult: bool
    score: float
    size: float
    def __init__(self, **fields: Any) -> None: ...

class Annotation(Message):
    instance_id: int
    @property
    def bbox(self) -> NormalizedBBox: ...
    @property
    def lanes(self) -> LaneInfo: ...
    @property
    def rbox(self) -> NormalizedRBox: ...
    @property
    def polygon(self) -> NormalizedPolygon: ...
    def __init__(self, **fields: Any) -> None: ...

class AnnotationGroup(Message):
    group_label: int
    @property
    def annotation(self) -> RepeatedCompositeFieldContainer[Annotation]: ...
    def __init__(self, **fields: Any) -> None: ...

class AnnotatedDatum(Message):
    AnnotationType: EnumTypeWrapper
    BBOX: int
    BBOXandSeg: int
    LANE: int
    @property
    def datum(self) -> Datum: ...
    type: int
    @property
    def annotation_group(self) -> RepeatedCompositeFieldContainer[AnnotationGroup]: ...
    record_id: int
    def __init__(self, **fields: Any) -> None: ...

class FillerParameter(Message):
    VarianceNorm: EnumTypeWrapper
    FAN_IN: int
    FAN_OUT: int
    AVERAGE: int
    type: str
    value: float
    min: float
    max: float
    mean: float
    std: float
    sparse: int
    variance_norm: int
    scale: float
    def __init__(self, **fields: Any) -> None: ...

class NetState(Message):
    phase: int
    level: int
    @property
    def stage(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(self, **fields: Any) -> None: ...

class NetStateRule(Message):
    phase: int
    min_level: int
    max_level: int
    @property
    def stage(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def not_stage(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(self, **fields: Any) -> None: ...

class NetParameter(Message):
    name: str
    @property
    def layers(self) -> RepeatedCompositeFieldContainer[V1LayerParameter]: ...
    @property
    def input(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def input_dim(self) -> RepeatedScalarFieldContainer[int]: ...
    force_backward: bool
    @property
    def state(self) -> NetState: ...
    debug_info: bool
    @property
    def input_shape(self) -> RepeatedCompositeFieldContainer[BlobShape]: ...
    @property
    def layer(self) -> RepeatedCompositeFieldContainer[LayerParameter]: ...
    engine: str
    @property
    def compile_net_state(self) -> CompileNetState: ...
    bn_stats_batch_size: int
    @property
    def multinode(self) -> MultinodeParameter: ...
    default_forward_type: int
    default_backward_type: int
    default_forward_math: int
    default_backward_math: int
    global_grad_scale: float
    global_grad_scale_adaptive: bool
    default_conv_algos_override: str
    reduce_buckets: int
    default_cudnn_math_override: int
    eltwise_mem_sharing: bool
    @property
    def mem_param(self) -> MemoryOptimizationParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class SolverParameter(Message):
    SnapshotFormat: EnumTypeWrapper
    HDF5: int
    BINARYPROTO: int
    SolverMode: EnumTypeWrapper
    CPU: int
    GPU: int
    SolverType: EnumTypeWrapper
    SGD: int
    NESTEROV: int
    ADAGRAD: int
    RMSPROP: int
    ADADELTA: int
    ADAM: int
    SAG: int
    train_net: str
    @property
    def test_net(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def test_iter(self) -> RepeatedScalarFieldContainer[int]: ...
    test_interval: int
    base_lr: float
    display: int
    max_iter: int
    lr_policy: str
    gamma: float
    power: float
    momentum: float
    weight_decay: float
    stepsize: int
    snapshot: int
    snapshot_prefix: str
    snapshot_diff: bool
    solver_mode: int
    device_id: int
    test_compute_loss: bool
    random_seed: int
    @property
    def train_net_param(self) -> NetParameter: ...
    @property
    def test_net_param(self) -> RepeatedCompositeFieldContainer[NetParameter]: ...
    debug_info: bool
    net: str
    @property
    def net_param(self) -> NetParameter: ...
    @property
    def train_state(self) -> NetState: ...
    @property
    def test_state(self) -> RepeatedCompositeFieldContainer[NetState]: ...
    snapshot_after_train: bool
    regularization_type: str
    solver_type: int
    delta: float
    test_initialization: bool
    average_loss: int
    @property
    def stepvalue(self) -> RepeatedScalarFieldContainer[int]: ...
    clip_gradients: float
    iter_size: int
    snapshot_format: int
    rms_decay: float
    momentum2: float
    type: str
    eval_type: str
    ap_version: str
    @property
    def plateau_winsize(self) -> RepeatedScalarFieldContainer[int]: ...
    show_per_class_result: bool
    layer_wise_reduce: bool
    @property
    def weights(self) -> RepeatedScalarFieldContainer[str]: ...
    disabled_update: bool
    engine: str
    warmup_iter: int
    warmup_start_lr: float
    local_lr_auto: bool
    local_gw_ratio: float
    test_offset: int
    @property
    def stagelr(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def stageiter(self) -> RepeatedScalarFieldContainer[int]: ...
    rampup_interval: int
    rampup_lr: float
    min_lr: float
    solver_data_type: int
    store_blobs_in_old_format: bool
    momentum_policy: str
    max_momentum: float
    momentum_power: float
    larc: bool
    larc_policy: str
    larc_eta: float
    weight_decay_policy: str
    weight_decay_power: float
    test_and_snapshot_last_epochs: int
    larc_turbo: bool
    max_weight_decay: float
    @property
    def later_values_of_device_id(self) -> RepeatedScalarFieldContainer[int]: ...
    richness: int
    @property
    def group_id(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class SolverState(Message):
    iter: int
    learned_net: str
    @property
    def history(self) -> RepeatedCompositeFieldContainer[BlobProto]: ...
    current_step: int
    minimum_loss: float
    iter_last_event: int
    def __init__(self, **fields: Any) -> None: ...

class ParamSpec(Message):
    DimCheckMode: EnumTypeWrapper
    STRICT: int
    PERMISSIVE: int
    name: str
    share_mode: int
    lr_mult: float
    decay_mult: float
    def __init__(self, **fields: Any) -> None: ...

class LayerParameter(Message):
    name: str
    type: str
    @property
    def bottom(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def top(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def loss_weight(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def param(self) -> RepeatedCompositeFieldContainer[ParamSpec]: ...
    @property
    def blobs(self) -> RepeatedCompositeFieldContainer[BlobProto]: ...
    @property
    def include(self) -> RepeatedCompositeFieldContainer[NetStateRule]: ...
    @property
    def exclude(self) -> RepeatedCompositeFieldContainer[NetStateRule]: ...
    phase: int
    @property
    def propagate_down(self) -> RepeatedScalarFieldContainer[bool]: ...
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def mvn_param(self) -> MVNParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def python_param(self) -> PythonParameter: ...
    @property
    def prelu_param(self) -> PReLUParameter: ...
    @property
    def spp_param(self) -> SPPParameter: ...
    @property
    def reshape_param(self) -> ReshapeParameter: ...
    @property
    def log_param(self) -> LogParameter: ...
    @property
    def flatten_param(self) -> FlattenParameter: ...
    @property
    def reduction_param(self) -> ReductionParameter: ...
    @property
    def embed_param(self) -> EmbedParameter: ...
    @property
    def tile_param(self) -> TileParameter: ...
    @property
    def batch_norm_param(self) -> BatchNormParameter: ...
    @property
    def elu_param(self) -> ELUParameter: ...
    @property
    def bias_param(self) -> BiasParameter: ...
    @property
    def scale_param(self) -> ScaleParameter: ...
    @property
    def input_param(self) -> InputParameter: ...
    @property
    def crop_param(self) -> CropParameter: ...
    @property
    def parameter_param(self) -> ParameterParameter: ...
    @property
    def recurrent_param(self) -> RecurrentParameter: ...
    @property
    def swish_param(self) -> SwishParameter: ...
    @property
    def clip_param(self) -> ClipParameter: ...
    @property
    def interp_param(self) -> InterpParameter: ...
    @property
    def upsample_param(self) -> UpsampleParameter: ...
    @property
    def shuffle_channel_param(self) -> ShuffleChannelParameter: ...
    @property
    def annotated_data_param(self) -> AnnotatedDataParameter: ...
    @property
    def multibox_loss_param(self) -> MultiBoxLossParameter: ...
    @property
    def permute_param(self) -> PermuteParameter: ...
    @property
    def prior_box_param(self) -> PriorBoxParameter: ...
    @property
    def detection_output_param(self) -> DetectionOutputParameter: ...
    @property
    def detection_evaluate_param(self) -> DetectionEvaluateParameter: ...
    @property
    def norm_param(self) -> NormalizeParameter: ...
    @property
    def video_data_param(self) -> VideoDataParameter: ...
    @property
    def roi_pooling_param(self) -> ROIPoolingParameter: ...
    @property
    def smooth_l1_loss_param(self) -> SmoothL1LossParameter: ...
    @property
    def box_annotator_ohem_param(self) -> BoxAnnotatorOHEMParameter: ...
    @property
    def psroi_pooling_param(self) -> PSROIPoolingParameter: ...
    engine: str
    @property
    def multinode(self) -> MultinodeLayerParameter: ...
    @property
    def mn_activation_param(self) -> MnActivationParameter: ...
    @property
    def spatial_dropout_param(self) -> SpatialDropoutParameter: ...
    @property
    def mn_grad_compress_param(self) -> MnParamGradCompressParameter: ...
    @property
    def quantization_param(self) -> QuantizationParameter: ...
    @property
    def reorg_param(self) -> ReorgParameter: ...
    @property
    def split_param(self) -> SplitParameter: ...
    @property
    def region_loss_param(self) -> RegionLossParameter: ...
    @property
    def eval_detection_param(self) -> EvalDetectionParameter: ...
    forward_type: int
    backward_type: int
    forward_math: int
    backward_math: int
    debug: bool
    cudnn_math_override: int
    @property
    def trt_param(self) -> TRTParameter: ...
    @property
    def detectnet_groundtruth_param(self) -> DetectNetGroundTruthParameter: ...
    @property
    def detectnet_augmentation_param(self) -> DetectNetAugmentationParameter: ...
    @property
    def bn_param(self) -> BNParameter: ...
    @property
    def dense_image_data_param(self) -> DenseImageDataParameter: ...
    @property
    def seg_accuracy_param(self) -> SegAccuracyParameter: ...
    @property
    def mat_write_param(self) -> MatWriteParameter: ...
    @property
    def dense_crf_param(self) -> DenseCRFParameter: ...
    @property
    def domain_transform_param(self) -> DomainTransformParameter: ...
    @property
    def adaptive_bias_channel_param(self) -> AdaptiveBiasChannelParameter: ...
    @property
    def bias_channel_param(self) -> BiasChannelParameter: ...
    @property
    def unique_label_param(self) -> UniqueLabelParameter: ...
    @property
    def mat_read_param(self) -> MatReadParameter: ...
    @property
    def relu6_param(self) -> ReLUParameter: ...
    @property
    def yolo_detection_output_param(self) -> YoloDetectionOutputParameter: ...
    @property
    def yolov3_detection_output_param(self) -> Yolov3DetectionOutputParameter: ...
    @property
    def yolov3_param(self) -> Yolov3Parameter: ...
    @property
    def yolo_seg_param(self) -> YoloSegParameter: ...
    @property
    def segmentation_evaluate_param(self) -> SegmentationEvaluateParameter: ...
    @property
    def bbox_reg_param(self) -> BBoxRegParameter: ...
    @property
    def detection_data_param(self) -> DetectionDataParameter: ...
    @property
    def eval_data_param(self) -> EvalDataParameter: ...
    @property
    def hard_mining_param(self) -> HardMiningParameter: ...
    @property
    def scale_route_param(self) -> ScaleRouteParameter: ...
    @property
    def decode_bbox_param(self) -> DecodeBBoxParameter: ...
    @property
    def detection_group_loss_param(self) -> DetectionGroupLossParameter: ...
    @property
    def detection_group_accuracy_param(self) -> DetectionGroupAccuracyParameter: ...
    @property
    def box_group_output_param(self) -> BoxGroupOutputParameter: ...
    @property
    def proposal_target_param(self) -> ProposalTargetParameter: ...
    @property
    def frcnn_output_param(self) -> FrcnnOutputParameter: ...
    @property
    def reverse_param(self) -> ReverseParameter: ...
    @property
    def ctc_loss_param(self) -> CTCLossParameter: ...
    @property
    def ctc_decoder_param(self) -> CTCDecoderParameter: ...
    @property
    def seg_data_param(self) -> SegDataParameter: ...
    @property
    def batch_reduction_param(self) -> BatchReductionParameter: ...
    @property
    def op_transform_param(self) -> OPTransformationParameter: ...
    @property
    def margin_inner_product_param(self) -> MarginInnerProductParameter: ...
    @property
    def proposal_param(self) -> ProposalParameter: ...
    @property
    def grn_param(self) -> GRNParameter: ...
    @property
    def region_yolo_param(self) -> RegionYoloParameter: ...
    @property
    def reorg_yolo_param(self) -> ReorgYoloParameter: ...
    @property
    def correlation_param(self) -> CorrelationParameter: ...
    @property
    def resample_param(self) -> ResampleParameter: ...
    @property
    def flow_warp_param(self) -> FlowWarpParameter: ...
    @property
    def accum_param(self) -> AccumParameter: ...
    @property
    def detection_loss_param(self) -> DetectionLossParameter: ...
    @property
    def detection_accuracy_param(self) -> DetectionAccuracyParameter: ...
    @property
    def box_output_param(self) -> BoxOutputParameter: ...
    @property
    def image_gt_data_param(self) -> ImageGtDataParameter: ...
    @property
    def focal_loss_param(self) -> FocalLossParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class TransformationParameter(Message):
    InterpolationAlgo: EnumTypeWrapper
    INTER_NEAREST: int
    INTER_LINEAR: int
    INTER_CUBIC: int
    INTER_AREA: int
    scale: float
    mirror: bool
    crop_size: int
    mean_file: str
    @property
    def mean_value(self) -> RepeatedScalarFieldContainer[float]: ...
    force_color: bool
    force_gray: bool
    @property
    def resize_param(self) -> ResizeParameter: ...
    @property
    def noise_param(self) -> NoiseParameter: ...
    @property
    def emit_constraint(self) -> EmitConstraint: ...
    crop_h: int
    crop_w: int
    @property
    def distort_param(self) -> DistortionParameter: ...
    @property
    def expand_param(self) -> ExpansionParameter: ...
    @property
    def random_resize_param(self) -> RandomResizeParameter: ...
    @property
    def random_aspect_ratio_param(self) -> RandomAspectRatioParameter: ...
    flow: bool
    bgr2rgb: bool
    pad: int
    use_gpu_transform: bool
    random_seed: int
    img_rand_resize_lower: int
    img_rand_resize_upper: int
    rand_resize_ratio_lower: float
    rand_resize_ratio_upper: float
    vertical_stretch_lower: float
    vertical_stretch_upper: float
    horizontal_stretch_lower: float
    horizontal_stretch_upper: float
    interpolation_algo_down: int
    interpolation_algo_up: int
    allow_upscale: bool
    forward_packing: int
    display: bool
    num_labels: int
    @property
    def later_values_of_resize_param(self) -> RepeatedCompositeFieldContainer[ResizeParameter]: ...
    @property
    def scale_factors(self) -> RepeatedScalarFieldContainer[float]: ...
    crop_width: int
    crop_height: int
    enable_classf_aug: bool
    min_scaling_factor: float
    max_scaling_factor: float
    max_rotation_angle: int
    contrast_brightness_adjustment: bool
    smooth_filtering: bool
    min_contrast: float
    max_contrast: float
    max_brightness_shift: int
    max_smooth: float
    max_color_shift: int
    min_side_min: int
    min_side_max: int
    min_side: int
    apply_probability: float
    debug_params: bool
    cvt_bgr2rgb: bool
    fix_crop: bool
    multi_scale: bool
    @property
    def scale_ratios(self) -> RepeatedScalarFieldContainer[float]: ...
    max_distort: int
    is_flow: bool
    more_fix_crop: bool
    stride: int
    upper_size: int
    upper_height: int
    upper_width: int
    original_image: bool
    hsv: bool
    gaussianblur: bool
    def __init__(self, **fields: Any) -> None: ...

class ResizeParameter(Message):
    Resize_mode: EnumTypeWrapper
    WARP: int
    FIT_SMALL_SIZE: int
    FIT_LARGE_SIZE_AND_PAD: int
    Pad_mode: EnumTypeWrapper
    CONSTANT: int
    MIRRORED: int
    REPEAT_NEAREST: int
    Interp_mode: EnumTypeWrapper
    LINEAR: int
    AREA: int
    NEAREST: int
    CUBIC: int
    LANCZOS4: int
    prob: float
    resize_mode: int
    height: int
    width: int
    pad_mode: int
    @property
    def pad_value(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def interp_mode(self) -> RepeatedScalarFieldContainer[int]: ...
    height_scale: int
    width_scale: int
    def __init__(self, **fields: Any) -> None: ...

class SaltPepperParameter(Message):
    fraction: float
    @property
    def value(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class NoiseParameter(Message):
    prob: float
    hist_eq: bool
    inverse: bool
    decolorize: bool
    gauss_blur: bool
    jpeg: float
    posterize: bool
    erode: bool
    saltpepper: bool
    @property
    def saltpepper_param(self) -> SaltPepperParameter: ...
    clahe: bool
    convert_to_hsv: bool
    convert_to_lab: bool
    def __init__(self, **fields: Any) -> None: ...

class DistortionParameter(Message):
    brightness_prob: float
    brightness_delta: float
    contrast_prob: float
    contrast_lower: float
    contrast_upper: float
    hue_prob: float
    hue_delta: float
    saturation_prob: float
    saturation_lower: float
    saturation_upper: float
    random_order_prob: float
    def __init__(self, **fields: Any) -> None: ...

class ExpansionParameter(Message):
    prob: float
    max_expand_ratio: float
    def __init__(self, **fields: Any) -> None: ...

class Sampler(Message):
    min_scale: float
    max_scale: float
    min_aspect_ratio: float
    max_aspect_ratio: float
    def __init__(self, **fields: Any) -> None: ...

class SampleConstraint(Message):
    min_jaccard_overlap: float
    max_jaccard_overlap: float
    min_sample_coverage: float
    max_sample_coverage: float
    min_object_coverage: float
    max_object_coverage: float
    def __init__(self, **fields: Any) -> None: ...

class BatchSampler(Message):
    use_original_image: bool
    @property
    def sampler(self) -> Sampler: ...
    @property
    def sample_constraint(self) -> SampleConstraint: ...
    max_sample: int
    max_trials: int
    def __init__(self, **fields: Any) -> None: ...

class EmitConstraint(Message):
    EmitType: EnumTypeWrapper
    CENTER: int
    MIN_OVERLAP: int
    emit_type: int
    emit_overlap: float
    def __init__(self, **fields: Any) -> None: ...

class AccuracyParameter(Message):
    top_k: int
    axis: int
    ignore_label: int
    def __init__(self, **fields: Any) -> None: ...

class AnnotatedDataParameter(Message):
    @property
    def batch_sampler(self) -> RepeatedCompositeFieldContainer[BatchSampler]: ...
    label_map_file: str
    anno_type: int
    yolo_data_type: int
    yolo_data_jitter: float
    train_diffcult: bool
    single_class: bool
    seg_scales: int
    seg_resize_width: int
    seg_resize_height: int
    difficult_label_warmup: bool
    def __init__(self, **fields: Any) -> None: ...

class ArgMaxParameter(Message):
    out_max_val: bool
    top_k: int
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class BatchNormParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    MKL2017: int
    MKLDNN: int
    CUDNN: int
    use_global_stats: bool
    moving_average_fraction: float
    eps: float
    engine: int
    use_weight_bias: bool
    bias_term: bool
    @property
    def filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    stats_batch_size: int
    relu: bool
    @property
    def scale_filler(self) -> FillerParameter: ...
    scale_bias: bool
    update_global_stats: bool
    def __init__(self, **fields: Any) -> None: ...

class BiasParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class ClipParameter(Message):
    min: float
    max: float
    def __init__(self, **fields: Any) -> None: ...

class ConcatParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    MKL2017: int
    MKLDNN: int
    concat_dim: int
    axis: int
    engine: int
    per_fla_fuse: bool
    def __init__(self, **fields: Any) -> None: ...

class ContrastiveLossParameter(Message):
    margin: float
    legacy_version: bool
    def __init__(self, **fields: Any) -> None: ...

class ConvolutionParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    MKL2017: int
    MKLDNN: int
    FusionType: EnumTypeWrapper
    NONE_FUSION: int
    SUM_FUSION: int
    CuDNNConvolutionAlgorithmSeeker: EnumTypeWrapper
    GET: int
    FINDEX: int
    num_output: int
    bias_term: bool
    @property
    def pad(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def kernel_size(self) -> RepeatedScalarFieldContainer[int]: ...
    group: int
    @property
    def stride(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    pad_h: int
    pad_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    engine: int
    axis: int
    force_nd_im2col: bool
    @property
    def dilation(self) -> RepeatedScalarFieldContainer[int]: ...
    relu: bool
    negative_slope: float
    conv_algorithm: str
    @property
    def coeff(self) -> RepeatedScalarFieldContainer[float]: ...
    fusion_type: int
    cudnn_convolution_algo_seeker: int
    conv_algos_override: str
    hole: int
    hole_h: int
    hole_w: int
    dilation_h: int
    dilation_w: int
    binary: int
    def __init__(self, **fields: Any) -> None: ...

class CropParameter(Message):
    axis: int
    @property
    def offset(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class DataParameter(Message):
    DB: EnumTypeWrapper
    LEVELDB: int
    LMDB: int
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    rand_skip: int
    backend: int
    force_encoded_color: bool
    prefetch: int
    shuffle: bool
    @property
    def side(self) -> RepeatedScalarFieldContainer[int]: ...
    threads: int
    parser_threads: int
    cache: bool
    precache: bool
    def __init__(self, **fields: Any) -> None: ...

class DetectionEvaluateParameter(Message):
    num_classes: int
    background_label_id: int
    overlap_threshold: float
    evaluate_difficult_gt: bool
    name_size_file: str
    @property
    def resize_param(self) -> ResizeParameter: ...
    use_polygon: bool
    def __init__(self, **fields: Any) -> None: ...

class DetectionOutputParameter(Message):
    num_classes: int
    share_location: bool
    background_label_id: int
    @property
    def nms_param(self) -> NonMaximumSuppressionParameter: ...
    @property
    def save_output_param(self) -> SaveOutputParameter: ...
    code_type: int
    keep_top_k: int
    variance_encoded_in_target: bool
    confidence_threshold: float
    visualize: bool
    visualize_threshold: float
    save_file: str
    objectness_score: float
    use_polygon: bool
    input_width: int
    input_height: int
    normalized: bool
    clip: bool
    def __init__(self, **fields: Any) -> None: ...

class DropoutParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    dropout_ratio: float
    scale_train: bool
    engine: int
    random_seed: int
    sample_weights_test: bool
    def __init__(self, **fields: Any) -> None: ...

class DummyDataParameter(Message):
    @property
    def data_filler(self) -> RepeatedCompositeFieldContainer[FillerParameter]: ...
    @property
    def num(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def channels(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def height(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def width(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def shape(self) -> RepeatedCompositeFieldContainer[BlobShape]: ...
    def __init__(self, **fields: Any) -> None: ...

class ELUParameter(Message):
    alpha: float
    def __init__(self, **fields: Any) -> None: ...

class EltwiseParameter(Message):
    EltwiseOp: EnumTypeWrapper
    PROD: int
    SUM: int
    MAX: int
    STOCHASTIC_SUM: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    MKL2017: int
    MKLDNN: int
    operation: int
    @property
    def coeff(self) -> RepeatedScalarFieldContainer[float]: ...
    stable_prod_grad: bool
    engine: int
    coeff_blob: bool
    def __init__(self, **fields: Any) -> None: ...

class EmbedParameter(Message):
    num_output: int
    input_dim: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class ExpParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class FlattenParameter(Message):
    axis: int
    end_axis: int
    def __init__(self, **fields: Any) -> None: ...

class HDF5DataParameter(Message):
    source: str
    batch_size: int
    shuffle: bool
    def __init__(self, **fields: Any) -> None: ...

class HDF5OutputParameter(Message):
    file_name: str
    def __init__(self, **fields: Any) -> None: ...

class HingeLossParameter(Message):
    Norm: EnumTypeWrapper
    L1: int
    L2: int
    norm: int
    def __init__(self, **fields: Any) -> None: ...

class ImageDataParameter(Message):
    LabelType: EnumTypeWrapper
    NONE: int
    IMAGE: int
    PIXEL: int
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    is_color: bool
    root_folder: str
    min_height: int
    min_width: int
    short_side: int
    threads: int
    cache: bool
    precache: bool
    dataset_share_per_node: float
    ignore_label: int
    label_type: int
    has_label: bool
    max_labels: int
    new_dim: int
    bicubic: bool
    def __init__(self, **fields: Any) -> None: ...

class InfogainLossParameter(Message):
    source: str
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class InnerProductParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    MKLDNN: int
    num_output: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    axis: int
    transpose: bool
    engine: int
    relu: bool
    negative_slope: float
    normalize: bool
    def __init__(self, **fields: Any) -> None: ...

class InputParameter(Message):
    @property
    def shape(self) -> RepeatedCompositeFieldContainer[BlobShape]: ...
    def __init__(self, **fields: Any) -> None: ...

class InterpParameter(Message):
    height: int
    width: int
    zoom_factor: int
    shrink_factor: int
    pad_beg: int
    pad_end: int
    use_blob_size: bool
    def __init__(self, **fields: Any) -> None: ...

class LRNParameter(Message):
    NormRegion: EnumTypeWrapper
    ACROSS_CHANNELS: int
    WITHIN_CHANNEL: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    MKL2017: int
    MKLDNN: int
    local_size: int
    alpha: float
    beta: float
    norm_region: int
    k: float
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class LogParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class LossParameter(Message):
    NormalizationMode: EnumTypeWrapper
    FULL: int
    VALID: int
    BATCH_SIZE: int
    NONE: int
    PRE_FIXED: int
    ignore_label: int
    normalize: bool
    normalization: int
    pre_fixed_normalizer: float
    label_smoothing: float
    weight_by_label_freqs: bool
    @property
    def class_weighting(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class MVNParameter(Message):
    normalize_variance: bool
    across_channels: bool
    eps: float
    def __init__(self, **fields: Any) -> None: ...

class MemoryDataParameter(Message):
    batch_size: int
    channels: int
    height: int
    width: int
    def __init__(self, **fields: Any) -> None: ...

class MultiBoxLossParameter(Message):
    LocLossType: EnumTypeWrapper
    L2: int
    SMOOTH_L1: int
    ConfLossType: EnumTypeWrapper
    SOFTMAX: int
    LOGISTIC: int
    MatchType: EnumTypeWrapper
    BIPARTITE: int
    PER_PREDICTION: int
    MiningType: EnumTypeWrapper
    NONE: int
    MAX_NEGATIVE: int
    HARD_EXAMPLE: int
    loc_loss_type: int
    conf_loss_type: int
    loc_weight: float
    num_classes: int
    share_location: bool
    match_type: int
    overlap_threshold: float
    use_prior_for_matching: bool
    background_label_id: int
    use_difficult_gt: bool
    do_neg_mining: bool
    neg_pos_ratio: float
    neg_overlap: float
    code_type: int
    encode_variance_in_target: bool
    map_object_to_agnostic: bool
    ignore_cross_boundary_bbox: bool
    bp_inside: bool
    mining_type: int
    @property
    def nms_param(self) -> NonMaximumSuppressionParameter: ...
    sample_size: int
    use_prior_for_nms: bool
    objectness_score: float
    ignore_difficult_gt: bool
    use_polygon: bool
    def __init__(self, **fields: Any) -> None: ...

class NonMaximumSuppressionParameter(Message):
    nms_threshold: float
    top_k: int
    eta: float
    def __init__(self, **fields: Any) -> None: ...

class NormalizeParameter(Message):
    across_spatial: bool
    @property
    def scale_filler(self) -> FillerParameter: ...
    channel_shared: bool
    eps: float
    def __init__(self, **fields: Any) -> None: ...

class PReLUParameter(Message):
    @property
    def filler(self) -> FillerParameter: ...
    channel_shared: bool
    def __init__(self, **fields: Any) -> None: ...

class ParameterParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    def __init__(self, **fields: Any) -> None: ...

class PermuteParameter(Message):
    @property
    def order(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class PoolingParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    MKL2017: int
    MKLDNN: int
    RoundMode: EnumTypeWrapper
    CEIL: int
    FLOOR: int
    pool: int
    kernel_size: int
    stride: int
    pad: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    engine: int
    global_pooling: bool
    round_mode: int
    ceil_mode: bool
    avg_include_pad: bool
    axis: int
    @property
    def pad_3d(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def kernel_size_3d(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def stride_3d(self) -> RepeatedScalarFieldContainer[int]: ...
    torch_pooling: bool
    def __init__(self, **fields: Any) -> None: ...

class PowerParameter(Message):
    power: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class PriorBoxParameter(Message):
    CodeType: EnumTypeWrapper
    CORNER: int
    CENTER_SIZE: int
    CORNER_SIZE: int
    @property
    def min_size(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def max_size(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def aspect_ratio(self) -> RepeatedScalarFieldContainer[float]: ...
    flip: bool
    clip: bool
    @property
    def variance(self) -> RepeatedScalarFieldContainer[float]: ...
    img_size: int
    img_h: int
    img_w: int
    step: float
    step_h: float
    step_w: float
    offset: float
    denser_prior_boxes: bool
    @property
    def width(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def height(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def fixed_size(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def fixed_ratio(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def density(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class PythonParameter(Message):
    module: str
    layer: str
    param_str: str
    share_in_parallel: bool
    def __init__(self, **fields: Any) -> None: ...

class ReLUParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    MKL2017: int
    MKLDNN: int
    negative_slope: float
    engine: int
    fuse: bool
    def __init__(self, **fields: Any) -> None: ...

class RecurrentParameter(Message):
    num_output: int
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    debug_info: bool
    expose_hidden: bool
    def __init__(self, **fields: Any) -> None: ...

class ReductionParameter(Message):
    ReductionOp: EnumTypeWrapper
    SUM: int
    ASUM: int
    SUMSQ: int
    MEAN: int
    TOPK: int
    operation: int
    axis: int
    coeff: float
    k: int
    def __init__(self, **fields: Any) -> None: ...

class ReshapeParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    axis: int
    num_axes: int
    pixelshuffler: int
    def __init__(self, **fields: Any) -> None: ...

class ROIPoolingParameter(Message):
    pooled_h: int
    pooled_w: int
    spatial_scale: float
    @property
    def pooled_size(self) -> RepeatedScalarFieldContainer[int]: ...
    pad_ratio: float
    def __init__(self, **fields: Any) -> None: ...

class SPPParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    pyramid_height: int
    pool: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class SaveOutputParameter(Message):
    output_directory: str
    output_name_prefix: str
    output_format: str
    label_map_file: str
    name_size_file: str
    num_test_image: int
    @property
    def resize_param(self) -> ResizeParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class ScaleParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    bias_term: bool
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class ShuffleChannelParameter(Message):
    group: int
    def __init__(self, **fields: Any) -> None: ...

class SigmoidParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class SliceParameter(Message):
    slice_dim: int
    @property
    def slice_point(self) -> RepeatedScalarFieldContainer[int]: ...
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class SmoothL1LossParameter(Message):
    sigma: float
    def __init__(self, **fields: Any) -> None: ...

class SoftmaxParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class SwishParameter(Message):
    beta: float
    def __init__(self, **fields: Any) -> None: ...

class TanHParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class ThresholdParameter(Message):
    threshold: float
    def __init__(self, **fields: Any) -> None: ...

class TileParameter(Message):
    axis: int
    tiles: int
    def __init__(self, **fields: Any) -> None: ...

class UpsampleParameter(Message):
    scale: int
    scale_h: int
    scale_w: int
    pad_out_h: bool
    pad_out_w: bool
    upsample_h: int
    upsample_w: int
    def __init__(self, **fields: Any) -> None: ...

class VideoDataParameter(Message):
    VideoType: EnumTypeWrapper
    WEBCAM: int
    VIDEO: int
    Modality: EnumTypeWrapper
    RGB: int
    FLOW: int
    video_type: int
    device_id: int
    video_file: str
    skip_frames: int
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    new_length: int
    num_segments: int
    modality: int
    name_pattern: str
    encoded: bool
    grayscale: bool
    def __init__(self, **fields: Any) -> None: ...

class WindowDataParameter(Message):
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    fg_threshold: float
    bg_threshold: float
    fg_fraction: float
    context_pad: int
    crop_mode: str
    cache_images: bool
    root_folder: str
    def __init__(self, **fields: Any) -> None: ...

class V1LayerParameter(Message):
    LayerType: EnumTypeWrapper
    NONE: int
    ABSVAL: int
    ACCURACY: int
    ARGMAX: int
    BNLL: int
    CONCAT: int
    CONTRASTIVE_LOSS: int
    CONVOLUTION: int
    DATA: int
    DECONVOLUTION: int
    DROPOUT: int
    DUMMY_DATA: int
    EUCLIDEAN_LOSS: int
    ELTWISE: int
    EXP: int
    FLATTEN: int
    HDF5_DATA: int
    HDF5_OUTPUT: int
    HINGE_LOSS: int
    IM2COL: int
    IMAGE_DATA: int
    INFOGAIN_LOSS: int
    INNER_PRODUCT: int
    LRN: int
    MEMORY_DATA: int
    MULTINOMIAL_LOGISTIC_LOSS: int
    MVN: int
    POOLING: int
    POWER: int
    RELU: int
    SIGMOID: int
    SIGMOID_CROSS_ENTROPY_LOSS: int
    SILENCE: int
    SOFTMAX: int
    SOFTMAX_LOSS: int
    SPLIT: int
    SLICE: int
    TANH: int
    WINDOW_DATA: int
    THRESHOLD: int
    IMAGE_SEG_DATA: int
    SEG_ACCURACY: int
    INTERP: int
    PADDING: int
    MAT_WRITE: int
    MAT_READ: int
    DENSE_CRF: int
    DOMINANT_CHANNEL: int
    BIAS_CHANNEL: int
    UNIQUE_LABEL: int
    CENSOR_LABEL: int
    ADAPTIVE_BIAS_CHANNEL: int
    CHANNEL_AGGREGATOR: int
    IGNORE_OVERLAY: int
    HISTOGRAM: int
    RELATIVE_ERROR: int
    GAIN_CHANNEL: int
    ONEHOT: int
    RELU6: int
    DimCheckMode: EnumTypeWrapper
    STRICT: int
    PERMISSIVE: int
    @property
    def layer(self) -> V0LayerParameter: ...
    @property
    def bottom(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def top(self) -> RepeatedScalarFieldContainer[str]: ...
    name: str
    type: int
    @property
    def blobs(self) -> RepeatedCompositeFieldContainer[BlobProto]: ...
    @property
    def blobs_lr(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def weight_decay(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    @property
    def include(self) -> RepeatedCompositeFieldContainer[NetStateRule]: ...
    @property
    def exclude(self) -> RepeatedCompositeFieldContainer[NetStateRule]: ...
    @property
    def mvn_param(self) -> MVNParameter: ...
    @property
    def loss_weight(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    @property
    def param(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def blob_share_mode(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def seg_accuracy_param(self) -> SegAccuracyParameter: ...
    @property
    def interp_param(self) -> InterpParameter: ...
    @property
    def softmaxloss_param(self) -> SoftmaxLossParameter: ...
    @property
    def padding_param(self) -> PaddingParameter: ...
    @property
    def mat_write_param(self) -> MatWriteParameter: ...
    @property
    def mat_read_param(self) -> MatReadParameter: ...
    @property
    def dense_crf_param(self) -> DenseCRFParameter: ...
    @property
    def dominant_channel_param(self) -> DominantChannelParameter: ...
    @property
    def bias_channel_param(self) -> BiasChannelParameter: ...
    @property
    def unique_label_param(self) -> UniqueLabelParameter: ...
    @property
    def censor_label_param(self) -> CensorLabelParameter: ...
    @property
    def adaptive_bias_channel_param(self) -> AdaptiveBiasChannelParameter: ...
    @property
    def channel_aggregator_param(self) -> ChannelAggregatorParameter: ...
    @property
    def ignore_overlay_param(self) -> IgnoreOverlayParameter: ...
    @property
    def histogram_param(self) -> HistogramParameter: ...
    @property
    def euclidean_loss_param(self) -> EuclideanLossParameter: ...
    @property
    def gain_channel_param(self) -> GainChannelParameter: ...
    @property
    def onehot_param(self) -> OneHotParameter: ...
    strict_dim: bool
    @property
    def relu6_param(self) -> ReLUParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class V0LayerParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    name: str
    type: str
    num_output: int
    biasterm: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    pad: int
    kernelsize: int
    group: int
    stride: int
    pool: int
    dropout_ratio: float
    local_size: int
    alpha: float
    beta: float
    source: str
    scale: float
    meanfile: str
    batchsize: int
    cropsize: int
    mirror: bool
    k: float
    @property
    def blobs(self) -> RepeatedCompositeFieldContainer[BlobProto]: ...
    @property
    def blobs_lr(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def weight_decay(self) -> RepeatedScalarFieldContainer[float]: ...
    rand_skip: int
    det_fg_threshold: float
    det_bg_threshold: float
    det_fg_fraction: float
    det_context_pad: int
    det_crop_mode: str
    new_num: int
    new_channels: int
    new_height: int
    new_width: int
    shuffle_images: bool
    concat_dim: int
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class BoxAnnotatorOHEMParameter(Message):
    roi_per_img: int
    ignore_label: int
    def __init__(self, **fields: Any) -> None: ...

class PSROIPoolingParameter(Message):
    spatial_scale: float
    output_dim: int
    group_size: int
    def __init__(self, **fields: Any) -> None: ...

class CompileNetState(Message):
    is_init: bool
    bn_scale_remove: bool
    bn_scale_merge: bool
    @property
    def kept_bn_layers(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def negative_conv_names(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def negative_conv_indexes(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class EvalDetectionParameter(Message):
    ScoreType: EnumTypeWrapper
    OBJ: int
    PROB: int
    MULTIPLY: int
    side: int
    num_class: int
    num_object: int
    threshold: float
    sqrt: bool
    constriant: bool
    score_type: int
    nms: float
    @property
    def biases(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class MnActivationParameter(Message):
    num_nodes_in: int
    num_nodes_out: int
    model_parts_in: int
    model_parts_out: int
    need_reduce: bool
    def __init__(self, **fields: Any) -> None: ...

class MnModelParallelParameter(Message):
    layer_from: str
    layer_to: str
    num_nodes: int
    model_parts: int
    def __init__(self, **fields: Any) -> None: ...

class MnParamGradCompressLayerTypeList(Message):
    @property
    def layer_type(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(self, **fields: Any) -> None: ...

class MnParamGradCompressParameter(Message):
    @property
    def param_grad_compress_enable(self) -> RepeatedScalarFieldContainer[bool]: ...
    def __init__(self, **fields: Any) -> None: ...

class MultiPhaseSolverParameter(Message):
    @property
    def params_pair(self) -> RepeatedCompositeFieldContainer[SolverBatchSizePair]: ...
    def __init__(self, **fields: Any) -> None: ...

class MultinodeLayerParameter(Message):
    num_nodes: int
    model_parts: int
    def __init__(self, **fields: Any) -> None: ...

class MultinodeParameter(Message):
    @property
    def model_parallel(self) -> RepeatedCompositeFieldContainer[MnModelParallelParameter]: ...
    @property
    def compress_layer_type_list(self) -> MnParamGradCompressLayerTypeList: ...
    def __init__(self, **fields: Any) -> None: ...

class QuantizationParameter(Message):
    Precision: EnumTypeWrapper
    DYNAMIC_FIXED_POINT: int
    MINIFLOAT: int
    INTEGER_POWER_OF_2_WEIGHTS: int
    Rounding: EnumTypeWrapper
    NEAREST: int
    STOCHASTIC: int
    precision: int
    rounding_scheme: int
    bw_layer_in: int
    bw_layer_out: int
    bw_params: int
    @property
    def fl_layer_in(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def fl_layer_out(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def fl_params(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def scale_in(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def scale_out(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def scale_params(self) -> RepeatedScalarFieldContainer[float]: ...
    is_negative_input: bool
    force_u8_input: bool
    mant_bits: int
    exp_bits: int
    exp_min: int
    exp_max: int
    def __init__(self, **fields: Any) -> None: ...

class RandomAspectRatioParameter(Message):
    min_area_ratio: float
    max_area_ratio: float
    aspect_ratio_change: float
    max_attempt: int
    @property
    def resize_param(self) -> ResizeParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class RandomResizeParameter(Message):
    min_size: int
    max_size: int
    @property
    def resize_param(self) -> ResizeParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class RegionLossParameter(Message):
    side: int
    num_class: int
    bias_match: int
    coords: int
    num: int
    softmax: int
    jitter: float
    rescore: int
    object_scale: float
    class_scale: float
    noobject_scale: float
    coord_scale: float
    absolute: int
    thresh: float
    random: int
    @property
    def biases(self) -> RepeatedScalarFieldContainer[float]: ...
    softmax_tree: str
    class_map: str
    def __init__(self, **fields: Any) -> None: ...

class ReorgParameter(Message):
    stride: int
    reverse: bool
    def __init__(self, **fields: Any) -> None: ...

class SolverBatchSizePair(Message):
    @property
    def solver_params(self) -> SolverParameter: ...
    batch_size: int
    def __init__(self, **fields: Any) -> None: ...

class SpatialDropoutParameter(Message):
    dropout_ratio: float
    def __init__(self, **fields: Any) -> None: ...

class SplitParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    MKL2017: int
    MKLDNN: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class C2TensorProto(Message):
    DataType: EnumTypeWrapper
    UNDEFINED: int
    FLOAT: int
    INT32: int
    BYTE: int
    STRING: int
    BOOL: int
    UINT8: int
    INT8: int
    UINT16: int
    INT16: int
    INT64: int
    FLOAT16: int
    DOUBLE: int
    @property
    def dims(self) -> RepeatedScalarFieldContainer[int]: ...
    data_type: int
    @property
    def float_data(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def int32_data(self) -> RepeatedScalarFieldContainer[int]: ...
    byte_data: bytes
    @property
    def string_data(self) -> RepeatedScalarFieldContainer[bytes]: ...
    name: str
    @property
    def double_data(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def int64_data(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class C2TensorProtos(Message):
    @property
    def protos(self) -> RepeatedCompositeFieldContainer[C2TensorProto]: ...
    def __init__(self, **fields: Any) -> None: ...

class DetectNetAugmentationParameter(Message):
    crop_prob: float
    shift_x: int
    shift_y: int
    scale_prob: float
    scale_min: float
    scale_max: float
    flip_prob: float
    rotation_prob: float
    max_rotate_degree: float
    hue_rotation_prob: float
    hue_rotation: float
    desaturation_prob: float
    desaturation_max: float
    @property
    def resize_param(self) -> ResizeParameter: ...
    @property
    def noise_param(self) -> NoiseParameter: ...
    @property
    def emit_constraint(self) -> EmitConstraint: ...
    @property
    def distort_param(self) -> DistortionParameter: ...
    @property
    def expand_param(self) -> ExpansionParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class DetectNetClassMapping(Message):
    src: int
    dst: int
    def __init__(self, **fields: Any) -> None: ...

class DetectNetGroundTruthParameter(Message):
    CoverageType: EnumTypeWrapper
    RECTANGULAR: int
    GridboxType: EnumTypeWrapper
    GRIDBOX_MAX: int
    GRIDBOX_MIN: int
    stride: int
    scale_cvg: float
    gridbox_type: int
    max_cvg_len: int
    min_cvg_len: int
    coverage_type: int
    image_size_x: int
    image_size_y: int
    obj_norm: bool
    crop_bboxes: bool
    @property
    def object_class(self) -> RepeatedCompositeFieldContainer[DetectNetClassMapping]: ...
    def __init__(self, **fields: Any) -> None: ...

class TRTParameter(Message):
    TRTMode: EnumTypeWrapper
    FP32: int
    FP16: int
    INT8: int
    trt_mode: int
    top_k: int
    deploy: str
    model: str
    @property
    def deploy_outputs(self) -> RepeatedScalarFieldContainer[str]: ...
    calibrator: str
    def __init__(self, **fields: Any) -> None: ...

class BNParameter(Message):
    BNMode: EnumTypeWrapper
    LEARN: int
    INFERENCE: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    @property
    def scale_filler(self) -> FillerParameter: ...
    @property
    def shift_filler(self) -> FillerParameter: ...
    bn_mode: int
    @property
    def slope_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    momentum: float
    eps: float
    frozen: bool
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class DenseImageDataParameter(Message):
    source: str
    batch_size: int
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    is_color: bool
    mean_file: str
    root_folder: str
    mirror: bool
    crop_width: int
    crop_height: int
    label_divide_factor: int
    def __init__(self, **fields: Any) -> None: ...

class AdaptiveBiasChannelParameter(Message):
    num_iter: int
    bg_portion: float
    fg_portion: float
    suppress_others: bool
    margin_others: float
    def __init__(self, **fields: Any) -> None: ...

class BiasChannelParameter(Message):
    LabelType: EnumTypeWrapper
    IMAGE: int
    PIXEL: int
    bg_bias: float
    fg_bias: float
    @property
    def ignore_label(self) -> RepeatedScalarFieldContainer[int]: ...
    label_type: int
    background_label: int
    def __init__(self, **fields: Any) -> None: ...

class DenseCRFParameter(Message):
    max_iter: int
    @property
    def pos_xy_std(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def pos_w(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def bi_xy_std(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def bi_rgb_std(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def bi_w(self) -> RepeatedScalarFieldContainer[float]: ...
    output_probability: bool
    def __init__(self, **fields: Any) -> None: ...

class DomainTransformParameter(Message):
    num_iter: int
    spatial_sigma: float
    range_sigma: float
    min_weight: float
    def __init__(self, **fields: Any) -> None: ...

class MatReadParameter(Message):
    prefix: str
    source: str
    strip: int
    batch_size: int
    def __init__(self, **fields: Any) -> None: ...

class MatWriteParameter(Message):
    prefix: str
    source: str
    strip: int
    period: int
    def __init__(self, **fields: Any) -> None: ...

class SegAccuracyParameter(Message):
    AccuracyMetric: EnumTypeWrapper
    PixelAccuracy: int
    ClassAccuracy: int
    PixelIOU: int
    metric: int
    @property
    def ignore_label(self) -> RepeatedScalarFieldContainer[int]: ...
    reset: bool
    def __init__(self, **fields: Any) -> None: ...

class UniqueLabelParameter(Message):
    max_labels: int
    @property
    def ignore_label(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def force_label(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class CensorLabelParameter(Message):
    ignore_label: int
    def __init__(self, **fields: Any) -> None: ...

class ChannelAggregatorParameter(Message):
    label_map_file: str
    def __init__(self, **fields: Any) -> None: ...

class DominantChannelParameter(Message):
    top_k: int
    def __init__(self, **fields: Any) -> None: ...

class EuclideanLossParameter(Message):
    Type: EnumTypeWrapper
    L2: int
    L2sqrt: int
    type: int
    def __init__(self, **fields: Any) -> None: ...

class GainChannelParameter(Message):
    num_output_nz: int
    drift: float
    stdev: float
    @property
    def gain_filler(self) -> FillerParameter: ...
    norm_mean: bool
    thresh: float
    def __init__(self, **fields: Any) -> None: ...

class HistogramParameter(Message):
    num_labels: int
    @property
    def ignore_label(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class IgnoreOverlayParameter(Message):
    ignore_label: int
    def __init__(self, **fields: Any) -> None: ...

class OneHotParameter(Message):
    num_labels: int
    def __init__(self, **fields: Any) -> None: ...

class PaddingParameter(Message):
    pad_beg: int
    pad_end: int
    def __init__(self, **fields: Any) -> None: ...

class SoftmaxLossParameter(Message):
    @property
    def ignore_label(self) -> RepeatedScalarFieldContainer[int]: ...
    weight_source: str
    def __init__(self, **fields: Any) -> None: ...

class LaneInfo(Message):
    x: float
    y: float
    id: int
    def __init__(self, **fields: Any) -> None: ...

class SegmentationEvaluateParameter(Message):
    num_classes: int
    threshold: float
    def __init__(self, **fields: Any) -> None: ...

class YoloDetectionOutputParameter(Message):
    side: int
    num_classes: int
    num_box: int
    coords: int
    confidence_threshold: float
    nms_threshold: float
    @property
    def biases(self) -> RepeatedScalarFieldContainer[float]: ...
    label_map_file: str
    def __init__(self, **fields: Any) -> None: ...

class YoloSegItem(Message):
    name: str
    label_id: int
    label: int
    r: int
    g: int
    b: int
    def __init__(self, **fields: Any) -> None: ...

class YoloSegLabel(Message):
    @property
    def item(self) -> RepeatedCompositeFieldContainer[YoloSegItem]: ...
    def __init__(self, **fields: Any) -> None: ...

class YoloSegParameter(Message):
    num_class: int
    object_scale: float
    class_scale: float
    use_logic_gradient: bool
    use_hardsigmoid: bool
    def __init__(self, **fields: Any) -> None: ...

class Yolov3DetectionOutputParameter(Message):
    num_classes: int
    num_box: int
    confidence_threshold: float
    nms_threshold: float
    @property
    def biases(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def anchors_scale(self) -> RepeatedScalarFieldContainer[int]: ...
    mask_group_num: int
    @property
    def mask(self) -> RepeatedScalarFieldContainer[int]: ...
    gaussian_box: bool
    def __init__(self, **fields: Any) -> None: ...

class Yolov3Parameter(Message):
    IOU_LOSS: EnumTypeWrapper
    IOU: int
    GIOU: int
    MSE: int
    DIOU: int
    CIOU: int
    side: int
    num_class: int
    num: int
    object_scale: float
    class_scale: float
    noobject_scale: float
    coord_scale: float
    thresh: float
    anchors_scale: int
    @property
    def biases(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def mask(self) -> RepeatedScalarFieldContainer[int]: ...
    use_logic_gradient: bool
    use_focal_loss: bool
    iou_loss: int
    iou_normalizer: float
    iou_thresh: float
    max_delta: float
    accumulate: bool
    label_smooth_eps: float
    def __init__(self, **fields: Any) -> None: ...

class BBoxRegParameter(Message):
    @property
    def bbox_mean(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def bbox_std(self) -> RepeatedScalarFieldContainer[float]: ...
    cls_aware: bool
    def __init__(self, **fields: Any) -> None: ...

class BoxGroupOutputParameter(Message):
    fg_thr: float
    iou_thr: float
    nms_type: str
    @property
    def box_group_param(self) -> RepeatedCompositeFieldContainer[BoxGroupParameter]: ...
    field_whr: float
    field_xyr: float
    max_nms_num: int
    max_post_nms_num: int
    min_size: float
    def __init__(self, **fields: Any) -> None: ...

class BoxGroupParameter(Message):
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    stride: int
    def __init__(self, **fields: Any) -> None: ...

class DecodeBBoxParameter(Message):
    gt_iou_thr: float
    def __init__(self, **fields: Any) -> None: ...

class DetectionDataParameter(Message):
    source: str
    scale: float
    batch_size: int
    coord_num: int
    @property
    def stride(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    fg_threshold: float
    ignore_fg_threshold: float
    resize_width: int
    resize_height: int
    crop_width: int
    crop_height: int
    min_scale: float
    max_scale: float
    multiscale_prob: float
    min_whaspect: float
    max_whaspect: float
    short_size: int
    long_size: int
    min_gt_width: float
    min_gt_height: float
    shuffle: str
    output_gt_boxes: bool
    cache_images: bool
    root_folder: str
    @property
    def distort_param(self) -> DistortionParameter: ...
    @property
    def resize_param(self) -> ResizeParameter: ...
    resize_ratio: float
    crop_short_size: int
    crop_long_size: int
    low_scale_ratio: float
    high_scale_ratio: float
    anchor_ignore_margin_ratio: float
    anchor_ignore_iou_thr: float
    pickup_iou_thr: float
    mix_group_size: int
    @property
    def template_ratio(self) -> RepeatedScalarFieldContainer[float]: ...
    def __init__(self, **fields: Any) -> None: ...

class DetectionGroupAccuracyParameter(Message):
    cls_num: int
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    stride: int
    field_whr: float
    field_xyr: float
    bg_threshold: float
    objectness: bool
    def __init__(self, **fields: Any) -> None: ...

class DetectionGroupLossParameter(Message):
    cls_num: int
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    stride: int
    field_whr: float
    field_xyr: float
    bg_threshold: float
    bg_multiple: int
    neg_mining_type: str
    neg_ranking_type: str
    min_num_neg: int
    objectness: bool
    batch_size: int
    pos_neg_weighted: bool
    bbox_loss_type: str
    def __init__(self, **fields: Any) -> None: ...

class EvalDataParameter(Message):
    source: str
    scale: float
    batch_size: int
    resize_width: int
    resize_height: int
    short_size: int
    long_size: int
    root_folder: str
    def __init__(self, **fields: Any) -> None: ...

class FrcnnOutputParameter(Message):
    conf_thr: float
    iou_thr: float
    nms_type: str
    max_det_num: int
    @property
    def save_output_param(self) -> SaveOutputParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class HardMiningParameter(Message):
    num_roi_per_image: int
    num_image: int
    def __init__(self, **fields: Any) -> None: ...

class ProposalTargetParameter(Message):
    cls_num: int
    batch_size: int
    fg_fraction: float
    num_img_per_batch: int
    fg_thr: float
    bg_thr_hg: float
    bg_thr_lw: float
    img_width: int
    img_height: int
    iou_weighted: bool
    bbox_thr_lw: float
    bbox_thr_hg: float
    pickup_discard: bool
    append_gtbox: bool
    def __init__(self, **fields: Any) -> None: ...

class ScaleRouteParameter(Message):
    low_scale: float
    high_scale: float
    def __init__(self, **fields: Any) -> None: ...

class CTCDecoderParameter(Message):
    blank_index: int
    ctc_merge_repeated: bool
    def __init__(self, **fields: Any) -> None: ...

class CTCLossParameter(Message):
    output_delay: int
    blank_index: int
    preprocess_collapse_repeated: bool
    ctc_merge_repeated: bool
    loss_calculation_t: int
    def __init__(self, **fields: Any) -> None: ...

class NormalizedPolygon(Message):
    x1: float
    y1: float
    x2: float
    y2: float
    x3: float
    y3: float
    x4: float
    y4: float
    difficult: bool
    score: float
    size: float
    def __init__(self, **fields: Any) -> None: ...

class NormalizedRBox(Message):
    x1: float
    y1: float
    x2: float
    y2: float
    h: float
    difficult: bool
    score: float
    size: float
    def __init__(self, **fields: Any) -> None: ...

class ReverseParameter(Message):
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class BatchReductionParameter(Message):
    @property
    def level(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def reduction_param(self) -> ReductionParameter: ...
    pos: bool
    def __init__(self, **fields: Any) -> None: ...

class MemoryOptimizationParameter(Message):
    optimize_train: bool
    optimize_test: bool
    @property
    def exclude_blob(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(self, **fields: Any) -> None: ...

class SegDataParameter(Message):
    source: str
    root_dir: str
    shuffle: bool
    balance: bool
    def __init__(self, **fields: Any) -> None: ...

class BinaryActivationParameter(Message):
    def __init__(self, **fields: Any) -> None: ...

class OPTransformationParameter(Message):
    stride: int
    flip_prob: float
    max_degree_rotations: str
    crop_size_x: int
    crop_size_y: int
    center_perterb_max: float
    center_swap_prob: float
    scale_prob: float
    scale_mins: str
    scale_maxs: str
    target_dist: float
    number_max_occlusions: str
    sigmas: str
    models: str
    sources: str
    probabilities: str
    source_background: str
    prob_only_background: float
    media_directory: str
    normalization: int
    add_distance: bool
    input_type: str
    frame_size: int
    taf_topology: int
    def __init__(self, **fields: Any) -> None: ...

class MarginInnerProductParameter(Message):
    MarginType: EnumTypeWrapper
    SINGLE: int
    DOUBLE: int
    TRIPLE: int
    QUADRUPLE: int
    num_output: int
    type: int
    @property
    def weight_filler(self) -> FillerParameter: ...
    axis: int
    base: float
    gamma: float
    power: float
    iteration: int
    lambda_min: float
    def __init__(self, **fields: Any) -> None: ...

class AccumParameter(Message):
    top_height: int
    top_width: int
    size_divisible_by: int
    have_reference: bool
    def __init__(self, **fields: Any) -> None: ...

class CorrelationParameter(Message):
    CorrelationType: EnumTypeWrapper
    MULTIPLY: int
    SUBTRACT: int
    pad: int
    kernel_size: int
    max_displacement: int
    stride_1: int
    stride_2: int
    do_abs: bool
    single_direction: int
    correlation_type: int
    def __init__(self, **fields: Any) -> None: ...

class FlowWarpParameter(Message):
    FillParameter: EnumTypeWrapper
    ZERO: int
    NOT_A_NUMBER: int
    fill_value: int
    def __init__(self, **fields: Any) -> None: ...

class GRNParameter(Message):
    bias: float
    def __init__(self, **fields: Any) -> None: ...

class ProposalParameter(Message):
    feat_stride: int
    base_size: int
    min_size: int
    @property
    def ratio(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def scale(self) -> RepeatedScalarFieldContainer[float]: ...
    pre_nms_topn: int
    post_nms_topn: int
    nms_thresh: float
    def __init__(self, **fields: Any) -> None: ...

class RegionYoloParameter(Message):
    coords: int
    classes: int
    num: int
    do_softmax: bool
    @property
    def anchors(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def mask(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(self, **fields: Any) -> None: ...

class ReorgYoloParameter(Message):
    stride: int
    def __init__(self, **fields: Any) -> None: ...

class ResampleParameter(Message):
    ResampleType: EnumTypeWrapper
    NEAREST: int
    LINEAR: int
    CUBIC: int
    AREA: int
    width: int
    height: int
    type: int
    antialias: bool
    factor: float
    def __init__(self, **fields: Any) -> None: ...

class BoxOutputParameter(Message):
    fg_thr: float
    iou_thr: float
    nms_type: str
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def downsample_rate(self) -> RepeatedScalarFieldContainer[int]: ...
    field_whr: float
    field_xyr: float
    max_nms_num: int
    max_post_nms_num: int
    min_size: float
    def __init__(self, **fields: Any) -> None: ...

class DetectionAccuracyParameter(Message):
    cls_num: int
    coord_num: int
    field_h: int
    field_w: int
    downsample_rate: int
    top_k: int
    field_whr: float
    field_xyr: float
    bg_threshold: float
    objectness: bool
    def __init__(self, **fields: Any) -> None: ...

class DetectionLossParameter(Message):
    cls_num: int
    coord_num: int
    field_h: int
    field_w: int
    downsample_rate: int
    bb_smooth: bool
    field_whr: float
    field_xyr: float
    bg_threshold: float
    bg_multiple: int
    sample_mode: str
    objectness: bool
    iou_weighted: bool
    pos_neg_weighted: bool
    def __init__(self, **fields: Any) -> None: ...

class ImageGtDataParameter(Message):
    source: str
    scale: float
    mean_file: str
    batch_size: int
    mirror: bool
    @property
    def downsample_rate(self) -> RepeatedScalarFieldContainer[int]: ...
    coord_num: int
    @property
    def field_h(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def field_w(self) -> RepeatedScalarFieldContainer[int]: ...
    fg_threshold: float
    resize_width: int
    resize_height: int
    crop_width: int
    crop_height: int
    do_multiple_scale: bool
    min_scale: int
    max_scale: int
    min_whaspect: float
    max_whaspect: float
    min_gt_width: float
    min_gt_height: float
    shuffle: bool
    output_gt_boxes: bool
    fg_img_multiple: int
    cache_images: bool
    root_folder: str
    def __init__(self, **fields: Any) -> None: ...

class FocalLossParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    axis: int
    alpha: float
    gamma: float
    def __init__(self, **fields: Any) -> None: ...
