"""Nets of YOLO's shapes from their published block definitions, narrow and shallow."""

import torch
from torch import nn


class Conv(nn.Module):
    """Convolution, BatchNorm, SiLU (Conv of YOLOv5 and YOLOv8, BaseConv of YOLOX)."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels, shortcut=True, kernels=(3, 3)):
        super().__init__()
        self.cv1, self.cv2 = (Conv(channels, channels, kernel) for kernel in kernels)
        self.add = shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """YOLOv5's cross stage partial block with three convolutions; CSPLayer of YOLOX."""

    def __init__(self, inputs, outputs, number=1, shortcut=True):
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, (1, 3)) for _ in range(number)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """YOLOv8's: every bottleneck's result is kept."""

    def __init__(self, inputs, outputs, number=1, shortcut=True):
        super().__init__()
        self.c = outputs // 2
        self.cv1 = Conv(inputs, 2 * self.c)
        self.cv2 = Conv((2 + number) * self.c, outputs)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(number))

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.m)
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling by three poolings, one after another."""

    def __init__(self, inputs, outputs, size=5):
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, inputs // 2), Conv(2 * inputs, outputs)
        self.m = nn.MaxPool2d(size, 1, size // 2)

    def forward(self, x):
        x = self.cv1(x)
        y = self.m(x)
        z = self.m(y)
        return self.cv2(torch.cat((x, y, z, self.m(z)), 1))


class Focus(nn.Module):
    """YOLOX's stem: every second pixel in channels of its own."""

    def __init__(self, inputs, outputs, kernel=3):
        super().__init__()
        self.conv = Conv(4 * inputs, outputs, kernel)

    def forward(self, x):
        corners = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(corners, 1))


class Body(nn.Module):
    """Backbone and path aggregation: blobs at strides 8, 16, 32."""

    def __init__(self, stem, block):
        super().__init__()
        self.stem = stem
        self.b1 = nn.Sequential(Conv(8, 16, 3, 2), block(16, 16))
        self.b2 = nn.Sequential(Conv(16, 16, 3, 2), block(16, 16))
        self.b3 = nn.Sequential(Conv(16, 24, 3, 2), block(24, 24))
        self.b4 = nn.Sequential(Conv(24, 32, 3, 2), block(32, 32), SPPF(32, 32))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n3, self.n2 = block(56, 24, shortcut=False), block(40, 16, shortcut=False)
        self.d3, self.d4 = Conv(16, 16, 3, 2), Conv(24, 24, 3, 2)
        self.o3, self.o4 = block(40, 24, shortcut=False), block(56, 32, shortcut=False)

    def forward(self, x):
        p2 = self.b2(self.b1(self.stem(x)))
        p3 = self.b3(p2)
        p4 = self.b4(p3)
        n3 = self.n3(torch.cat((self.up(p4), p3), 1))
        n2 = self.n2(torch.cat((self.up(n3), p2), 1))
        o3 = self.o3(torch.cat((self.d3(n2), n3), 1))
        o4 = self.o4(torch.cat((self.d4(o3), p4), 1))
        return n2, o3, o4


CHANNELS, STRIDES, CLASSES, BINS = (16, 24, 32), (8, 16, 32), 5, 8


