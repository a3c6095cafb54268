"""The commands, one a file: each imports the heavy libraries that it needs only when it is called."""
