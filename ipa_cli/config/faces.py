"""What help says of the settings of FaceID adapters."""

NUMBER = "which face of a picture a FaceID adapter follows, counted from the left [default: the largest]"
SHORTCUT = "weight of the face's picture beside its embedding in FaceID-Plus v2 (s_scale) [default: 1, v1 none]"
LORA = "weight of the LoRA inside a FaceID adapter's file; 0 leaves it out"
