"""The result of an ADD: as values, as JSON of every version, and read back."""
