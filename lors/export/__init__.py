"""Export Whisper models for other programs."""
