"""The Caffe schema and its files: prototxt text, weights, and upgrades of old formats. No torch here."""
