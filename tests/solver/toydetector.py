"""A small SSD, its databases of noise with boxes, and its solver."""

import cv2
import numpy as np

from pyscratchdet.data.database import new_database
from pyscratchdet.proto import caffe_pb2

HEADS = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param {
  num_output: 6 kernel_size: 8 stride: 8 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "loc" type: "Convolution" bottom: "conv1" top: "loc" convolution_param {
  num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "conv1" top: "conf" convolution_param {
  num_output: CONFS kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_perm" top: "conf_flat" }
layer { name: "priors" type: "PriorBox" bottom: "conv1" bottom: "data" top: "priors" prior_box_param {
  min_size: 8 max_size: 14 clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
"""
DATA = """
layer { name: "data" type: "AnnotatedData" top: "data" top: "label"
  transform_param { mean_value: 127 scale: 0.01 resize_param { prob: 1 resize_mode: WARP height: 24 width: 32
    interp_mode: LINEAR } emit_constraint { emit_type: CENTER } }
  data_param { source: "FOLDER/KIND_lmdb" batch_size: 4 backend: LMDB } }
"""
LOSS = """
layer { name: "mbox_loss" type: "MultiBoxLoss" bottom: "loc_flat" bottom: "conf_flat" bottom: "priors" bottom: "label"
  top: "mbox_loss" multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX num_classes: CLASSES
    overlap_threshold: 0.5 code_type: CENTER_SIZE neg_pos_ratio: 3 neg_overlap: 0.5 mining_type: MAX_NEGATIVE } }
"""
DETECTIONS = """
layer { name: "conf_reshape" type: "Reshape" bottom: "conf_flat" top: "conf_reshape"
  reshape_param { shape { dim: 0 dim: -1 dim: CLASSES } } }
layer { name: "conf_softmax" type: "Softmax" bottom: "conf_reshape" top: "conf_softmax" softmax_param { axis: 2 } }
layer { name: "conf_scores" type: "Flatten" bottom: "conf_softmax" top: "conf_scores" flatten_param { axis: 1 } }
layer { name: "detection_out" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_scores" bottom: "priors"
  top: "detection_out" detection_output_param { num_classes: CLASSES code_type: CENTER_SIZE keep_top_k: 20
    nms_param { nms_threshold: 0.45 top_k: 40 } SAVE } }
layer { name: "detection_eval" type: "DetectionEvaluate" bottom: "detection_out" bottom: "label" top: "detection_eval"
  detection_evaluate_param { num_classes: CLASSES overlap_threshold: 0.5 SIZES } }
"""
SOLVER = """
train_net: "FOLDER/train.prototxt" test_net: "FOLDER/test.prototxt" test_iter: PASSES test_interval: 10
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" max_iter: 20 display: 10 random_seed: 3
snapshot_prefix: "FOLDER/out/toy" solver_mode: CPU eval_type: "detection"
"""
SQUARE = (1, 0.2, 0.2, 0.6, 0.7)


def write_database(folder, objects, seed=0):
    """Writes a database of one picture of noise for each list of objects (label, xmin, ymin, xmax, ymax)."""
    random = np.random.default_rng(seed)
    with new_database(folder) as writer:
        for number, boxes in enumerate(objects):
            record = caffe_pb2.AnnotatedDatum(type=caffe_pb2.AnnotatedDatum.BBOX)
            _, data = cv2.imencode(".png", random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            record.datum.data, record.datum.encoded = data.tobytes(), True
            record.datum.channels, record.datum.height, record.datum.width, record.datum.label = 3, 24, 32, -1
            for label, *corners in boxes:
                group = next((one for one in record.annotation_group if one.group_label == label), None)
                group = group or record.annotation_group.add(group_label=label)
                box = group.annotation.add(instance_id=len(group.annotation)).bbox
                box.xmin, box.ymin, box.xmax, box.ymax = corners
            writer.put(f"{number:08d}_{number}.png", record.SerializeToString())


def write_detector(folder, train=((SQUARE,),) * 6, test=((SQUARE,),) * 5, classes=2, passes=2, sizes="", save=""):
    """Writes databases, nets and solver into a folder; returns the solver's path."""
    write_database(folder / "train_lmdb", train, seed=1)
    write_database(folder / "test_lmdb", test, seed=2)
    values = {"SIZES": sizes, "SAVE": save, "FOLDER": str(folder), "PASSES": str(passes)}
    values |= {"CLASSES": str(classes), "CONFS": str(2 * classes)}
    for name, text in {
        "train.prototxt": DATA.replace("KIND", "train") + HEADS + LOSS,
        "test.prototxt": DATA.replace("KIND", "test") + HEADS + DETECTIONS,
        "solver.prototxt": SOLVER,
    }.items():
        for key, value in values.items():
            text = text.replace(key, value)
        (folder / name).write_text(text)
    return str(folder / "solver.prototxt")
