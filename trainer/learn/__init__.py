"""Learning: networks, losses, schedules, and the engine that does one update with them."""
