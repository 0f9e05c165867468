"""The Python API: open a model, draw with it; every setting has the name of its flag."""
