model = dict(type="Detector", backbone=dict(type="ResNet", depth=50, norm_cfg=dict(type="BN", requires_grad=True)))
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="CocoDataset"),
)
val_dataloader = dict(batch_size=1, dataset=dict(type="CocoDataset"))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.02, weight_decay=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=16)
