"""Pictures and boxes: annotations, label maps, LMDBs, Caffe's augmentation, and batches."""
