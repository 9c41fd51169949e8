"""The program: what a training script does, followed along its paths without running it."""
