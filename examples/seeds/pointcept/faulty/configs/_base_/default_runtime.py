weight = None
resume = False
evaluate = True
test_only = False

seed = None
num_worker = 16  # over all GPUs
batch_size = 16  # over all GPUs
batch_size_val = None  # one sample for each GPU
epoch = 100
eval_epoch = 100

sync_bn = False
enable_amp = False
empty_cache = False
find_unused_parameters = False

mix_prob = 0
param_dicts = None

hooks = [
    dict(type="CheckpointLoader"),
    dict(type="SemSegEvaluator"),
    dict(type="CheckpointSaver", save_freq=None),
]

train = dict(type="DefaultTrainer")
test = dict(type="SemSegTester", verbose=True)
