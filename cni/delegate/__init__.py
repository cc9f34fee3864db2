"""Other plugins' executables: found on CNI_PATH, run, and undone from what was recorded."""
