"""Models compiled ahead of time: the directory that holds one, and how it is read and written."""
