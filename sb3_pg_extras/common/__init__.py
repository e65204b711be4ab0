"""What more than one algorithm uses and no library has."""
