"""The reference, and the bench that compares."""
