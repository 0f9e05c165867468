"""`ipa bench`: speed, memory, warm-up and parity of the backends, each measured in processes of its own."""
