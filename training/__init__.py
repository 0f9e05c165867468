"""How the demo model is made: its data, its networks, its training and its measures."""
