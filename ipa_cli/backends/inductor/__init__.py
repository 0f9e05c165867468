"""AOTInductor: the UNet as one compiled graph that takes its weights as inputs."""
