"""Gradients that autograd would not give by itself. The modules here import torch, so layers import them in `forward`."""
