"""The record of this host's attachments, and the lock on each of them."""
