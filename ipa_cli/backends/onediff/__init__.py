"""The compilers that OneDiff brings: nexfort and OneFlow."""
