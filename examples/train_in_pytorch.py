"""Trains a detector in a plain PyTorch loop and saves a caffemodel, which every command and every other Caffe reads.

python train_in_pytorch.py models/own/train.prototxt data/train_lmdb trained.caffemodel --iterations 2000

The net, its priors, its loss and its augmentation are the prototxt's; optimiser, schedule and loop are yours to change.
"""

import argparse
from itertools import count

import torch
from torch.utils.data import DataLoader

import pyscratchdet
from pyscratchdet.data import detection_dataset
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.runtime import copy_weights, save_weights


def training_net(path):
    """Returns the net of a train.prototxt that is given "data" and "label", and the data layer that it had."""
    param = text.read(path, caffe_pb2.NetParameter)
    layer = next(layer for layer in param.layer if layer.type == "AnnotatedData")
    had = caffe_pb2.LayerParameter.FromString(layer.SerializeToString())
    size = had.transform_param.resize_param
    layer.CopyFrom(caffe_pb2.LayerParameter(name="input", type="Input", top=had.top))
    layer.input_param.shape.add(dim=[1, 3, size.height, size.width])
    layer.input_param.shape.add(dim=[1, 1, 1, 8])  # as many rows as a batch has objects
    return pyscratchdet.build_net(param, "TRAIN"), had


def batches(dataset, batch_size, workers):
    """Yields (pictures, label rows) without end; each round over the data is shuffled and augmented afresh."""
    for dataset.epoch in count():
        yield from DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, collate_fn=dataset.collate
        )


def train(arguments):
    """Trains, and returns the losses."""
    torch.manual_seed(arguments.seed)
    net, layer = training_net(arguments.prototxt)
    if arguments.weights:
        copy_weights(net, arguments.weights)
    dataset = detection_dataset(arguments.lmdb, rows=True, augment=layer, seed=arguments.seed)
    mean = torch.tensor(layer.transform_param.mean_value).view(-1, 1, 1)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, arguments.lr, momentum=0.9, weight_decay=0.0005)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, arguments.iterations)
    losses = []
    for pictures, labels in batches(dataset, arguments.batch_size, arguments.workers):
        outputs = net({layer.top[0]: pictures - mean, layer.top[1]: labels})
        loss = sum(output.sum() for output in outputs.values())  # MultiBoxLoss; RefineDet has two
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            print(f"iteration {len(losses)}, loss {sum(losses[-20:]) / 20:.3f}", flush=True)
        if len(losses) == arguments.iterations:
            break
    save_weights(net, arguments.output)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prototxt", help="train.prototxt, as `pyscratchdet generate` writes it")
    parser.add_argument("lmdb", help="AnnotatedDatum LMDB to train on")
    parser.add_argument("output", help="caffemodel to write")
    parser.add_argument("--weights", help="caffemodel to start from")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())
