"""Whisper, fine-tuned by ESPnet's trainer."""
