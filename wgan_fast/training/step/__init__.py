"""The mathematics: one step of each network, its losses and its arithmetic. Knows no config."""
