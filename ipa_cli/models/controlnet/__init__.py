"""ControlNets: what a file or folder holds, whether it fits the model, and its weights."""
