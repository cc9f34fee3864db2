"""What every room may import: the error base, the paths of files, typed reading of JSON."""
