"""What every room may import: errors, paths of files, typed reading of JSON, formats of output."""
