"""protected_app: A Flower / PyTorch app."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedtrain.flower import ClientPrivacy, Protection, SecAgg  # + fedtrain

PRIVACY = ClientPrivacy(epsilon=8.0, delta=0.01, clip_norm=1.0, cohort=50, rounds=5)  # + fedtrain
PROTECTION = Protection(clients=50, secagg=SecAgg(), client_privacy=PRIVACY)  # + fedtrain


class Net(nn.Module):
    """Model (a linear one, on generated data that needs no network)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        """Return the scores of each class."""
        return self.fc(x)


def load_data(partition_id, batch_size=20, size=60):
    """Generate the records of a partition: ten clouds of points."""
    centers = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    own = torch.Generator().manual_seed(1 + partition_id)
    labels = torch.randint(10, (size,), generator=own)
    points = centers[labels] + 0.8 * torch.randn(size, 16, generator=own)
    return DataLoader(TensorDataset(points, labels), batch_size=batch_size)


def train(net, trainloader, epochs, lr):
    """Train the model on the training set."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for points, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(points), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader):
    """Validate the model on the test set."""
    criterion = nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    net.eval()
    with torch.no_grad():
        for points, labels in testloader:
            outputs = net(points)
            loss += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