def grid(shapes):
    """Centres of cells (2, cells) and their strides (1, cells)."""
    points, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points.append(torch.stack((columns.reshape(-1), rows.reshape(-1))).float())
        strides.append(torch.full((1, height * width), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


class YoloV8(nn.Module):
    """Two branches for each stride; boxes are expectations over bins (distribution focal loss)."""

    outputs = tuple(f"{branch}.{level}" for level in range(3) for branch in ("cv2", "cv3"))

    def __init__(self):
        super().__init__()
        self.body = Body(Conv(3, 8, 3, 2), C2f)
        self.cv2 = nn.ModuleList(self._branch(inputs, 4 * BINS) for inputs in CHANNELS)
        self.cv3 = nn.ModuleList(self._branch(inputs, CLASSES) for inputs in CHANNELS)
        self.dfl = nn.Conv2d(BINS, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(BINS).view(1, BINS, 1, 1)

    @staticmethod
    def _branch(inputs, outputs):
        return nn.Sequential(Conv(inputs, 16, 3), Conv(16, 16, 3), nn.Conv2d(16, outputs, 1))

    def forward(self, x):
        levels = self.body(x)
        maps = [torch.cat((a(p), b(p)), 1) for a, b, p in zip(self.cv2, self.cv3, levels, strict=True)]
        points, strides = grid([m.shape[2:] for m in maps])
        rows = torch.cat([m.view(x.shape[0], 4 * BINS + CLASSES, -1) for m in maps], 2)
        box, scores = rows.split((4 * BINS, CLASSES), 1)
        bins = box.view(x.shape[0], 4, BINS, -1).transpose(2, 1).softmax(1)
        before, after = self.dfl(bins).view(x.shape[0], 4, -1).chunk(2, 1)
        low, high = points + 0.5 - before, points + 0.5 + after
        boxes = torch.cat(((low + high) / 2, high - low), 1) * strides
        return torch.cat((boxes, scores.sigmoid()), 1)


class YoloX(nn.Module):
    """A decoupled head without anchors."""

    outputs = tuple(f"{branch}.{level}" for level in range(3) for branch in ("reg", "obj", "cls"))

    def __init__(self):
        super().__init__()
        self.body = Body(Focus(3, 8), C3)
        self.stems = nn.ModuleList(Conv(inputs, 16) for inputs in CHANNELS)
        self.cls_convs = nn.ModuleList(nn.Sequential(Conv(16, 16, 3), Conv(16, 16, 3)) for _ in CHANNELS)
        self.reg_convs = nn.ModuleList(nn.Sequential(Conv(16, 16, 3), Conv(16, 16, 3)) for _ in CHANNELS)
        self.cls, self.reg, self.obj = (
            nn.ModuleList(nn.Conv2d(16, size, 1) for _ in CHANNELS) for size in (CLASSES, 4, 1)
        )

    def forward(self, x):
        maps = []
        for level, p in enumerate(self.body(x)):
            p = self.stems[level](p)
            scores, boxes = self.cls_convs[level](p), self.reg_convs[level](p)
            parts = self.reg[level](boxes), self.obj[level](boxes).sigmoid(), self.cls[level](scores).sigmoid()
            maps.append(torch.cat(parts, 1))
        points, strides = grid([m.shape[2:] for m in maps])
        rows = torch.cat([m.flatten(2) for m in maps], 2).permute(0, 2, 1)
        points, strides = points.T[None], strides.T[None]
        centres, sizes = (rows[..., :2] + points) * strides, torch.exp(rows[..., 2:4]) * strides
        return torch.cat((centres, sizes, rows[..., 4:]), 2)


ANCHORS = torch.tensor([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]).float()


class YoloV5(nn.Module):
    """Three anchors for each cell."""

    outputs = tuple(f"m.{level}" for level in range(3))

    def __init__(self):
        super().__init__()
        self.body = Body(Conv(3, 8, 6, 2), C3)
        self.body.stem.conv = nn.Conv2d(3, 8, 6, 2, 2, bias=False)
        self.m = nn.ModuleList(nn.Conv2d(inputs, 3 * (5 + CLASSES), 1) for inputs in CHANNELS)

    def forward(self, x):
        found = []
        for level, p in enumerate(self.body(x)):
            y = self.m[level](p)
            number, _, height, width = y.shape
            y = y.view(number, 3, 5 + CLASSES, height, width).permute(0, 1, 3, 4, 2).contiguous()
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cells = torch.stack((columns, rows), 2).expand(1, 3, height, width, 2).float() - 0.5
            sizes = ANCHORS[level].view(1, 3, 1, 1, 2).expand(1, 3, height, width, 2)
            centre, size, scores = y.sigmoid().split((2, 2, CLASSES + 1), 4)
            parts = (centre * 2 + cells) * STRIDES[level], (size * 2) ** 2 * sizes, scores
            found.append(torch.cat(parts, 4).view(number, 3 * height * width, 5 + CLASSES))
        return torch.cat(found, 1)
