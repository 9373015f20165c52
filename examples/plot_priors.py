"""Draws the priors of each head of a detector, those at the middle of the picture.

python plot_priors.py deploy.prototxt out.png

Only shapes are needed, so nothing is computed by PyTorch.
"""

import sys

import matplotlib.pyplot as plt

from pyscratchdet.layers.plan import plan_net
from pyscratchdet.layers.prior_box import PriorBox

if len(sys.argv) != 3:
    sys.exit(__doc__)
plan = plan_net(sys.argv[1])
heads = [(index, layer) for index, layer in enumerate(plan.layers) if isinstance(layer, PriorBox)]
figure, axes = plt.subplots(1, len(heads), figsize=(3 * len(heads), 3.4), squeeze=False)
for axis, (index, layer) in zip(axes[0], heads, strict=True):
    height, width = plan.bottom_shapes(index)[0][2:]
    priors = layer.priors(plan.bottom_shapes(index))[0, 0].reshape(height, width, -1, 4)
    for xmin, ymin, xmax, ymax in priors[height // 2, width // 2]:
        axis.add_patch(plt.Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, fill=False))
    axis.set(
        title=f"{layer.name}\n{height} x {width}, {priors.shape[2]} each", xlim=(0, 1), ylim=(1, 0), aspect="equal"
    )
    axis.title.set_fontsize(7)
figure.savefig(sys.argv[2], dpi=120, bbox_inches="tight")
print(f"{sys.argv[2]}: {len(heads)} heads")
