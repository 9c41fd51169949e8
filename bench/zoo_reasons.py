"""Why each finding in the model zoos is true: found by reading the model's code, and by running it where noted.

The key is a rule's code and the file that builds the layer; the file is empty for informational findings, whose reason
is the same everywhere.
"""

REASONS: dict[tuple[str, str], str] = {
    ("BN106", "timm/models/csatv2.py"): (
        "True. `SpatialTransformerBlock` works on one channel and normalises it with `nn.LayerNorm(1)`, which gives "
        "its bias whatever the input. Run on real tensors, both norms returned one constant, and what the attention "
        "adds to its input was the same for every sample to 1e-7: the block learns a fixed 7 x 7 map and no attention."
    ),
}
