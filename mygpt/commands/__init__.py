"""The commands, a thin file each: parse options, load, decode, print."""
