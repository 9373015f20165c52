"""The original's box algorithms one step after the other, in numpy float32 scalars: slow, and as literal as possible.

The second opinion on pyscratchdet.boxes. Written from bbox_util.cpp and the layers' sources; shares no code with it.
"""

import math

import numpy as np

f32 = np.float32
CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3


def bbox_size(b, normalized=True):
    if b[2] < b[0] or b[3] < b[1]:
        return f32(0)
    width, height = b[2] - b[0], b[3] - b[1]
    return width * height if normalized else (width + f32(1)) * (height + f32(1))


def jaccard(a, b, normalized=True, sizes=None):
    if b[0] > a[2] or b[2] < a[0] or b[1] > a[3] or b[3] < a[1]:
        inter = [f32(0)] * 4
    else:
        inter = [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]
    extra = f32(0 if normalized else 1)
    width, height = inter[2] - inter[0] + extra, inter[3] - inter[1] + extra
    if width > 0 and height > 0:
        size = width * height
        first, second = sizes or (bbox_size(a), bbox_size(b))
        return size / (first + second - size)
    return f32(0)


def encode(box, prior, variance, code, in_target):
    v = [f32(1)] * 4 if in_target else variance
    if code == CENTER_SIZE:
        out = []
        for k in (0, 1):
            size, prior_size = box[k + 2] - box[k], prior[k + 2] - prior[k]
            center, prior_center = (box[k] + box[k + 2]) / f32(2), (prior[k] + prior[k + 2]) / f32(2)
            out.append(((center - prior_center) / prior_size / v[k], math.log(size / prior_size) / float(v[k + 2])))
        return [f32(out[0][0]), f32(out[1][0]), f32(out[0][1]), f32(out[1][1])]
    sizes = [f32(1)] * 4 if code == CORNER else [prior[2] - prior[0], prior[3] - prior[1]] * 2
    return [(box[k] - prior[k]) / sizes[k] / v[k] for k in range(4)]


def decode(loc, prior, variance, code, in_target):
    v = [f32(1)] * 4 if in_target else variance
    if code == CENTER_SIZE:
        out = [None] * 4
        for k in (0, 1):
            size = prior[k + 2] - prior[k]
            center = v[k] * loc[k] * size + (prior[k] + prior[k + 2]) / f32(2)
            length = f32(math.exp(v[k + 2] * loc[k + 2]) * float(size))
            out[k], out[k + 2] = f32(float(center) - float(length) / 2), f32(float(center) + float(length) / 2)
        return out
    sizes = [f32(1)] * 4 if code == CORNER else [prior[2] - prior[0], prior[3] - prior[1]] * 2
    return [prior[k] + v[k] * loc[k] * sizes[k] for k in range(4)]


def match(gts, gt_labels, preds, label, per_prediction, threshold, ignore_cross):
    """MatchBBox: match indices and overlaps."""
    indices, overlaps = [-1] * len(preds), [f32(0)] * len(preds)
    own = [g for g in range(len(gts)) if label == -1 or gt_labels[g] == label]
    if not own:
        return indices, overlaps
    table = {}
    for i, pred in enumerate(preds):
        if ignore_cross and any(x < 0 or x > 1 for x in pred):
            indices[i] = -2
            continue
        for j, g in enumerate(own):
            overlap = jaccard(pred, gts[g])
            if float(overlap) > 1e-6:
                overlaps[i] = max(overlaps[i], overlap)
                table.setdefault(i, {})[j] = overlap
    pool = list(range(len(own)))
    while pool:
        best = (-1, -1, f32(-1))
        for i, row in table.items():
            if indices[i] != -1:
                continue
            for j in pool:
                if j in row and row[j] > best[2]:
                    best = (i, j, row[j])
        if best[0] == -1:
            break
        indices[best[0]], overlaps[best[0]] = own[best[1]], best[2]
        pool.remove(best[1])
    if per_prediction:
        for i, row in table.items():
            if indices[i] != -1:
                continue
            best = (-1, f32(-1))
            for j in range(len(own)):
                if j in row and row[j] >= f32(threshold) and row[j] > best[1]:
                    best = (j, row[j])
            if best[0] != -1:
                indices[i], overlaps[i] = own[best[0]], best[1]
    return indices, overlaps


def nms(boxes, scores, threshold, top_k):
    """ApplyNMS."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    if top_k > -1:
        order = order[:top_k]
    kept = []
    while order:
        best = order.pop(0)
        if bbox_size(boxes[best]) < 1e-5:
            continue
        kept.append(best)
        order = [
            i for i in order if bbox_size(boxes[i]) >= 1e-5 and not jaccard(boxes[best], boxes[i]) > f32(threshold)
        ]
    return kept


def nms_fast(boxes, scores, score_threshold, threshold, eta, top_k):
    """ApplyNMSFast."""
    order = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if scores[i] > f32(score_threshold)]
    if top_k > -1:
        order = order[:top_k]
    kept, adaptive = [], f32(threshold)
    for i in order:
        if all(jaccard(boxes[i], boxes[k]) <= adaptive for k in kept):
            kept.append(i)
            if eta < 1 and adaptive > 0.5:
                adaptive = adaptive * f32(eta)
    return kept


def conf_loss(row, label, logistic):
    """One prior's loss, for ranking."""
    if logistic:
        return sum(
            max(float(x), 0) - float(x) * (c == label) + math.log1p(math.exp(-abs(x))) for c, x in enumerate(row)
        )
    e = np.exp((row - row.max()).astype(np.float64))
    return -math.log(max(e[label] / e.sum(), 1.1754943508222875e-38))


