weight = None
batch_size = 12
num_worker = 24
mix_prob = 0.8
empty_cache = False
enable_amp = True
epoch = 800
eval_epoch = 100
model = dict(type="DefaultSegmentor", backbone=dict(type="SpUNet-v1m1", in_channels=6))
optimizer = dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.0001)
scheduler = dict(type="OneCycleLR", max_lr=optimizer["lr"], pct_start=0.05)
dataset_type = "ScanNetDataset"
data = dict(num_classes=20, train=dict(type=dataset_type, split="train", loop=1), val=dict(type=dataset_type))
