"""What passes between the parts: configuration, samples, manifests, units, weights, errors."""
