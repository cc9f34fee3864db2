"""One module for each kind of kernel object."""
