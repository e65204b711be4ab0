"""What every offline algorithm shares."""
