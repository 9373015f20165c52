"""Importing this makes the small form of the experiments tiny, in whichever process does so."""

from pyscratchdet.experiments import mini, pretraining

mini.SIZE, mini.BATCH, mini.ITERATIONS = 32, 2, 20
pretraining.ITERATIONS, pretraining.BATCH, pretraining._TRAIN, pretraining._TEST = 3, 4, 6, 6


def nothing(job, result):
    """Says nothing about a job."""
