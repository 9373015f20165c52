"""From pictures to boxes: the Detector, where pictures come from, and what becomes of the detections."""
