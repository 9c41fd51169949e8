"""Script: the training facts that stand in an ordinary training script, read from its syntax tree."""
