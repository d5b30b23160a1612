"""Training of the small models the project ships: autoencoder, denoiser and captioner of rooms."""
