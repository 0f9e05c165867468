"""`--server`: what `ipa generate` does, drawn by a running `ipa serve`."""
