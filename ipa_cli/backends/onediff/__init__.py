"""nexfort, the compiler that OneDiff brings."""
