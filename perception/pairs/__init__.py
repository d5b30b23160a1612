"""Networks that make images and their dense maps together."""
