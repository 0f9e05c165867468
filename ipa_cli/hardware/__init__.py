"""This machine: GPUs, devices, processor cores, time and memory."""
