"""What a call says (environment, stdin): read and checked once, into typed values."""
