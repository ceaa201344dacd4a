"""Data sources, the cache of decoded tensors, and the split over clients."""
