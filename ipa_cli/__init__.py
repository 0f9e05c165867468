"""Draw pictures with SDXL and an IP-Adapter, compiled once and reloaded in seconds."""

__version__ = "0.1.0"
