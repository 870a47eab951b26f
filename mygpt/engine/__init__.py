"""From prompt ids to new tokens and text: sampling, speculation, the decode loop, detokenization."""
