"""Merged Whisper models in the forms of other programs."""
