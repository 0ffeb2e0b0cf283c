"""Training of the encoder and the regressor: pose sampling, domain randomisation, losses, trainer."""
