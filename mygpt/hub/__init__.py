"""A CHECKPOINT argument to a local folder: found, downloaded, resumed; the default model."""
