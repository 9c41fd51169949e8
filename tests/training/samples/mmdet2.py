samples = 2
model = dict(type="FasterRCNN", backbone=dict(type="ResNet", norm_cfg=dict(type="BN", requires_grad=True)))
data = dict(samples_per_gpu=samples, workers_per_gpu=2, train=dict(type="CocoDataset"))
optimizer = dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy="step", step=[8, 11])
runner = dict(type="EpochBasedRunner", max_epochs=12)
auto_scale_lr = dict(enable=False, base_batch_size=16)
