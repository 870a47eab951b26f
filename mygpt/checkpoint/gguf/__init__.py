"""GGUF files: the header, the tensors by their Hugging Face names, the tokenizer."""
