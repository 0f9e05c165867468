"""The training of the demo model: its data, networks, stages and measures."""
