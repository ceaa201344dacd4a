"""The operator's operator: a federation's certificates, its members, and the kits of their nodes."""
