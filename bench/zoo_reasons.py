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
    ("BN205", ""): (
        "True: parts of one model are built with different values. In torchvision the MobileNetV3 backbones set eps "
        "and momentum and the segmentation heads keep the defaults; in timm's `coatnet_bn_0_rw_224` the convolution "
        "stages have eps 1e-5 and the transformer stages 1e-6; in its EfficientViT-L models the body has eps 1e-7 and "
        "the head 1e-5. It harms none of them, hence information."
    ),
    ("BN701", ""): (
        "True: batch norm subtracts the bias of the layer before it again. For each line that builds such a layer, one "
        "model (of RAFT its encoder) was run in float64 with these biases shifted at random: its training output "
        "stayed the same to 1e-12."
    ),
    ("BN705", ""): (
        "True: in ViTamin `norm2` of a block feeds `mlp`, and `GeGluMlp` begins with a LayerNorm of its own."
    ),
}
