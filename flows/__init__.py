"""The operations on images: one flow a file, whose lines are the order of its steps."""
