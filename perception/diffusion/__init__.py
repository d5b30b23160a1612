"""The frozen diffusion model: noise schedule, halfway synthesis and feature maps."""
