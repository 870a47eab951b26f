"""What a person sees of a conversation: slash commands, answers as they come, a line editor."""
