"""Gradients that autograd would not give by itself; these modules import torch, so layers import them in `forward`."""
