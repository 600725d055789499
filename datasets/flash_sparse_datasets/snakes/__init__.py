"""How the images of Pathfinder are drawn: `shapes` of paddles, their `growth` into snakes, whole `images`."""
