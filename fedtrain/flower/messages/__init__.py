"""What server and clients say to each other, as typed messages and as Flower's records."""
