"""IP-Adapter files: found, told by their tensors, and matched with a UNet and an image encoder."""
