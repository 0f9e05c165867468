"""Files, child processes and signals, as safe as a foreign folder needs them."""
