"""The VAE: made fast on a GPU, and the one that `--vae` names."""
