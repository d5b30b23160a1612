"""Task decoders: the adapter's pyramid becomes a dense prediction."""
