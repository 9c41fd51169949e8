_base_ = ["../_base_/default_runtime.py"]

# over all GPUs
batch_size = 24
num_worker = 48
mix_prob = 0.8
enable_amp = True
find_unused_parameters = True

train = dict(type="MultiDatasetTrainer")

model = dict(
    type="DefaultSegmentor",
    backbone=dict(type="SpUNet-v1m1", in_channels=6, num_classes=20, channels=(32, 64, 96)),
    criteria=[dict(type="CrossEntropyLoss", loss_weight=1.0, ignore_index=-1)],
)

epoch = 100
optimizer = dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.0001, nesterov=True)
scheduler = dict(type="OneCycleLR", max_lr=optimizer["lr"], pct_start=0.05, anneal_strategy="cos")

data = dict(
    num_classes=20,
    ignore_index=-1,
    train=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                type="Structured3DDataset",
                split="train",
                data_root="data/structured3d",
                transform=[
                    dict(type="GridSample", grid_size=0.02, mode="train"),
                    dict(type="Update", keys_dict={"condition": "Structured3D"}),
                ],
                loop=4,
            ),
            dict(
                type="ScanNetDataset",
                split="train",
                data_root="data/scannet",
                transform=[
                    dict(type="GridSample", grid_size=0.02, mode="train"),
                    dict(type="Update", keys_dict={"condition": "ScanNet"}),
                ],
                loop=2,
            ),
            dict(
                type="S3DISDataset",
                split=("Area_1", "Area_2", "Area_3", "Area_4", "Area_6"),
                data_root="data/s3dis",
                transform=[
                    dict(type="GridSample", grid_size=0.02, mode="train"),
                    dict(type="Update", keys_dict={"condition": "S3DIS"}),
                ],
                loop=1,
            ),
        ],
        loop=1,
    ),
    val=dict(type="ScanNetDataset", split="val", data_root="data/scannet"),
)
