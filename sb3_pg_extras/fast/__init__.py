"""Only speed: everything here computes what slower code elsewhere does, and knows no algorithm."""
