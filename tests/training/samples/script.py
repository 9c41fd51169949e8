import torch
from torch import nn
from torch.utils.data import DataLoader

from project import Net, dataset

model = Net()
loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
for epoch in range(90):
    for images, labels in loader:
        optimizer.zero_grad()
        loss_function(model(images), labels).backward()
        optimizer.step()