def loc_loss(diff, smooth):
    return sum(0.5 * d * d if not smooth or abs(d) < 1 else abs(d) - 0.5 for d in map(float, diff))


class MultiBoxLoss:
    """The layer on (N, P, L, 4), (N, P, C), priors and variances (P, 4), label rows; loss and gradients in double."""

    def __init__(self, loc, conf, priors, variances, label, p, arm_conf=None, arm_loc=None):
        self.loc, self.conf, self.priors, self.variances, self.p = loc, conf, list(priors), list(variances), p
        self.n, self.num_priors, self.classes = conf.shape
        self.bg = p.get("background_label_id", 0)
        self.arm_conf, self.arm_loc = arm_conf, arm_loc
        self.gts = {}
        for row in label:
            item, cls = int(row[0]), int(row[1])
            if item == -1 or (row[7] and not p.get("use_difficult_gt", True)):
                continue
            cls = 1 if self.classes == 2 and cls >= 2 else cls
            self.gts.setdefault(item, ([], []))
            self.gts[item][0].append([f32(x) for x in row[3:7]])
            self.gts[item][1].append(cls)
        self.share = p.get("share_location", True)
        self.code, self.in_target = p.get("code_type", CENTER_SIZE), p.get("encode_variance_in_target", False)
        self.matches = [self.find(i) for i in range(self.n)]
        self.negs = [[] for _ in range(self.n)]
        if p.get("mining", "MAX_NEGATIVE") != "NONE":
            for i in range(self.n):
                self.mine(i)

    def decoded(self, i, c):
        return [
            decode(self.loc[i, j, c], self.priors[j], self.variances[j], self.code, self.in_target)
            for j in range(self.num_priors)
        ]

    def image_priors(self, i):
        if self.arm_loc is None:
            return self.priors
        return [
            decode(self.arm_loc[i, j], self.priors[j], self.variances[j], self.code, self.in_target)
            for j in range(self.num_priors)
        ]

    def find(self, i):
        """match_indices and overlaps by label, empty without ground truth."""
        if i not in self.gts:
            return {}
        boxes, labels = self.gts[i]
        p = self.p
        rules = (p.get("per_prediction", True), p.get("overlap_threshold", 0.5), p.get("ignore_cross", False))
        if not p.get("use_prior_for_matching", True):
            own = [-1] if self.share else [c for c in range(self.classes) if c != self.bg]
            return {c: match(boxes, labels, self.decoded(i, max(c, 0)), c, *rules) for c in own}
        indices, overlaps = match(boxes, labels, self.image_priors(i), -1, *rules)
        if self.share:
            return {-1: (indices, overlaps)}
        return {
            c: ([m if m > -1 and labels[m] == c else -1 for m in indices], overlaps)
            for c in range(self.classes)
            if c != self.bg
        }

    def pair(self, i, c, j, m, prior):
        """Prediction and target of one matched prior, and which of the four get no gradient."""
        target = encode(self.gts[i][0][m], prior, self.variances[j], self.code, self.in_target)
        pred = list(self.loc[i, j, max(c, 0)])
        dead = [False] * 4
        if self.p.get("bp_inside", False):
            box = prior
            if not self.p.get("use_prior_for_matching", True):
                box = decode(pred, prior, self.variances[j], self.code, self.in_target)
            dead = [x < 0 or x > 1 for x in box]
            pred = [t if d else x for d, t, x in zip(dead, target, pred, strict=True)]
        if self.in_target:
            pred = [x / v for x, v in zip(pred, self.variances[j], strict=True)]
            target = [x / v for x, v in zip(target, self.variances[j], strict=True)]
        return pred, target

    def mine(self, i):
        p, hard = self.p, self.p.get("mining") == "HARD_EXAMPLE"
        logistic, smooth = p.get("logistic", False), p.get("smooth", True)
        if not self.matches[i]:
            return
        indices, overlaps = self.matches[i][-1]
        losses = []
        for j, m in enumerate(indices):
            loss = conf_loss(self.conf[i, j], self.gts[i][1][m] if m > -1 else self.bg, logistic)
            if hard and m > -1:
                pred, target = self.pair(i, -1, j, m, self.priors[j])
                loss += loc_loss([a - b for a, b in zip(pred, target, strict=True)], smooth)
            losses.append(loss)
        able = [
            j
            for j in range(self.num_priors)
            if (hard or (indices[j] == -1 and overlaps[j] < f32(p.get("neg_overlap", 0.5))))
            and (self.arm_conf is None or self.arm_conf[i, j, 1] >= f32(p.get("objectness_score", 0.01)))
        ]
        positives = sum(m > -1 for m in indices)
        number = p.get("sample_size", 64) if hard else int(f32(positives) * f32(p.get("neg_pos_ratio", 3.0)))
        number = min(number, len(able))
        if p.get("nms_threshold", 0) > 0:
            boxes = self.priors if p.get("use_prior_for_nms", False) else self.decoded(i, 0)
            kept = nms([boxes[j] for j in able], [losses[j] for j in able], p["nms_threshold"], p["top_k"])
            chosen = {able[k] for k in kept[:number]}
        else:
            chosen = set(sorted(able, key=lambda j: -losses[j])[:number])
        for j in range(self.num_priors):
            if indices[j] > -1 and hard and j not in chosen:
                indices[j] = -1
            elif indices[j] == -1 and j in chosen:
                self.negs[i].append(j)

    def result(self):
        """Loss sums (location, confidence), number of matches, gradients (loc, conf) of those sums."""
        p = self.p
        loc_sum, conf_sum, number = 0.0, 0.0, 0
        dloc, dconf = np.zeros(self.loc.shape), np.zeros(self.conf.shape)
        logistic, mining = p.get("logistic", False), p.get("mining", "MAX_NEGATIVE") != "NONE"
        rows = []
        whole = np.full(self.n * self.num_priors * (self.classes if logistic else 1), float(self.bg))
        for i in range(self.n):
            refined = self.image_priors(i)
            for c, (indices, _) in sorted(self.matches[i].items()):
                for j, m in enumerate(indices):
                    if m <= -1:
                        continue
                    number += 1
                    pred, target = self.pair(i, c, j, m, refined[j])
                    diff = np.array([float(a - b) for a, b in zip(pred, target, strict=True)])
                    loc_sum += loc_loss(diff, p.get("smooth", True))
                    dloc[i, j, max(c, 0)] = np.clip(diff, -1, 1) if p.get("smooth", True) else diff
                    label = self.bg + 1 if p.get("agnostic", False) else self.gts[i][1][m]
                    rows.append((i, j, label))
                    if logistic:
                        whole[i * self.num_priors + j * self.classes + label] = 1
                    else:
                        whole[i * self.num_priors + j] = label
            rows += [(i, j, self.bg) for j in self.negs[i]]
        if not mining:
            rows = [(i, j, None) for i in range(self.n) for j in range(self.num_priors)]
        for i, j, label in rows:
            scores = self.conf[i, j].astype(np.float64)
            place = i * self.num_priors + j
            if logistic:
                if mining:
                    targets = np.full(self.classes, float(self.bg))
                    if 0 <= label < self.classes:
                        targets[label] = 1
                else:
                    targets = whole[place * self.classes : (place + 1) * self.classes]
                conf_sum += (np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))).sum()
                dconf[i, j] = 1 / (1 + np.exp(-scores)) - targets
            else:
                label = int(whole[place]) if label is None else label
                e = np.exp(scores - scores.max())
                conf_sum += conf_loss(self.conf[i, j], label, False)
                dconf[i, j] = e / e.sum()
                dconf[i, j, label] -= 1
        return loc_sum, conf_sum, number, dloc, dconf


