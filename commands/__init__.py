"""The command line: thin, over the flows for what changes something and over `darkroom` for what only reads."""
