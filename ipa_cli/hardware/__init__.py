"""What this machine is: GPUs, devices, processor cores, time and memory."""
