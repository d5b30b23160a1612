"""Learning: steps, moving average, stages, publishing."""
