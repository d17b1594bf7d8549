"""How hard the phantoms are: AUROC of thumbnails and of a scratch ResNet18 on unseen patients.

    python -m tests.bench.phantom [--threads 2]

The thumbnails should say little (the disease is texture), the network should learn it quickly.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer import phantom
from trainer.film import rules

#: About 700 films to learn from and 450 of other patients to be judged by.
TRAIN_PATIENTS, UNSEEN_PATIENTS = 312, 200

Pixels = NDArray[np.uint8]


def load(
    patients: int, first_patient: int, seed: int, size: int
) -> tuple[Pixels, Pixels, NDArray[np.int64]]:
    """Films at 16 × 16 and at `size` × `size`, and their classes (1 is pneumonia)."""
    small, large, labels = [], [], []
    for item in phantom.films(patients, seed, first_patient):
        small.append(rules.decode(item.data, 16))
        large.append(rules.decode(item.data, size))
        labels.append(phantom.LABELS.index(item.label))
    return np.stack(small), np.stack(large), np.array(labels)


def score_thumbnails(
    train: Pixels, labels: NDArray[np.int64], unseen: Pixels, c: float
) -> NDArray[np.float64]:
    """P(pneumonia) of `unseen` by logistic regression on standardised thumbnails."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
    model.fit(train.reshape(len(train), -1), labels)
    scores: NDArray[np.float64] = model.predict_proba(unseen.reshape(len(unseen), -1))[:, 1]
    return scores


def score_network(
    train: Pixels, labels: NDArray[np.int64], unseen: Pixels, epochs: int, seed: int
) -> NDArray[np.float32]:
    """P(pneumonia) of `unseen` by a ResNet18 trained from random weights."""
    torch.manual_seed(seed)
    net = torchvision.models.resnet18(num_classes=2)
    batch = 32
    steps = epochs * (len(train) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    targets = torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(train))[: len(train) // batch * batch].view(-1, batch):
            images = _images(train[rows.numpy()])  # [B, 3, S, S]
            dy, dx = torch.randint(-4, 5, (2,)).tolist()
            loss = torch.nn.functional.cross_entropy(
                net(images.roll((dy, dx), (2, 3))), targets[rows]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        scores = [net(_images(part)).softmax(1)[:, 1] for part in np.array_split(unseen, 16)]
    return torch.cat(scores).numpy()


def _images(pixels: Pixels) -> torch.Tensor:
    gray = torch.from_numpy(pixels).float().unsqueeze(1) / 255
    return ((gray - 0.45) / 0.25).expand(-1, 3, -1, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-network", "--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    start = time.process_time()
    small, large, labels = load(TRAIN_PATIENTS, 0, options.seed, options.size)
    small_new, large_new, truth = load(UNSEEN_PATIENTS, TRAIN_PATIENTS, options.seed, options.size)
    films = len(labels) + len(truth)
    spent = (time.process_time() - start) / films * 1000
    print(f"{len(labels)} films to train on, {len(truth)} unseen, {spent:.1f} ms each")
    for c in (0.0003, 0.003, 0.03, 1.0):
        auroc = roc_auc_score(truth, score_thumbnails(small, labels, small_new, c))
        print(f"thumbnails 16 × 16, logistic regression C={c}: AUROC {auroc:.3f}")
    if options.no_network:
        return
    clock, processor = time.perf_counter(), time.process_time()
    scores = score_network(large, labels, large_new, options.epochs, options.seed)
    print(
        f"ResNet18 from scratch, {options.size} px, {options.epochs} epochs "
        f"({options.epochs * len(labels)} films): AUROC {roc_auc_score(truth, scores):.3f} "
        f"in {time.perf_counter() - clock:.0f} s ({time.process_time() - processor:.0f} CPU s)"
    )


if __name__ == "__main__":
    main()
