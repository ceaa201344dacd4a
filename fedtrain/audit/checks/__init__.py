"""What an audit checks: each check takes the evidence and returns what it found."""
