"""Where models come from and what they are: places, files, weights, architectures, schedulers."""
