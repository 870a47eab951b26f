"""Text: tokenizers, chat templates, stop strings."""
