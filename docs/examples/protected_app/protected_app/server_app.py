"""protected_app: A Flower / PyTorch app."""

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedtrain.flower import protect_grid  # + fedtrain
from protected_app import task  # + fedtrain
from protected_app.task import Net, load_data
from protected_app.task import test as test_fn

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the ServerApp."""
    # Read run config
    fraction_evaluate = context.run_config["fraction-evaluate"]
    num_rounds = context.run_config["num-server-rounds"]
    lr = context.run_config["learning-rate"]

    # Load global model
    global_model = Net()
    arrays = ArrayRecord(global_model.state_dict())

    # Initialize FedAvg strategy
    strategy = FedAvg(fraction_evaluate=fraction_evaluate)
    grid = protect_grid(grid, task.PROTECTION, folder="~/.fedtrain/protected/server", strategy=strategy)  # + fedtrain

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
        evaluate_fn=global_evaluate,
    )

    # Say how good the final model is
    print("final accuracy", result.evaluate_metrics_serverapp[num_rounds]["accuracy"])
    print("epsilon", grid.close().epsilon)  # + fedtrain


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate model on central data."""
    # Load the model and initialize it with the received weights
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())

    # Evaluate the global model on the test set
    test_loss, test_acc = test_fn(model, load_data(-1, size=1000))
    return MetricRecord({"accuracy": test_acc, "loss": test_loss})
