"""The UNet with the adapters' attention in it."""
