"""What type checkers are to see; nothing in here is executed."""
