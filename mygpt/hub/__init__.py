"""From a CHECKPOINT argument to a local folder: found, downloaded or resumed; the default model."""
