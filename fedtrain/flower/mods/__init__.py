"""Client mods: what a client does to each message before and after the application."""
