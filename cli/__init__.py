"""The operator's `flatmesh` command."""
