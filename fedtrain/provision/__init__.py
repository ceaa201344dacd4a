"""The operator's desk: a federation's certificates, its members, and the kits of their nodes."""
