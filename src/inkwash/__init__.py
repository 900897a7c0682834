"""inkwash trains, explains, evaluates and serves image diffusion models."""
