"""`ipa batch`: many jobs from a file, drawn once each, resumable, on one device, several or a Ray cluster."""
