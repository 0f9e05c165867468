"""Files, child processes and signals, safe in a working directory that somebody else made."""
