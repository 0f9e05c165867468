"""LoRA files: where they are, what they change, and how it is merged into a model."""
