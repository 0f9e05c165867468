"""OneFlow, OneDiff's older compiler, as PyPI has it and without onediff."""
