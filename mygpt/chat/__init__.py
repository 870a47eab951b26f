"""Conversations, and the session of `mygpt chat` in a terminal."""
