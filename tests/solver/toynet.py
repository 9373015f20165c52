"""A small net whose data and dropout are random, and its solver."""

TRAIN = """
name: "toy"
layer { name: "x" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 6 dim: 3 } shape { dim: 6 dim: 2 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "x" top: "fc1" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "drop1" type: "Dropout" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "y" top: "loss" }
"""

SOLVER = """
net: "{folder}/train.prototxt"
base_lr: 0.05 momentum: 0.9 weight_decay: 0.0005 lr_policy: "multistep" gamma: 0.1 stepvalue: 15
max_iter: 20 snapshot: 7 snapshot_prefix: "{folder}/out/toy" average_loss: 4 random_seed: 3 solver_mode: CPU
"""
