"""The Flower ClientApp: wiring of the library at a client."""