def detection_output(loc, conf, priors, variances, rule, arm_conf=None, arm_loc=None, sort=None):
    """Rows of DetectionOutput for (N, P, L, 4) and (N, P, C); `sort` orders scores for keep_top_k (std::sort)."""
    rows = []
    n, num_priors, classes = conf.shape
    shared = loc.shape[2] == 1
    for i in range(n):
        scores = conf[i].copy()
        if arm_conf is not None:
            low = arm_conf[i, :, 1] < f32(rule["objectness"])
            scores[low] = 0
            scores[low, 0] = 1
        own = list(priors)
        if arm_loc is not None:
            own = [decode(arm_loc[i, j], own[j], variances[j], rule["code"], rule["plain"]) for j in range(num_priors)]
        boxes, kept = {}, []
        for c in range(classes):
            if c == rule["background"]:
                continue
            k = 0 if shared else c
            if k not in boxes:
                boxes[k] = [
                    decode(loc[i, j, k], own[j], variances[j], rule["code"], rule["plain"]) for j in range(num_priors)
                ]
            found = nms_fast(boxes[k], scores[:, c], rule["score"], rule["nms"], rule["eta"], rule["top_k"])
            kept += [(scores[j, c], c, j) for j in found]
        if -1 < rule["keep"] < len(kept):
            kept = [kept[k] for k in sort([score for score, _, _ in kept])[: rule["keep"]]]
            kept = [row for c in range(classes) for row in kept if row[1] == c]
        rows += [[i, c, score, *boxes[0 if shared else c][j]] for score, c, j in kept]
    if not rows:
        return np.array([[i, *[-1] * 6] for i in range(n)], np.float32)
    return np.array(rows, np.float32)
