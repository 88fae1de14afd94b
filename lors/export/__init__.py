"""Export merged models for other programs; upload them to the Hugging Face Hub."""
