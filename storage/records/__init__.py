"""What else a run keeps: captions, events, lock, weights, steering."""
