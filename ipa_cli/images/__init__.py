"""Reading and writing pictures; input files are untrusted until checked."""
