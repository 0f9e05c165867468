"""`ipa serve`: a loaded engine behind HTTP."""
