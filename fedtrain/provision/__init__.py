"""The operator's part: a federation's certificates, its members, and the kits of their nodes."""
