"""Prompts from text to what the text encoders read: syntax, chunks, textual inversion."""
