"""One thin file a command: options in, load, decode, print."""
