"""What our speed is measured against: other procedures for the same function, over the same parameters."""
