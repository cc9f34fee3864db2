"""`flatmesh bench`: what is measured, how, and what is made of the figures."""
