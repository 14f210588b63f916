"""The mathematics: one step of each network, its losses and its arithmetic. Independent of the config."""
