"""What updates the weights: `embedded` (one process, one device). Each needs the extra `trainer`."""
