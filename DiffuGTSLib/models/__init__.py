"""Model packages: catalogue, card, store, install, convert, load, save."""
