"""The optimizer that section [round] asks for."""

from convoy_server.optimizers.fed_adam import FedAdam
from convoy_server.optimizers.fed_avg import FedAvg
from convoy_server.optimizers.fed_avg_m import FedAvgM
from convoy_server.optimizers.fed_yogi import FedYogi
from convoy_server.optimizers.server_optimizer import ServerOptimizer
from convoy_server.rounds import RoundConfig


def optimizer_for(config: RoundConfig) -> ServerOptimizer:
    """Build it with the settings that it uses of the section."""
    rate = config.server_learning_rate
    if config.optimizer == "fed_avg":
        return FedAvg(learning_rate=rate)
    if config.optimizer == "fed_avg_m":
        return FedAvgM(learning_rate=rate, momentum=config.server_momentum)
    adaptive = {"beta_1": config.beta_1, "beta_2": config.beta_2, "tau": config.tau}
    if config.optimizer == "fed_adam":
        return FedAdam(learning_rate=rate, **adaptive)
    return FedYogi(learning_rate=rate, **adaptive)
