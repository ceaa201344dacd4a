"""protected_app: A Flower / PyTorch app."""
