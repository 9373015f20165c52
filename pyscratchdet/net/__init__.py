"""Nets as graphs: phase rules, Split insertion, connections, what gets a gradient. No torch here."""

from pyscratchdet.net.backward import BackwardPlan, lr_mult, plan_backward
from pyscratchdet.net.graph import Graph, Node, build_graph
from pyscratchdet.net.storage import Storage, plan_storage

__all__ = ["BackwardPlan", "Graph", "Node", "Storage", "build_graph", "lr_mult", "plan_backward", "plan_storage"]
