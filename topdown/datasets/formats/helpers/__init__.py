"""What readers of several layouts share."""
